"""Voices, sentences and speech."""

from __future__ import annotations

import hashlib
import random
import shutil
from pathlib import Path

import pytest
import torch

from duotone.audio.midi import run_program
from duotone.audio.sentences import LANGUAGES, sentences
from duotone.audio.speech import (
    VOICES,
    choose_voice,
    engine,
    installed,
    language,
    licence,
    package,
    speak,
    voices_here,
)
from duotone.errors import AudioError, UsageError

needs_espeak = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="needs the Debian package espeak-ng")
ALL = [voice for voices in VOICES.values() for voice in voices]
#: The same person recorded for two programs.
SAME_SPEAKER = [("flite:slt", "festival:cmu_us_slt_arctic_hts"), ("flite:kal16", "festival:kal_diphone")]


def test_splits_share_no_voice() -> None:
    train, heldout = set(VOICES["train"]), set(VOICES["heldout"])
    assert train and heldout and not train & heldout and len(ALL) == len(train) + len(heldout)
    variants = [{v.split("+")[1] for v in voices if "+" in v} for voices in (train, heldout)]
    assert not variants[0] & variants[1]
    for pair in SAME_SPEAKER:
        assert set(pair) <= train or set(pair) <= heldout


@needs_espeak
def test_no_two_voices_are_secretly_the_same(tmp_path: Path) -> None:
    """espeak-ng falls back in silence when it does not know a variant, so compare what is heard."""
    prints: dict[bytes, str] = {}
    for voice in (voice for voice in ALL if engine(voice) == "espeak-ng"):
        out = tmp_path / "a.wav"
        run_program(["espeak-ng", "-v", voice, "-w", str(out), "hello there"])
        found = hashlib.sha256(out.read_bytes()).digest()
        assert found not in prints, f"{voice} sounds as {prints[found]}"
        prints[found] = voice


@pytest.mark.parametrize("voice", ALL)
def test_every_voice_has_a_language_a_package_and_a_licence(voice: str) -> None:
    assert language(voice) in LANGUAGES and engine(voice) in ("espeak-ng", "flite", "festival")
    assert package(voice) and licence(voice)


@pytest.mark.parametrize("code", LANGUAGES)
def test_sentences_of_each_language(code: str) -> None:
    text = sentences(random.Random(0), 5, code)
    assert len(text.split()) > 15 and text[0].isupper() and text[-1] in ".?!"
    assert text == sentences(random.Random(0), 5, code) != sentences(random.Random(1), 5, code)


def test_a_voice_is_chosen_by_seed_among_those_given() -> None:
    chosen = [choose_voice(seed, VOICES["train"]) for seed in range(300)]
    assert chosen == [choose_voice(seed, VOICES["train"]) for seed in range(300)]
    assert {engine(voice) for voice in chosen} == {"espeak-ng", "flite", "festival"} and len(set(chosen)) > 35
    assert {choose_voice(seed, ("flite:slt", "flite:awb")) for seed in range(20)} == {"flite:slt", "flite:awb"}


@pytest.mark.parametrize("voice", ["en-us+m7", "flite:rms", "festival:czech_dita"])
def test_speech_fills_its_length_in_stereo_and_is_its_seed(voice: str) -> None:
    if not installed(voice):
        pytest.skip(f"needs the Debian package {package(voice)}")
    wave, name = speak(11, 5.0, "heldout", voice=voice)
    assert wave.samples.shape == (2, 240_000) and name == voice
    assert speak(11, 5.0, "heldout", voice=voice)[0].samples.equal(wave.samples)
    assert not speak(12, 5.0, "heldout", voice=voice)[0].samples.equal(wave.samples)
    seconds = wave.samples.reshape(2, 5, 48_000).pow(2).mean((0, 2))
    assert float(seconds.min()) > 1e-6  # somebody speaks in every second
    assert not wave.samples[0].equal(wave.samples[1])


@needs_espeak
def test_without_a_voice_one_of_the_split_is_chosen() -> None:
    wave, voice = speak(3, 0.5, "heldout")
    assert voice in voices_here("heldout") and set(voices_here("heldout")) <= set(VOICES["heldout"])
    torch.testing.assert_close(wave.samples, speak(3, 0.5, "heldout", voice=voice)[0].samples, rtol=0, atol=0)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UsageError, match="seconds"):
        speak(0, -1.0)
    with pytest.raises(UsageError, match="flite:rms"):
        speak(0, 1.0, "train", voice="flite:rms")  # a voice of the other split
    with pytest.raises(UsageError, match="train, heldout"):
        voices_here("test")  # type: ignore[arg-type]


def test_missing_programs_name_their_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AudioError, match="Debian package espeak-ng"):
        speak(0)
    with pytest.raises(AudioError, match="Debian package festvox-czech-ph"):
        speak(0, voice="festival:czech_ph")


def test_a_voice_that_makes_no_sound_names_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "text2wave"
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(AudioError, match=r"no sound with the voice czech_ph.*festvox-czech-ph"):
        speak(0, voice="festival:czech_ph")
