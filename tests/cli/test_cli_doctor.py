"""``duotone doctor``: the report names what is there and what is missing, and its exit code tells whether a codec works."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from duotone.cli import doctor
from duotone.codec.contract import Codec
from duotone.nn import native


def test_report_and_check_on_the_cpu(here: Path, duotone: Any) -> None:
    told = duotone("doctor")
    assert told.exit_code == 0 and all(len(line) <= 80 for line in told.stdout.splitlines())
    for words in (torch.__version__, "[tokens]", "tokenizers", "libsndfile", "opusenc", "cache", "passed on cpu"):
        assert words in told.stdout, words
    report = json.loads(duotone("doctor", "--json").stdout)
    assert report["check"]["passed"] is True and report["check"]["equal_codes"] >= doctor.LEAST_EQUAL
    assert report["torch"]["threads"] == torch.get_num_threads()
    assert report["kernels"]["compiled"] == (native.library() is not None)


def test_a_device_that_is_not_there_is_reported_after_the_rest(here: Path, duotone: Any) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    told = duotone("doctor", "--device", "cuda", "--json")
    report = json.loads(told.stdout)
    assert told.exit_code == 2 and report["check"]["passed"] is False and "no CUDA device" in report["check"]["error"]
    told = duotone("doctor", "--device", "cuda")
    assert "FAILED on cuda" in told.stdout and "no CUDA device" in told.stderr


def test_a_codec_that_gives_other_sound_fails(here: Path, duotone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    decode = Codec.decode

    def loud(self: Codec, *arguments: Any, **options: Any) -> Any:
        wave = decode(self, *arguments, **options)
        return wave if native._declined else type(wave)(wave.samples / 2, wave.rate)

    monkeypatch.setattr(Codec, "decode", loud)
    told = duotone("doctor")
    assert told.exit_code == 1 and "does not work on cpu" in told.stderr and "FAILED" in told.stdout


def test_an_error_of_pytorch_is_a_sentence(here: Path, duotone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(device: str) -> None:
        raise NotImplementedError("aten::x is not implemented\nfor this device")

    monkeypatch.setattr(doctor, "check", failing)
    told = duotone("doctor", "--device", "mps")
    assert told.exit_code == 1 and "PyTorch failed on mps: aten::x is not implemented." in told.stderr


def test_kernels_that_are_declined_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DUOTONE_NATIVE", "0")
    native.library.cache_clear()
    try:
        assert doctor.survey()["kernels"]["why"] == "DUOTONE_NATIVE=0 is set"
    finally:
        native.library.cache_clear()
