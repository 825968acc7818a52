"""Made-up sentences in twenty languages, from lists of subjects, verbs, objects and endings."""

from __future__ import annotations

import random

#: Subjects, verbs, objects and endings (in the language's order), and the word for "and", by language (two letters).
_WORDS: dict[str, tuple[str, str, str, str, str]] = {
    "en": (
        "the river|an old clock|my neighbour|the orchestra|a small bird|the captain|every student|the quiet city",
        "carries|remembers|follows|slowly answers|paints|measures|never forgets|opens|repairs|listens to",
        "the morning light|a broken radio|seven letters|the northern road|some warm bread|a distant song|four green boxes",
        "before the rain|at half past nine|without a word|for the first time|near the harbour|every winter|with great joy",
        "and",
    ),
    "de": (
        "der alte Fluss|meine Nachbarin|ein kleiner Vogel|das Orchester|der Lehrer|jede Stadt",
        "sucht|vergisst|malt|öffnet|hört|begleitet|zählt",
        "das warme Brot|sieben Briefe|ein fernes Lied|die lange Straße|zwölf Bücher|das Morgenlicht",
        "vor dem Regen|um halb neun|ohne ein Wort|zum ersten Mal|am Hafen|jeden Winter",
        "und",
    ),
    "fr": (
        "la rivière|ma voisine|un petit oiseau|le capitaine|chaque élève|la vieille horloge",
        "regarde|oublie|dessine|ouvre|écoute|répare|suit",
        "la lumière du matin|sept lettres|une chanson lointaine|la route du nord|du pain chaud|douze livres",
        "avant la pluie|à neuf heures|sans un mot|pour la première fois|près du port|chaque hiver",
        "et",
    ),
    "es": (
        "el río|mi vecina|un pájaro pequeño|el capitán|cada alumno|el viejo reloj",
        "mira|olvida|pinta|abre|escucha|repara|sigue",
        "la luz de la mañana|siete cartas|una canción lejana|el camino del norte|pan caliente|doce libros",
        "antes de la lluvia|a las nueve|sin una palabra|por primera vez|cerca del puerto|cada invierno",
        "y",
    ),
    "it": (
        "il fiume|la mia vicina|un piccolo uccello|il capitano|ogni studente|il vecchio orologio",
        "guarda|dimentica|dipinge|apre|ascolta|ripara|segue",
        "la luce del mattino|sette lettere|una canzone lontana|la strada del nord|il pane caldo|dodici libri",
        "prima della pioggia|alle nove|senza una parola|per la prima volta|vicino al porto|ogni inverno",
        "e",
    ),
    "pl": (
        "stara rzeka|moja sąsiadka|mały ptak|kapitan|każdy uczeń|nasz zegar",
        "widzi|zapomina|maluje|otwiera|słyszy|naprawia",
        "siedem listów|ciepły chleb|daleki las|nowy most|dwanaście okien",
        "przed deszczem|o dziewiątej|bez słowa|po raz pierwszy|w porcie|każdej zimy",
        "i",
    ),
    "nl": (
        "de rivier|mijn buurvrouw|een kleine vogel|de kapitein|elke leerling|de oude klok",
        "ziet|vergeet|schildert|opent|hoort|volgt",
        "het ochtendlicht|zeven brieven|een ver lied|de lange weg|warm brood|twaalf boeken",
        "voor de regen|om half negen|zonder een woord|voor het eerst|bij de haven|elke winter",
        "en",
    ),
    "sv": (
        "floden|min granne|en liten fågel|kaptenen|varje elev|den gamla klockan",
        "ser|glömmer|målar|öppnar|hör|följer",
        "morgonljuset|sju brev|en avlägsen sång|den långa vägen|varmt bröd|tolv böcker",
        "före regnet|klockan nio|utan ett ord|för första gången|vid hamnen|varje vinter",
        "och",
    ),
    "pt": (
        "o rio|a minha vizinha|um pequeno pássaro|o capitão|cada aluno|o velho relógio",
        "vê|esquece|pinta|abre|escuta|segue",
        "a luz da manhã|sete cartas|uma canção distante|a estrada do norte|pão quente|doze livros",
        "antes da chuva|às nove horas|sem uma palavra|pela primeira vez|perto do porto|todos os invernos",
        "e",
    ),
    "cs": (
        "stará řeka|můj soused|malý pták|kapitán|každý žák|tichý orchestr|nová lampa",
        "hledá|maluje|otevírá|slyší|opravuje|počítá|vidí",
        "sedm dopisů|teplý chléb|vzdálený les|dlouhou cestu|dvanáct oken|ranní světlo",
        "před deštěm|v půl desáté|beze slova|poprvé|u přístavu|každou zimu",
        "a",
    ),
    "fi": (
        "vanha joki|naapurini|pieni lintu|kapteeni|jokainen oppilas|hiljainen orkesteri",
        "etsii|maalaa|avaa|kuulee|korjaa|laskee|näkee",
        "seitsemän kirjettä|lämpimän leivän|kaukaisen laulun|pitkän tien|kaksitoista kirjaa|aamun valon",
        "ennen sadetta|puoli kymmeneltä|ilman sanoja|ensimmäistä kertaa|sataman lähellä|joka talvi",
        "ja",
    ),
    "ca": (
        "el riu|la meva veïna|un ocell petit|el capità|cada alumne|el vell rellotge",
        "mira|oblida|pinta|obre|escolta|repara|segueix",
        "la llum del matí|set cartes|una cançó llunyana|el camí del nord|el pa calent|dotze llibres",
        "abans de la pluja|a les nou|sense cap paraula|per primera vegada|a prop del port|cada hivern",
        "i",
    ),
    "ru": (
        "старая река|моя соседка|маленькая птица|капитан|каждый ученик|тихий оркестр",
        "ищет|рисует|открывает|слышит|чинит|считает|видит",
        "семь писем|тёплый хлеб|далёкую песню|долгую дорогу|двенадцать книг|утренний свет",
        "перед дождём|в половине десятого|без единого слова|впервые|у самой гавани|каждую зиму",
        "и",
    ),
    "da": (
        "den gamle flod|min nabo|en lille fugl|kaptajnen|hver elev|det stille orkester",
        "ser|glemmer|maler|åbner|hører|følger",
        "syv breve|det varme brød|en fjern sang|den lange vej|tolv bøger|morgenlyset",
        "før regnen|klokken ni|uden et ord|for første gang|ved havnen|hver vinter",
        "og",
    ),
    "nb": (
        "den gamle elven|naboen min|en liten fugl|kapteinen|hver elev|det stille orkesteret",
        "ser|glemmer|maler|åpner|hører|følger",
        "sju brev|det varme brødet|en fjern sang|den lange veien|tolv bøker|morgenlyset",
        "før regnet|klokka ni|uten et ord|for første gang|ved havna|hver vinter",
        "og",
    ),
    "hu": (
        "az öreg folyó|a szomszédom|egy kis madár|a kapitány|minden diák|a csendes zenekar",
        "keres|fest|kinyit|hall|javít|számol|lát",
        "hét levelet|meleg kenyeret|egy távoli dalt|tizenkét könyvet|négy zöld dobozt",
        "az eső előtt|fél tízkor|szó nélkül|először|a kikötőnél|minden télen",
        "és",
    ),
    "ro": (
        "râul vechi|vecina mea|o pasăre mică|căpitanul|fiecare elev|ceasul nostru",
        "vede|uită|pictează|deschide|ascultă|repară",
        "lumina dimineții|șapte scrisori|un cântec îndepărtat|drumul lung|pâinea caldă|douăsprezece cărți",
        "înainte de ploaie|la ora nouă|fără un cuvânt|pentru prima dată|lângă port|în fiecare iarnă",
        "și",
    ),
    "tr": (
        "eski nehir|komşum|küçük bir kuş|kaptan|her öğrenci|sessiz orkestra",
        "sabah ışığını|yedi mektubu|sıcak ekmeği|uzak bir şarkıyı|uzun yolu|on iki kitabı",
        "yağmurdan önce|saat dokuzda|tek kelime etmeden|ilk kez|limanın yanında|her kış",
        "arıyor|boyuyor|açıyor|duyuyor|sayıyor|görüyor",
        "ve",
    ),
    "el": (
        "το παλιό ποτάμι|η γειτόνισσά μου|ένα μικρό πουλί|ο καπετάνιος|κάθε μαθητής|η ορχήστρα",
        "βλέπει|ξεχνά|ζωγραφίζει|ανοίγει|ακούει|μετράει",
        "το φως του πρωινού|επτά γράμματα|ζεστό ψωμί|ένα μακρινό τραγούδι|τον μεγάλο δρόμο|δώδεκα βιβλία",
        "πριν από τη βροχή|στις εννέα|χωρίς λόγια|για πρώτη φορά|κοντά στο λιμάνι|κάθε χειμώνα",
        "και",
    ),
    "id": (
        "sungai tua itu|tetangga saya|seekor burung kecil|sang kapten|setiap murid|orkes itu",
        "melihat|melupakan|melukis|membuka|mendengar|menghitung",
        "cahaya pagi|tujuh surat|roti hangat|lagu yang jauh|jalan panjang|dua belas buku",
        "sebelum hujan|pukul sembilan|tanpa sepatah kata|untuk pertama kali|di dekat pelabuhan|setiap tahun",
        "dan",
    ),
}
LANGUAGES = tuple(_WORDS)


def sentences(rng: random.Random, count: int, language: str = "en") -> str:
    """A few made-up sentences in a language (two letters): plain, without an ending, or two joined by "and"."""
    *lists, conjunction = (words.split("|") for words in _WORDS[language])

    def clause(parts: int) -> str:
        return " ".join(rng.choice(words) for words in lists[:parts])

    made = []
    for _ in range(count):
        form = rng.random()
        sentence = clause(4)
        if form < 0.2:
            sentence += f", {conjunction[0]} {clause(4)}"
        elif form < 0.3:
            sentence = f"{rng.choice(lists[0])}, {rng.choice(lists[0])} {conjunction[0]} {sentence}"
        made.append(sentence[0].upper() + sentence[1:] + rng.choice("...?!"))
    return " ".join(made)
