"""Seeded speech from the `espeak-ng` program: random sentences in nine languages, many voices, pitches and speeds."""

from __future__ import annotations

import math
import random
import tempfile
from pathlib import Path

import torch

from duotone.audio.compose import Split
from duotone.audio.files import read
from duotone.audio.midi import require_program, run_program
from duotone.audio.waveform import Waveform
from duotone.errors import UsageError

#: Voices of espeak-ng (language+variant) by split; no voice and no variant stands in both. Plain "en-gb"
#: and "fr-fr" stand alone because espeak-ng ignores their variants: "en-gb+f4" is the very voice of "en-gb".
VOICES: dict[Split, tuple[str, ...]] = {
    "train": (
        "en-us+m1", "en-us+f1", "en-gb", "en-us+f2", "de+m2", "de+f3", "fr-fr", "es+m4", "it+m5", "pl+f5",
        "en-us+steph", "en-us+edward", "de+adam", "es+anika", "it+belinda", "pl+victor",
    ),
    "heldout": ("en-us+m7", "en-us+Annie", "nl+m6", "sv+linda", "pt+m8", "en-us+Alicia"),
}  # fmt: skip
#: Subjects, verbs, objects and endings of each language's sentences.
_WORDS: dict[str, tuple[str, str, str, str]] = {
    "en": (
        "the river|an old clock|my neighbour|the orchestra|a small bird|the captain|every student|the quiet city",
        "carries|remembers|follows|slowly answers|paints|measures|never forgets|opens|repairs|listens to",
        "the morning light|a broken radio|seven letters|the northern road|some warm bread|a distant song|four green boxes",
        "before the rain|at half past nine|without a word|for the first time|near the harbour|every winter|with great joy",
    ),
    "de": (
        "der alte Fluss|meine Nachbarin|ein kleiner Vogel|das Orchester|der Lehrer|jede Stadt",
        "sucht|vergisst|malt|öffnet|hört|begleitet|zählt",
        "das warme Brot|sieben Briefe|ein fernes Lied|die lange Straße|zwölf Bücher|das Morgenlicht",
        "vor dem Regen|um halb neun|ohne ein Wort|zum ersten Mal|am Hafen|jeden Winter",
    ),
    "fr": (
        "la rivière|ma voisine|un petit oiseau|le capitaine|chaque élève|la vieille horloge",
        "regarde|oublie|dessine|ouvre|écoute|répare|suit",
        "la lumière du matin|sept lettres|une chanson lointaine|la route du nord|du pain chaud|douze livres",
        "avant la pluie|à neuf heures|sans un mot|pour la première fois|près du port|chaque hiver",
    ),
    "es": (
        "el río|mi vecina|un pájaro pequeño|el capitán|cada alumno|el viejo reloj",
        "mira|olvida|pinta|abre|escucha|repara|sigue",
        "la luz de la mañana|siete cartas|una canción lejana|el camino del norte|pan caliente|doce libros",
        "antes de la lluvia|a las nueve|sin una palabra|por primera vez|cerca del puerto|cada invierno",
    ),
    "it": (
        "il fiume|la mia vicina|un piccolo uccello|il capitano|ogni studente|il vecchio orologio",
        "guarda|dimentica|dipinge|apre|ascolta|ripara|segue",
        "la luce del mattino|sette lettere|una canzone lontana|la strada del nord|il pane caldo|dodici libri",
        "prima della pioggia|alle nove|senza una parola|per la prima volta|vicino al porto|ogni inverno",
    ),
    "pl": (
        "stara rzeka|moja sąsiadka|mały ptak|kapitan|każdy uczeń|nasz zegar",
        "widzi|zapomina|maluje|otwiera|słyszy|naprawia",
        "siedem listów|ciepły chleb|daleki las|nowy most|dwanaście okien",
        "przed deszczem|o dziewiątej|bez słowa|po raz pierwszy|w porcie|każdej zimy",
    ),
    "nl": (
        "de rivier|mijn buurvrouw|een kleine vogel|de kapitein|elke leerling|de oude klok",
        "ziet|vergeet|schildert|opent|hoort|volgt",
        "het ochtendlicht|zeven brieven|een ver lied|de lange weg|warm brood|twaalf boeken",
        "voor de regen|om half negen|zonder een woord|voor het eerst|bij de haven|elke winter",
    ),
    "sv": (
        "floden|min granne|en liten fågel|kaptenen|varje elev|den gamla klockan",
        "ser|glömmer|målar|öppnar|hör|följer",
        "morgonljuset|sju brev|en avlägsen sång|den långa vägen|varmt bröd|tolv böcker",
        "före regnet|klockan nio|utan ett ord|för första gången|vid hamnen|varje vinter",
    ),
    "pt": (
        "o rio|a minha vizinha|um pequeno pássaro|o capitão|cada aluno|o velho relógio",
        "vê|esquece|pinta|abre|escuta|segue",
        "a luz da manhã|sete cartas|uma canção distante|a estrada do norte|pão quente|doze livros",
        "antes da chuva|às nove horas|sem uma palavra|pela primeira vez|perto do porto|todos os invernos",
    ),
}


def sentences(rng: random.Random, count: int, language: str = "en") -> str:
    """A few made-up sentences in a language (two letters)."""
    lists = [words.split("|") for words in _WORDS[language]]
    made = (" ".join(rng.choice(words) for words in lists) for _ in range(count))
    return " ".join(sentence[0].upper() + sentence[1:] + rng.choice("...?!") for sentence in made)


def _utter(program: str, rng: random.Random, voice: str, rate: int) -> Waveform:
    """A sentence or two by one voice, mono."""
    pitch, speed, gap = rng.randint(20, 80), rng.randint(115, 210), rng.randint(0, 4)
    with tempfile.TemporaryDirectory(prefix="duotone-") as folder:
        text, out = Path(folder) / "text.txt", Path(folder) / "speech.wav"
        text.write_text(sentences(rng, rng.randint(1, 3), voice[:2]), encoding="utf-8")
        options = ["-v", voice, "-p", str(pitch), "-s", str(speed), "-g", str(gap), "-w", str(out), "-f", str(text)]
        run_program([program, *options])
        return read(out).to_channels(1).resample(rate)


def speak(seed: int, seconds: float = 20.0, split: Split = "train", rate: int = 48_000) -> tuple[Waveform, str]:
    """Exactly `seconds` of one speaker, with a random stereo position for each utterance; and the voice's name.

    Raises `AudioError` without espeak-ng, `UsageError` for a length or split that cannot be.
    """
    if split not in VOICES:
        raise UsageError(f"There is no split {split!r}. There are: {', '.join(VOICES)}.")
    if not 0 < seconds <= 3600:
        raise UsageError(f"{seconds} seconds of speech were asked for; give a length above 0 and up to 3600.")
    program = require_program("espeak-ng", "espeak-ng")
    rng = random.Random(f"duotone/speech/{split}/{seed}")
    voice = rng.choice(VOICES[split])
    out = torch.zeros(2, max(1, round(seconds * rate)))
    now = round(rng.uniform(0, 0.3) * rate)
    while now < out.shape[1]:
        said = _utter(program, rng, voice, rate).samples[0, : out.shape[1] - now]
        angle = rng.uniform(0.15, 0.85) * math.pi / 2  # equal power
        out[0, now : now + len(said)] = math.cos(angle) * said
        out[1, now : now + len(said)] = math.sin(angle) * said
        now += len(said) + round(rng.uniform(0.1, 0.5) * rate)
    return Waveform(out, rate), voice
