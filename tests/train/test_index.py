"""The index of training files: true lengths, names of any bytes, and a cache that is checked and can be done without."""

from __future__ import annotations

import errno
import io
import json
import os
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from duotone.audio import blocks
from duotone.audio.files import write
from duotone.audio.synth import synthesize
from duotone.errors import AudioError
from duotone.train import index as index_module
from duotone.train import index_cache
from duotone.train.index import build_index, default_cache
from duotone.train.index_cache import Measured, read_cache, write_cache
from duotone.train.recipe import DataSection, TrainRecipe
from duotone.train.sections import SoundSection
from duotone.train.sources import Place


@dataclass(frozen=True)
class Section:
    """The part of a recipe's data section that the index asks for."""

    silence_db: float = -60.0
    clipped_share_max: float = 0.02
    validation_share: float = 0.0
    workers: int = 2


SECTION = Section()


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were measured, and not taken from the cache."""
    names: list[str] = []
    original = index_module._measure

    def spy(place: Place) -> Measured:
        names.append(Path(place.path).name)
        return original(place)

    monkeypatch.setattr(index_module, "_measure", spy)
    return names


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    """Three files of sound."""
    folder = tmp_path / "sounds"
    folder.mkdir()
    for i, name in enumerate(("a.wav", "b.flac", "c.ogg")):
        write(folder / name, synthesize(i, 0.3))
    return folder


# Lengths


def frames_of(folder: Path) -> dict[str, int]:
    found = build_index(folder, SECTION, cache=folder.parent / "cache.json")
    assert not found.skipped
    return {Path(s.place.path).name: s.frames for s in found.training}


def encoded(samples: np.ndarray, format: str, subtype: str | None = None, **options: Any) -> bytes:
    out = io.BytesIO()
    with soundfile.SoundFile(out, "w", 44_100, samples.shape[1], subtype, format=format, **options) as file:
        file.write(samples)
    return out.getvalue()


def mp3(samples: np.ndarray, mode: str = "VARIABLE") -> bytes:
    return encoded(samples, "MP3", "MPEG_LAYER_III", bitrate_mode=mode, compression_level=0.5)


def test_lengths_are_those_that_can_be_read(tmp_path: Path) -> None:
    rng, n = np.random.default_rng(0), 44_100 * 6
    noise = rng.normal(0, 0.2, (n, 2)).astype("float32")
    uneven = noise * np.where(np.arange(n) < n // 4, 1, 0.01)[:, None]  # a bit rate that says nothing of the rest
    folder = tmp_path / "sounds"
    folder.mkdir()
    whole = mp3(uneven)
    (folder / "headerless.mp3").write_bytes(whole[whole.index(whole[:2], 4) :])  # the first frame holds the length
    (folder / "joined.mp3").write_bytes(mp3(noise) + mp3(uneven))
    flac = bytearray(encoded(noise, "FLAC"))
    flac[21] &= 0xF0
    flac[22:26] = bytes(4)  # "not known", as programs that write to a pipe leave it
    (folder / "unknown.flac").write_bytes(flac)
    wav = bytearray(encoded(noise, "WAV"))
    for name, size in (("zero.wav", 0), ("endless.wav", 0xFFFFFFFF)):
        wav[40:44] = size.to_bytes(4, "little")
        (folder / name).write_bytes(wav)
    found = frames_of(folder)
    assert found["unknown.flac"] == found["zero.wav"] == found["endless.wav"] == n
    assert abs(found["headerless.mp3"] - n) <= 3 * 1152
    assert abs(found["joined.mp3"] - 2 * n) <= 6 * 1152


def test_what_a_header_hides_is_looked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    original = blocks.layout

    def spy(file: Any) -> Any:
        looked.append(1)
        return original(file)

    monkeypatch.setattr(blocks, "layout", spy)
    noise = np.random.default_rng(0).normal(0, 0.2, (44_100, 2)).astype("float32")
    path = tmp_path / "joined.mp3"
    for parts in (2, 3):
        path.write_bytes(mp3(noise) * parts)
        for start in (0, 30_000, 60_000):  # a file is opened for every crop
            with Place(str(path)).blocks() as sound:
                sound.skip(start)
                assert len(sound.read(1000)) == 1000
        assert len(looked) == parts - 1


def test_a_file_that_is_cut_is_left_out_and_says_so(tmp_path: Path, sounds: Path) -> None:
    long = np.random.default_rng(0).normal(0, 0.1, (44_100 * 20, 1)).astype("float32")
    for format in ("WAV", "FLAC"):
        data = encoded(long, format)
        (sounds / f"cut.{format.lower()}").write_bytes(data[: len(data) // 2])
    found = build_index(sounds, SECTION, cache=tmp_path / "c")
    assert len(found.training) == 3 and len(found.skipped) == 2
    assert all(("cut short" in line or "damaged" in line) and line.count("cut.") == 1 for line in found.skipped)


def test_names_of_any_bytes_are_indexed(tmp_path: Path, sounds: Path) -> None:
    (sounds / "a.wav").rename(sounds / "caf\udce9 [1].wav")
    (sounds / "\udce9.wav").write_bytes(b"no sound")
    cache = tmp_path / "c"
    for _ in range(2):  # measured, then remembered
        found = build_index(sounds, Section(validation_share=0.5), cache=cache)
        assert [Path(s.place.path).name for s in found.training] == ["b.flac", "c.ogg", "caf\udce9 [1].wav"]
        assert "\udce9.wav: it is not a sound file" in found.skipped[0]
    build_index(f"{sounds}/caf\udce9*", SECTION)  # the cache's name is made of the pattern
    assert index_module._hash(Place("x/caf\udce9.wav")) < 1


def test_a_recipes_section_of_sound_will_do(sounds: Path, tmp_path: Path) -> None:
    for section in (TrainRecipe().data, DataSection(validation_share=0.2), SoundSection()):
        assert isinstance(section, SoundSection)
        assert len(build_index(sounds, section, cache=tmp_path / "c").training) == 3


# The cache


def test_what_is_known_is_read_back(tmp_path: Path) -> None:
    known = {
        "a|1": Measured(48_000, 5, 2, -20.5, 0.25, 0.0),
        "caf\udce9\n|2": Measured(problem="it has no samples"),
        "b|3": Measured(problem="it cannot be opened", lasting=False),
    }
    write_cache(tmp_path / "deep" / "cache", known)
    assert read_cache(tmp_path / "deep" / "cache") == {key: known[key] for key in list(known)[:2]}
    assert read_cache(tmp_path / "none") == read_cache(None) == {}


def test_damaged_entries_are_measured_again(tmp_path: Path, sounds: Path, measured: list[str]) -> None:
    cache = tmp_path / "cache"
    first = build_index(sounds, SECTION, cache=cache)
    whole = cache.read_bytes()
    lines = whole.split(b"\n")

    def again(data: bytes) -> list[str]:
        cache.write_bytes(data)
        measured.clear()
        assert build_index(sounds, SECTION, cache=cache) == first
        assert cache.read_bytes() == whole
        return sorted(measured)

    assert again(whole) == []
    frames = str(first.training[0].frames).encode()
    assert again(whole.replace(frames, frames[:-1] + b"9", 1)) == ["a.wav"]  # a digit of a length
    assert again(whole[: len(whole) - 10]) == ["c.ogg"]  # cut
    assert again(b"\n".join([lines[0], b"\xff\x00", *lines[2:]])) == ["a.wav"]
    everything = ["a.wav", "b.flac", "c.ogg"]
    for data in (b"", b"{damaged", b"[" * 100_000, bytes(1000), b"\n".join([lines[0] + b"1", *lines[1:]])):
        assert again(data) == everything


@pytest.mark.parametrize(
    "values",
    [
        {"rate": 0}, {"frames": -1}, {"frames": 1 << 60}, {"frames": "5"}, {"frames": True}, {"channels": 9},
        {"level_db": None}, {"silent": [1]}, {"problem": 3}, {"more": 1}, [], None, 5,
    ],
)  # fmt: skip
def test_entries_that_others_wrote_are_checked(tmp_path: Path, values: Any) -> None:
    good = {"rate": 48_000, "frames": 5, "channels": 2, "level_db": -20.5, "silent": 0.25, "clipped": 0.0}
    lines = [index_cache._HEAD]
    for entry in (
        ["a", good],
        ["b", {**good, **values} if isinstance(values, dict) else values],
        ["a", good, 1],
        [1, good],
    ):
        text = json.dumps(entry).encode()
        lines.append(b"%08x %b" % (zlib.crc32(text), text))
    (tmp_path / "cache").write_bytes(b"\n".join(lines))
    assert read_cache(tmp_path / "cache") == {"a": Measured(48_000, 5, 2, -20.5, 0.25, 0.0)}


def test_permissions_are_not_remembered(
    tmp_path: Path, sounds: Path, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Any, *args: Any) -> Any:  # root may open every file
        if str(path).endswith("a.wav"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return open(path, *args)

    with monkeypatch.context() as patch:
        patch.setattr(index_module, "open", refuse, raising=False)
        found = build_index(sounds, SECTION, cache=tmp_path / "c")
    assert len(found.training) == 2 and "it cannot be opened (Permission denied)" in found.skipped[0]
    measured.clear()
    assert len(build_index(sounds, SECTION, cache=tmp_path / "c").training) == 3 and measured == ["a.wav"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_a_cache_that_cannot_be_written_is_done_without(
    tmp_path: Path, sounds: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def full(path: Any, data: bytes) -> None:
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(index_cache, "write_bytes", full)
    with pytest.warns(RuntimeWarning, match=r"measures them again. Set DUOTONE_CACHE"):
        assert len(build_index(sounds, SECTION, cache=tmp_path / "c").training) == 3


def test_places_that_are_no_file_are_done_without(tmp_path: Path, sounds: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for place in (tmp_path / "file" / "below", tmp_path / "folder"):
        with pytest.warns(RuntimeWarning, match="could not be cached"):
            assert len(build_index(sounds, SECTION, cache=place).training) == 3
    assert not list((tmp_path / "folder").iterdir())
    assert len(build_index(sounds, SECTION, cache=Path("/dev/null")).training) == 3


def test_without_a_home_there_is_no_cache(sounds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "cache_folder", lambda: None)
    assert default_cache(sounds) is None
    with pytest.warns(RuntimeWarning, match="there is no home folder"):
        assert len(build_index(sounds, SECTION).training) == 3


def test_a_usable_cache_gives_no_warning(tmp_path: Path, sounds: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            build_index(sounds, SECTION, cache=tmp_path / "new" / "c")


def test_nothing_usable_says_what_was_expected(tmp_path: Path) -> None:
    (tmp_path / "x.m4a").touch()
    with pytest.raises(
        AudioError, match=r"1 could not be used, the first: .*x\.m4a: sound of a format.*Expected some of"
    ):
        build_index(tmp_path, SECTION)
