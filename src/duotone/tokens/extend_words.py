"""Audio in text tokenizers whose files hold no merges: WordPiece (BERT) and Unigram (T5, XLM-R, ALBERT).

The search of these models cannot give the result of merges. WordPiece takes the longest word. Unigram takes the cuts with
the highest sum of scores s. With the merges ``a a`` and then ``b a``, ``ba`` becomes one token, which needs
``s(ba) > s(b) + s(a)``; but ``baaa`` becomes ``b aa a`` and not ``ba aa``, which needs ``s(b) + s(a) > s(ba)``.

The normalizer can. It first writes a mark after each code. Then, merge by merge in the order of training, it removes the
mark between the two parts of the merge. A merge makes a token that only later merges use, so applying them one after the
other is the same as always applying the earliest that fits. In the end one token of the trained BPE stands before each
mark, and the vocabulary contains these words: token and mark. A text can be cut into them in one way only: any other cut
has a piece that is not in the vocabulary, which WordPiece does not take and Unigram scores below its worst word.

    A<mark>B<mark>C<mark>  --  A and B were merged: no mark between them  ->  AB<mark>C<mark>

This takes a pass over the text for each merge, in Rust. `load_text_tokenizer` needs no such passes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

from duotone.errors import UsageError
from duotone.tokens.alphabet import Alphabet
from duotone.tokens.extend_parts import Part, add_words, replacing, split, steps, unprepended
from duotone.tokens.tokenizer import AudioTokenizer

KINDS = ("WordPiece", "Unigram")


def mark_of(alphabet: Alphabet) -> str:
    """The private character that is written after each audio token: one that the alphabet does not use."""
    return "\U0010fffd" if alphabet.ranges[-1][1] <= 0xF8FF else "\uf8fe"


def extend_words(document: Part, audio: AudioTokenizer, tokens: Sequence[str]) -> list[str]:
    """Add audio to a WordPiece or Unigram tokenizer; returns how its vocabulary spells each token. Raises `UsageError`."""
    alphabet, mark = audio.alphabet, mark_of(audio.alphabet)
    spelt = [token + mark for token in tokens]
    _check(document["model"], audio, spelt)
    add_words(document, spelt)
    before: list[Part] = []
    for step in unprepended(document.get("normalizer"), alphabet.regex):
        if step["type"] == "BertNormalizer" and step.get("clean_text", True):  # it would remove private characters
            before += _cleaning({*alphabet.points.tolist(), ord(mark)})
            step = {**step, "clean_text": False}
        before.append(step)
    merging = {
        "type": "Sequence",
        "normalizers": [replacing(f"(?<={alphabet.regex})", mark), *_merging(audio, spelt, mark)],
    }
    document["normalizer"] = {"type": "Sequence", "normalizers": [*before, merging]}
    cuts = steps(document.get("pre_tokenizer"))
    spaces = [space for step in cuts if (space := _prepended(step)) is not None]
    word = f"{alphabet.regex}+{mark}"
    cuts = [split(word), *cuts, *(split(f"\\A{space}(?={word})", "Removed") for space in spaces)]
    document["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": cuts}
    document["decoder"] = _decoder(document.get("decoder"), alphabet, mark)
    return spelt


def without_merging(document: Part) -> Part:
    """The document for text in which audio is already marked: its normalizer without the passes for merges."""
    normalizer = document["normalizer"]
    return {**document, "normalizer": {**normalizer, "normalizers": normalizer["normalizers"][:-1]}}


def _check(model: dict[str, Any], audio: AudioTokenizer, spelt: Sequence[str]) -> None:
    """Raise `UsageError` for audio tokenizers that could not be reproduced exactly."""
    if len(set(spelt)) < len(spelt):
        raise UsageError(
            "Two tokens of the audio tokenizer are spelt alike, and a vocabulary of words cannot tell them apart. Train "
            "it with duotone tokens train."
        )
    longest, room = max(map(len, spelt)), model.get("max_input_chars_per_word")
    if room is not None and longest > room:
        raise UsageError(
            f"The longest audio token has {longest - 1} codes, but this WordPiece reads words of at most {room} "
            f"characters, one of them a mark. Train the audio tokenizer with --max-token-codebook-ngrams "
            f"{max(1, (room - 1) // audio.alphabet.codebooks)} or less."
        )


def _merging(audio: AudioTokenizer, spelt: Sequence[str], mark: str) -> Iterable[Part]:
    """The steps for each merge, in order. They remove only the mark, so that offsets stay right.

    A merge of two equal tokens needs three steps: in ``aaa`` the second a could be taken for the first of another pair, so
    pairs are first marked from the left by a mark of their own.
    """
    start, pair = f"(?<!{audio.alphabet.regex})", chr(ord(mark) - 1)
    for a, b in zip(audio.merges.left.tolist(), audio.merges.right.tolist(), strict=True):
        first, second = spelt[a][:-1], spelt[b][:-1]
        if a != b:
            yield replacing(f"{start}{first}\\K{mark}(?={second}{mark})", "")
            continue
        yield replacing(f"{start}{first}{mark}{first}\\K{mark}", pair)
        yield replacing(f"{start}{first}\\K{mark}(?={first}{pair})", "")
        yield replacing(pair, mark)


def _prepended(step: Part) -> str | None:
    """The text that a pre-tokenizer writes before each piece, also of audio."""
    if step["type"] != "Metaspace":
        return None
    scheme = step.get("prepend_scheme") or ("always" if step.get("add_prefix_space", True) else "never")
    return None if scheme == "never" else str(step["replacement"])


def _decoder(decoder: Part | None, alphabet: Alphabet, mark: str) -> Part:
    """The old decoder, with a step that removes the marks, and WordPiece's space before each word, from audio."""
    if decoder is None:  # tokens joined with spaces, which is what this one does without its prefix
        decoder = {"type": "WordPiece", "prefix": mark + mark, "cleanup": False}
    found = steps(decoder)
    place = max((i + 1 for i, step in enumerate(found) if step["type"] == "WordPiece"), default=0)
    unmark = replacing(f"\\A (?={alphabet.regex})|{mark}", "")
    return {"type": "Sequence", "decoders": [*found[:place], unmark, *found[place:]]}


def _cleaning(kept: set[int]) -> list[Part]:
    """What BertNormalizer's clean_text does, as replacements that keep some characters."""
    gone, spaces = _cleaned()
    return [replacing(_class([c for c in gone if c not in kept]), ""), replacing(_class(spaces), " ")]


@lru_cache(maxsize=1)
def _cleaned() -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Characters that clean_text removes, and those that it replaces by spaces.

    They are control, private and unassigned characters, and white space. Which these are depends on the tables of
    `tokenizers`, so every character is tried.
    """
    from tokenizers.normalizers import BertNormalizer

    clean = BertNormalizer(clean_text=True, handle_chinese_chars=False, strip_accents=False, lowercase=False)
    points = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000 and c != ord("x")]
    became = clean.normalize_str("x".join(map(chr, points))).split("x")
    gone = tuple(c for c, now in zip(points, became, strict=True) if not now)
    return gone, tuple(c for c, now in zip(points, became, strict=True) if now == " " and c != ord(" "))


def _class(points: Sequence[int]) -> str:
    """A regular expression for any of some code points, given in order."""
    edges = [i for i, (a, b) in enumerate(pairwise(points), 1) if b != a + 1]
    runs = [(points[a], points[b - 1]) for a, b in pairwise([0, *edges, len(points)])]
    return "[" + "".join(f"\\x{{{a:x}}}-\\x{{{b:x}}}" for a, b in runs) + "]"
