"""``duotone prepare``: a collection to a store; codes, bad files, what is damaged, URLs."""

from __future__ import annotations

import io
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from duotone.audio.files import read, write
from duotone.audio.synth import synthesize
from duotone.codec.codicodec import CoDiCodec
from duotone.store import LatentStore


@pytest.fixture
def sounds(here: Path) -> Path:
    """Three recordings, one of them in a folder below, with a name that is not UTF-8."""
    Path("sounds/deep").mkdir(parents=True)
    write("sounds/a.wav", synthesize(0, 0.08))
    write("sounds/b.flac", synthesize(1, 0.05))
    write(Path(os.fsdecode(b"sounds/deep/c\xe9.wav")), synthesize(2, 0.03).to_channels(1))
    return here


@pytest.fixture
def base(codec_folder: str) -> list[str]:
    return ["prepare", "sounds", "-o", "out", "--codec", codec_folder, "--workers", "0"]


def test_a_collection(sounds: Path, base: list[str], duotone: Any, codec: CoDiCodec) -> None:
    told = duotone(*base, "--codes")
    assert told.exit_code == 0 and told.stdout == "out\n", told.stderr
    store = LatentStore("out")
    assert [recording.name for recording in store.recordings] == ["a", "b", "deep/c\udce9"]
    for recording in store.recordings:
        value = codec.encode(read(recording.sound))
        assert store[recording.name] == value and store.codes(recording.name) == value.codes()
    assert re.search(
        r"out: 3 recordings, 0\.\d+ s, \d+ chunks of 16 x 4 latents, 1 x 16 codes; 64 channels", told.stderr
    )
    assert "3 files encoded" in told.stderr
    told = duotone(*base, "--codes", "--json")
    assert told.exit_code == 0 and all(json.loads(line)["skipped"] for line in told.stdout.splitlines())
    info = json.loads(duotone("info", "out", "--json").stdout)
    assert (info["layout"], info["holds"]) == ("shards", ["latents", "codes"])


@pytest.mark.long
def test_workers_and_latents_share_the_work(sounds: Path, base: list[str], duotone: Any) -> None:
    for workers in ("1", "2"):
        words = [*base[:3], f"w{workers}", *base[4:-1], workers]
        assert duotone(*words).exit_code == 0
    assert Path("w1/shard-000000.latents.npy").read_bytes() == Path("w2/shard-000000.latents.npy").read_bytes()
    assert duotone("latents", "sounds", "-o", "own", *base[4:6]).exit_code == 0
    a, b = LatentStore("w1"), LatentStore("own")
    assert all(np.array_equal(a.values(r.name), b.values(r.name)) for r in a.recordings)
    assert np.array_equal(a.mean, b.mean)


def test_bad_files_are_listed_at_the_end(sounds: Path, base: list[str], duotone: Any) -> None:
    Path("sounds/aa.wav").write_text("no sound")
    Path("sounds/zz.wav").write_text("")
    told = duotone(*base)
    assert told.exit_code == 3 and "2 failed" in told.stderr
    end = told.stderr[told.stderr.index("2 of 5 files are not in the store:") :]
    assert "aa.wav" in end and "zz.wav is empty" in end and end.index("aa.wav") < end.index("out: 3 recordings")
    assert len(LatentStore("out")) == 3
    assert duotone(*base).exit_code == 3  # tried again, as they may have been mended
    Path("sounds/aa.wav").unlink()
    Path("sounds/zz.wav").unlink()
    assert duotone(*base).exit_code == 0


def test_damage_is_found_and_mended(sounds: Path, base: list[str], duotone: Any) -> None:
    duotone(*base)
    path = Path("out/shard-000000.latents.npy")
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    told = duotone("store", "verify", "out")
    assert told.exit_code == 4 and re.search(r"1 of 3 recordings in out are damaged: .*--verify", told.stderr)
    told = duotone(*base, "--verify")
    assert told.exit_code == 0 and "is damaged in shard-000000.latents.npy" in told.stderr, told.stderr
    assert LatentStore("out").damaged() == [] and len(LatentStore("out")) == 3
    told = duotone("store", "verify", "out")
    assert told.exit_code == 0 and "3 recordings" in told.stderr


def test_other_settings_and_bad_arguments_are_refused(sounds: Path, base: list[str], duotone: Any) -> None:
    duotone(*base)
    told = duotone(*base, "--codes")
    assert told.exit_code == 2 and "holds: ['latents'] there, ['latents', 'codes'] now" in told.stderr
    assert duotone(*base, "--no-latents").exit_code == 2
    assert duotone(*base, "--format", "npy").exit_code == 2
    Path("empty").mkdir()
    told = duotone("prepare", "empty", *base[2:])
    assert told.exit_code == 2 and "no readable audio file" in told.stderr
    assert duotone("prepare", "sounds", "-o", "sounds/a.wav", *base[4:]).exit_code == 2
    told = duotone("prepare", "sounds", "-o", "nowhere://x/y", *base[4:])
    assert told.exit_code == 2 and "protocol" in told.stderr
    told = duotone("prepare", "memory://none", *base[2:])
    assert told.exit_code == 2 and "no audio file" in told.stderr


def test_urls(sounds: Path, base: list[str], duotone: Any, codec: CoDiCodec) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    for name in ("a.wav", "b.flac"):
        memory.pipe_file(f"/in/x/{name}", Path("sounds", name).read_bytes())
    try:
        words = ["prepare", "memory://in", "-o", "memory://out/store", *base[4:]]
        told = duotone(*words)
        assert told.exit_code == 0, told.stderr
        store = LatentStore("memory://out/store")
        assert [r.name for r in store.recordings] == ["x/a", "x/b"] and store.damaged() == []
        assert store["x/a"] == codec.encode(read("sounds/a.wav"))
        assert "2 of 2 outputs exist already" in duotone(*words).stderr
        told = duotone(*words, "--overwrite", "--json")
        assert [json.loads(line)["name"] for line in told.stdout.splitlines()] == ["x/a", "x/b"], told.stderr
        near = duotone("prepare", "memory://in", "-o", "near", *base[4:])
        assert near.exit_code == 0 and np.array_equal(
            LatentStore("near").values("x/b"), LatentStore("memory://out/store").values("x/b")
        )
    finally:
        memory.rm("/in", recursive=True)
        memory.rm("/out", recursive=True)


def test_progress_over_the_whole_run(
    sounds: Path, base: list[str], duotone: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rich.console import Console

    from duotone.cli import common

    shown = io.StringIO()
    monkeypatch.setattr(common, "stderr_console", lambda: Console(file=shown, force_terminal=True, width=100))
    assert duotone(*base).exit_code == 0
    assert "all files" in shown.getvalue() and "100%" in shown.getvalue() and "x real time" in shown.getvalue()
    monkeypatch.undo()
    os.chdir(sounds)
    monkeypatch.setattr(common, "_EVERY", 0.0)
    told = duotone(*base, "--overwrite")
    assert re.search(r"\d+% done, [\d.]+x real time, about .* left\.", told.stderr)
