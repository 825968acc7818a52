"""Codes <-> characters: the seed's results on every valid input, and what it gets wrong on the others."""

from __future__ import annotations

import unicodedata
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from codec_bpe.core import converter as seed
from hypothesis import given
from hypothesis import strategies as st

from duotone.errors import UsageError
from duotone.tokens import Alphabet, FrameStream, chars_to_codes, codes_to_chars, to_codes, to_text, train_bpe
from duotone.tokens.alphabet import UNICODE_OFFSET

KINDS = (np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64)


def some_codes(k: int, size: int, frames: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, size, (k, frames))


@st.composite
def cases(draw: Any) -> tuple[int, int, np.ndarray]:
    k, size, frames = draw(st.integers(1, 6)), draw(st.integers(1, 60)), draw(st.integers(0, 12))
    return k, size, some_codes(k, size, frames, draw(st.integers(0, 999)))


@st.composite
def damaged(draw: Any) -> tuple[int, int, str]:
    """A text of which characters were lost, exchanged and put in, all of them still of the alphabet."""
    k, size, codes = draw(cases())
    text = list(seed.codes_to_chars(codes, size))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(text)))
        new = chr(UNICODE_OFFSET + draw(st.integers(0, k * size - 1)))
        match draw(st.integers(0, 2)):
            case 0:
                text[at : at + 1] = []
            case 1:
                text[at : at + 1] = [new]
            case _:
                text.insert(at, new)
    return k, size, "".join(text)


@given(cases())
def test_characters_are_those_of_the_seed(case: tuple[int, int, np.ndarray]) -> None:
    _, size, codes = case
    text = seed.codes_to_chars(codes, size)
    assert codes_to_chars(codes, size) == text
    for kind in KINDS:
        mine = codes.astype(kind)
        assert codes_to_chars(mine, size) == text
        assert np.array_equal(mine, codes)  # never modified
    assert codes_to_chars(torch.from_numpy(codes), size) == text
    assert codes_to_chars(np.asfortranarray(codes)[:, ::1], size) == text
    if codes.size:
        assert codes_to_chars(codes.tolist(), size, unicode_offset=0xE000) == seed.codes_to_chars(
            codes, size, unicode_offset=0xE000
        )


@given(damaged())
def test_codes_are_those_of_the_seed(case: tuple[int, int, str]) -> None:
    k, size, text = case
    if not text:
        return
    theirs = seed.chars_to_codes(text, k, size, return_hanging_codes_chars=True, return_tensors="np")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours = chars_to_codes(text, k, size, return_hanging_codes_chars=True, return_tensors="np")
        lists = chars_to_codes(text, k, size)
        tensor = chars_to_codes(text, k, size, return_tensors="pt")
    assert np.array_equal(ours[0], theirs[0]) and ours[1:] == theirs[1:]
    assert lists == ours[0].tolist() and torch.equal(tensor, torch.from_numpy(ours[0]))


@given(damaged())
def test_a_damaged_frame_is_dropped_whole(case: tuple[int, int, str]) -> None:
    k, size, text = case
    numbers = [ord(c) - UNICODE_OFFSET for c in text]
    frames, i = [], 0
    while i < len(numbers):
        if [n // size for n in numbers[i : i + k]] == list(range(k)):
            frames.append([n % size for n in numbers[i : i + k]])
            i += k
        else:
            i += 1
    assert to_codes(text, Alphabet.plain(k, size)).codes.T.tolist() == frames


@given(damaged(), st.lists(st.integers(0, 80), max_size=12), st.sampled_from(["drop_code", "drop_frame"]))
def test_a_stream_gives_what_the_whole_gives(case: tuple[int, int, str], cuts: list[int], policy: Any) -> None:
    k, size, text = case
    alphabet = Alphabet.plain(k, size)
    whole = to_codes(text, alphabet, policy)
    for as_bytes in (False, True):
        stream, parts, start = FrameStream(alphabet, policy), [], 0
        data: Any = text.encode() if as_bytes else text
        for cut in [*sorted(cuts), len(data)]:
            piece = data[start : max(start, cut)]
            parts.append(stream.push_bytes(piece) if as_bytes else stream.push(piece))
            start = max(start, cut)
        assert np.array_equal(np.concatenate(parts, axis=1), whole.codes)
        assert stream.finish() == len(whole.end)


@given(cases(), st.sampled_from(["frames", "delay"]))
def test_there_and_back(case: tuple[int, int, np.ndarray], pattern: Any) -> None:
    k, size, codes = case
    for alphabet in (Alphabet(k, size), Alphabet.plain(k, size)):
        text = to_text(codes, alphabet, pattern)
        assert len(text) == codes.size
        told = to_codes(text, alphabet, pattern=pattern)
        assert np.array_equal(told.codes, codes) and (told.dropped, told.begin, told.end) == (0, "", "")
        assert Alphabet.from_dict(alphabet.to_dict()) == alphabet


def test_the_delay_pattern_by_hand() -> None:
    alphabet = Alphabet.plain(3, 10)
    codes = np.array([[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 0, 1]])
    numbers = [ord(c) - UNICODE_OFFSET for c in to_text(codes, alphabet, "delay")]
    assert numbers == [0, 1, 14, 2, 15, 28, 3, 16, 29, 17, 20, 21]
    text = to_text(codes, alphabet, "delay")
    told = to_codes(text[:9], alphabet, pattern="delay")  # cut off while the model still writes
    assert np.array_equal(told.codes, codes[:, :2]) and len(told.end) == 3
    with pytest.raises(UsageError, match="not in the delay pattern"):
        to_codes(text[:3] + text[4:], alphabet, pattern="delay")


@pytest.mark.parametrize("shape", [(1, 14641), (4, 1024), (32, 1024), (1, 131072), (9, 1024), (2, 262144)])
def test_the_default_layout_is_safe(shape: tuple[int, int]) -> None:
    alphabet = Alphabet(*shape)
    text = alphabet.text(np.arange(len(alphabet), dtype=np.uint32))
    assert len(set(text)) == len(text) == len(alphabet)
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        assert unicodedata.normalize(form, text) == text
    points = alphabet.points.astype(np.int64)
    assert not np.any((points >= 0xD800) & (points < 0xE000)) and not np.any(points & 0xFFFE == 0xFFFE)
    assert 0xFFFD not in points and text.encode().decode() == text and not any(c.isspace() for c in text)
    assert np.array_equal(alphabet.numbers(alphabet.points), np.arange(len(alphabet)))
    outside = np.setdiff1d(np.arange(0x110000, dtype=np.uint32), alphabet.points)
    assert alphabet.numbers(outside).min() >= len(alphabet)


def test_what_the_seed_gets_wrong_is_an_error_here() -> None:
    with pytest.raises(UsageError, match=r"Code 1024 of codebook 1, frame 0"):
        codes_to_chars([[0, 1], [1024, 2]], 1024)  # there it becomes codebook 2's code 0
    with pytest.raises(UsageError, match=r"outside 0\.\.1023"):
        codes_to_chars([[-1]], 1024)
    with pytest.raises(UsageError, match="whole numbers"):
        codes_to_chars([[0.5]], 1024)
    with pytest.raises(UsageError, match=r"shape \[1, 2, 2\]"):
        codes_to_chars([[[0, 1], [2, 3]]], 1024)
    with pytest.raises(UsageError, match="surrogates"):
        codes_to_chars([[0]] * 40, 1024, unicode_offset=UNICODE_OFFSET)
    with pytest.raises(UsageError, match="beyond the last"):
        codes_to_chars([[0]] * 5, 262144, unicode_offset=0xE000)  # there: chr() fails later
    with pytest.raises(UsageError, match="no whole frame"):
        chars_to_codes(codes_to_chars([[0, 1], [1, 2]], 5)[:-1], 2, 5, drop_hanging_codes=False)
    with pytest.raises(UsageError, match="not the code that is due"):
        chars_to_codes("\u4e00\u4e00", 2, 5, drop_inconsistent_codes=False)
    with pytest.raises(UsageError, match="return_tensors"):
        chars_to_codes("", 2, 5, return_tensors="jax")
    assert chars_to_codes("", 2, 5) == [[], []]
    with pytest.warns(UserWarning, match="1 of 3 characters were left out, the first at position 1"):
        assert chars_to_codes("\u4e00\U0001f600\u4e05", 2, 5) == [[0], [0]]  # an emoji is no code


def test_damage_is_counted_and_placed() -> None:
    alphabet = Alphabet.plain(2, 5)
    text = to_text([[0, 1, 2], [3, 4, 0]], alphabet)
    told = to_codes("x" + text[:3] + text[4:], alphabet)
    assert told.codes.tolist() == [[0, 2], [3, 0]] and (told.dropped, told.first_dropped) == (2, 0)
    lossy = to_codes(text[:3] + text[4:], alphabet, "drop_code")  # as the seed: two frames become one
    assert lossy.codes.tolist() == [[0, 1], [3, 0]]
    with pytest.raises(UsageError, match=r"Character 3 of the text, U\+4E02"):
        to_codes(text[:3] + text[4:], alphabet, "raise")
    with pytest.raises(UsageError, match="damaged="):
        FrameStream(alphabet, "raise").push(text[0] + text[2])
    delayed = train_bpe([[[0, 1], [2, 3]]], Alphabet(2, 5), vocab_size=20, pad_token="<p>", pattern="delay")
    with pytest.raises(UsageError, match="pattern 'delay'"):
        FrameStream(delayed.alphabet, tokenizer=delayed)


@pytest.mark.parametrize("values", [(0, 5), (2, 0), (5, 262144)])
def test_alphabets_without_room(values: tuple[int, int]) -> None:
    with pytest.raises(UsageError):
        Alphabet(*values)
    with pytest.raises(UsageError):
        Alphabet.from_dict({"codebooks": 1, "size": "5", "offset": None, "version": 1})
    with pytest.raises(UsageError, match="Update Duotone"):
        Alphabet(1, 5, version=2)
