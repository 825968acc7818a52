"""Whatever is wrong with the input: a sentence that helps, the right exit code, no traceback, nothing left behind."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from duotone.audio.files import read
from duotone.codec.codicodec import CoDiCodec
from duotone.codec.container import DuoWriter
from duotone.codec.values import Codes, Latents
from duotone.hub import save


def _sound(path: str, samples: np.ndarray, rate: int = 48_000, subtype: str = "FLOAT") -> None:
    soundfile.write(path, samples, rate, subtype=subtype)


def _cut(path: str) -> None:
    _sound(path, np.zeros((4_000, 2)))
    Path(path).write_bytes(Path(path).read_bytes()[:30])


BAD_SOUNDS: dict[str, tuple[Callable[[str], object], str]] = {
    "missing": (lambda path: None, "no file"),
    "empty": (lambda path: Path(path).touch(), "empty"),
    "text": (lambda path: Path(path).write_text("no sound at all\n" * 9), "not a sound file"),
    "cut": (_cut, ""),
    "nan": (lambda path: _sound(path, np.array([0.0, np.nan, 0.1])), "NaN"),
    "infinite": (lambda path: _sound(path, np.array([0.0, np.inf, 0.1])), "infinite"),
    "no samples": (lambda path: _sound(path, np.zeros((0, 1))), "zero samples"),
    "six channels": (lambda path: _sound(path, np.zeros((9, 6))), "6 channels"),
    "8 Hz": (lambda path: _sound(path, np.zeros(9), rate=8), "8 Hz"),
}


def _left(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize("case", BAD_SOUNDS)
def test_bad_sound(case: str, here: Path, duotone: Any) -> None:
    make, says = BAD_SOUNDS[case]
    make("bad.wav")
    before = _left(here)
    result = duotone("encode", "bad.wav", "-o", "bad.duo")
    assert result.exit_code == 3 and says in result.stderr and "bad.wav" in result.stderr
    assert _left(here) == before
    assert duotone("info", "bad.wav").exit_code == 3


def test_the_good_files_are_done_and_the_first_error_is_the_code(here: Path, duotone: Any) -> None:
    Path("b.wav").write_text("no sound")
    os.rename("a.wav", "c.wav")
    result = duotone("encode", "b.wav", "c.wav", "-o", "out", "--json")
    first, second = map(json.loads, result.stdout.splitlines())
    assert result.exit_code == 3 and first["exit_code"] == 3 and "b.wav" in first["error"]
    assert second["output"] == str(Path("out/c.duo")) and Path("out/c.duo").is_file()
    assert "1 file encoded" in result.stderr and "1 failed" in result.stderr


def test_existing_output_needs_force(here: Path, duotone: Any) -> None:
    Path("a.duo").write_text("mine")
    result = duotone("encode", "a.wav", "-o", "a.duo")
    assert result.exit_code == 2 and "--force" in result.stderr and Path("a.duo").read_text() == "mine"
    assert duotone("encode", "a.wav", "-o", "a.duo", "--force").exit_code == 0
    length = read("a.wav").length
    assert duotone("decode", "a.duo", "-o", "a.wav").exit_code == 2
    assert duotone("decode", "a.duo", "-o", "a.wav", "--force").exit_code == 0
    assert read("a.wav").length == length


def test_wrong_codec_names_both(here: Path, duotone: Any, codec: CoDiCodec, tmp_path: Path) -> None:
    other = CoDiCodec.random(codec.config, seed=9)
    save(other, tmp_path / "other")
    duotone("encode", "a.wav", "-o", "a.duo")
    result = duotone("decode", "a.duo", "-o", "b.wav", "--codec", str(tmp_path / "other"))
    assert result.exit_code == 5 and codec.spec.space in result.stderr and other.spec.space in result.stderr
    assert not Path("b.wav").exists()


def test_an_unknown_codec_lists_the_known(here: Path, duotone: Any) -> None:
    for words in (["encode", "a.wav", "-o", "a.duo", "--codec", "nonsense"], ["info", "nonsense"]):
        result = duotone(*words)
        assert result.exit_code == 6 and "nonsense" in result.stderr and "Bundled" in result.stderr


def test_unknown_device_and_dtype(here: Path, duotone: Any) -> None:
    for option in (["--device", "abacus"], ["--dtype", "int3"]):
        result = duotone("encode", "a.wav", "-o", "a.duo", "--quiet", *option)
        assert result.exit_code == 2 and option[1] in result.stderr


@pytest.mark.parametrize("case", ["missing", "empty", "text", "header", "middle", "cut"])
def test_damaged_duo(case: str, here: Path, duotone: Any) -> None:
    duotone("encode", "a.wav", "-o", "a.duo")
    data = bytearray(Path("a.duo").read_bytes())
    if case == "header":
        data[40] ^= 1
    elif case == "middle":
        data[-60] ^= 1
    change = {"empty": b"", "text": b"something else", "cut": bytes(data[:-40])}
    if case == "missing":
        Path("a.duo").unlink()
    else:
        Path("a.duo").write_bytes(change.get(case, bytes(data)))
    result = duotone("decode", "a.duo", "-o", "b.wav")
    assert result.exit_code == 4 and "a.duo" in result.stderr and not Path("b.wav").exists()
    assert ("--salvage" in result.stderr) == (case in ("middle", "cut"))


def _in_short_records(path: str, value: Latents | Codes) -> None:
    """A .duo with a record for each chunk."""
    with DuoWriter(path, value.spec, value.source, "tokens" if isinstance(value, Codes) else "latents") as writer:
        for i in range(len(value)):
            writer.write(value[i])
            writer.flush()
        writer.finish()


def test_salvage_mutes_what_is_lost_and_keeps_the_rest(here: Path, duotone: Any, codec: CoDiCodec) -> None:
    _in_short_records("a.duo", codec.encode(read("a.wav")))
    duotone("decode", "a.duo", "-o", "whole.wav")
    data = bytearray(Path("a.duo").read_bytes())
    data[-100] ^= 255  # in the last record
    Path("a.duo").write_bytes(data)
    told = duotone("info", "a.duo", "--json")
    assert told.exit_code == 4 and json.loads(told.stdout)["damage"][0]["first_chunk"] == 4
    result = duotone("decode", "a.duo", "-o", "b.wav", "--salvage", "--json")
    figures = json.loads(result.stdout)
    assert result.exit_code == 0 and "warning" in result.stderr and "silent" in result.stderr
    whole, saved = read("whole.wav").samples, read("b.wav").samples
    assert saved.shape == whole.shape and figures["lost_chunks"] == 1 and figures["samples"] == saved.shape[1]
    start = 4 * codec.config.chunk_samples - codec.config.hop
    assert not saved[:, start:].any() and whole[:, start:].any()
    # the loss reaches back through the pairs of the schedule, at most a chunk a step
    kept = start - codec.config.decode.parallel_steps * codec.config.chunk_samples
    assert saved[:, :start].any() and torch.equal(saved[:, : max(0, kept)], whole[:, : max(0, kept)])


def test_salvage_of_a_cut_file_has_the_promised_length(here: Path, duotone: Any, codec: CoDiCodec) -> None:
    _in_short_records("a.duo", codec.encode(read("a.wav")).codes())
    data = Path("a.duo").read_bytes()
    Path("a.duo").write_bytes(data[:-40])  # the end record and a part of the last chunk
    result = duotone("decode", "a.duo", "-o", "b.wav", "--salvage")
    saved = read("b.wav").samples
    assert result.exit_code == 0 and "warning" in result.stderr
    assert saved.shape[1] == 2_400 and saved[:, :1_900].any() and not saved[:, -50:].any()


def test_salvage_of_nothing_is_an_error(here: Path, duotone: Any) -> None:
    duotone("encode", "a.wav", "-o", "a.duo")
    with open("a.duo", "rb") as file:
        file.seek(10)
        length = 14 + int.from_bytes(file.read(4), "little") + 4
    os.truncate("a.duo", length)
    result = duotone("decode", "a.duo", "-o", "b.wav", "--salvage")
    assert result.exit_code == 4 and "no intact chunk" in result.stderr and not Path("b.wav").exists()


def test_time_prompt_is_for_the_autoregressive_strategy(here: Path, duotone: Any) -> None:
    duotone("encode", "a.wav", "-o", "a.duo")
    assert duotone("decode", "a.duo", "-o", "b.wav", "--time-prompt", "0.3").exit_code == 2
    words = ["decode", "a.duo", "-o", "b.wav", "--time-prompt", "0.3", "--strategy", "autoregressive", "--steps", "1"]
    assert duotone(*words).exit_code == 0


def test_a_sound_file_that_cannot_be_completed(here: Path, duotone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    duotone("encode", "a.wav", "-o", "a.duo")

    def full(*_: object) -> None:
        raise soundfile.LibsndfileError(2)

    monkeypatch.setattr(soundfile.SoundFile, "write", full)
    result = duotone("decode", "a.duo", "-o", "b.wav")
    assert result.exit_code == 7 and "disk full" in result.stderr and _left(here) == ["a.duo", "a.wav"]


def test_interruption_leaves_nothing_half_written(here: Path, duotone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("duotone.codec.sessions.EncodeSession.finish", interrupted)
    result = duotone("encode", "a.wav", "-o", "a.duo")
    assert result.exit_code == 130 and "Interrupted" in result.stderr and _left(here) == ["a.wav"]


@pytest.mark.skipif(os.name != "posix", reason="needs folders that are files")
def test_a_folder_that_cannot_be_made(here: Path, duotone: Any) -> None:
    result = duotone("encode", "a.wav", "-o", "a.wav/deeper/b.duo")
    assert result.exit_code == 7 and "The system refused" in result.stderr


def test_debug_shows_the_traceback(here: Path, duotone: Any) -> None:
    from duotone.errors import AudioError

    with pytest.raises(AudioError, match="no file"):
        duotone("--debug", "info", "absent.wav")
    assert duotone("info", "absent.wav").exit_code == 3


def test_an_empty_name_of_a_codec_is_not_the_default_one(here: Path, duotone: Any) -> None:
    result = duotone("encode", "a.wav", "-o", "a.duo", "--codec", "")
    assert result.exit_code == 2 and "expected the name or the folder of a codec" in result.stderr
    assert not Path("a.duo").exists()
    assert duotone("encode", "a.wav", "-o", "a.duo", "--device", "").exit_code == 2


def test_decoding_the_file_of_another_codec_says_how_to_name_it(here: Path, duotone: Any) -> None:
    from typer.testing import CliRunner

    from duotone.cli.main import app

    assert duotone("encode", "a.wav", "-o", "a.duo").exit_code == 0
    result = CliRunner().invoke(app, ["decode", "a.duo", "-o", "b.wav"])
    assert result.exit_code == 5 and "Name it with --codec" in result.stderr
