"""Stores of latents: what is written is read, in every layout; stops and damage cost no more than they must."""

from __future__ import annotations

import dataclasses
import errno
import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from duotone.codec.values import Latents
from duotone.errors import FormatError, UsageError
from duotone.spec import CodecSpec, Source
from duotone.store import LatentStore, LatentWriter, StoreInfo
from duotone.store.manifest import LAYOUTS, RECORDINGS, Layout
from duotone.store.statistics import to_channels, usual_channels

SPEC = CodecSpec(
    family="codicodec", model="tiny", fingerprint="f1", space="s1", rate=48_000, rate_out=48_000, channels=2, chunk=512,
    behind=16, extra=16, steps=16, codebooks=(81,), latent=(16, 4), levels=(3, 3, 3, 3), independent=True,
)  # fmt: skip
OTHER = CodecSpec(
    family="oobleck", model="o", fingerprint="f2", space="s2", rate=44_100, rate_out=44_100, channels=1, chunk=2048,
    latent=(64,), bounded=False,
)  # fmt: skip


def info(layout: Layout, spec: CodecSpec = SPEC, **changes: Any) -> StoreInfo:
    base = StoreInfo(spec, "float32", 1, layout, 32 if spec is SPEC else 64)
    return dataclasses.replace(base, **changes)


def values(seed: int, chunks: int, spec: CodecSpec = SPEC) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(0.2, 0.4, (chunks, *(spec.latent or ()))).astype(np.float32)
    return drawn.clip(-1, 1) if spec.bounded else drawn


def source(chunks: int, spec: CodecSpec = SPEC) -> Source:
    return Source(spec.rate, 2, spec.samples(chunks))


def fill(folder: Path, layout: Layout, lengths: dict[str, int], **options: Any) -> None:
    with LatentWriter(folder, info(layout), **options) as writer:
        for seed, (name, chunks) in enumerate(lengths.items()):
            writer.add(name, values(seed, chunks), source(chunks), f"{name}.wav", (seed, 1))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_written_is_read(layout: Layout, tmp_path: Path) -> None:
    lengths = {"b/Op. 5 live": 3, "a": 7, "b/\udce9": 1, "b/Op_ 5 live": 2}
    fill(tmp_path / "s", layout, lengths)
    store = LatentStore(tmp_path / "s")
    assert [recording.name for recording in store.recordings] == sorted(lengths)
    assert (len(store), store.chunks, store.damaged()) == (4, 13, [])
    for seed, (name, chunks) in enumerate(lengths.items()):
        index = sorted(lengths).index(name)
        assert np.array_equal(store.values(index), values(seed, chunks))
        assert store[index] == Latents(torch.from_numpy(values(seed, chunks)), SPEC, source(chunks))
        with pytest.raises((ValueError, RuntimeError)):
            store.values(index)[0, 0, 0] = 1.0
    assert "4 recordings" in repr(store) and not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_files_are_those_of_their_formats(layout: Layout, tmp_path: Path) -> None:
    fill(tmp_path, layout, {"x/Op. 5": 3, "x/Op. 6": 2})
    if layout == "npy":
        assert np.array_equal(np.load(tmp_path / "x" / "Op. 5.npy"), values(0, 3))
    elif layout == "safetensors":
        from safetensors.numpy import load_file

        assert np.array_equal(load_file(tmp_path / "x" / "Op. 5.safetensors")["latents"], values(0, 3))
    elif layout == "shards":
        whole = np.load(tmp_path / "shard-000000.latents.npy", mmap_mode="r")
        assert np.array_equal(whole, np.concatenate([values(0, 3), values(1, 2)]))
    else:
        with tarfile.open(tmp_path / "shard-000000.tar") as tar:
            # WebDataset: neighbours of one name up to the first dot are one example
            assert tar.getnames() == ["x/Op_ 5.json", "x/Op_ 5.npy", "x/Op_ 6.json", "x/Op_ 6.npy"]
            member = tar.extractfile("x/Op_ 5.json")
            assert member and json.load(member)["name"] == "x/Op. 5"


def test_crops_are_those_of_the_values_in_channels(tmp_path: Path) -> None:
    fill(tmp_path, "npy", {"a": 9})
    store = LatentStore(tmp_path)
    whole = Latents(torch.from_numpy(values(0, 9)), SPEC).channels(32)
    assert torch.allclose(torch.from_numpy(store.channels(0)), whole, atol=1e-6)
    assert np.array_equal(store.crop(0, 2, 4), store.channels(0)[2:6]) and store.crop(0, 2, 4).shape == (4, 2, 32)
    for first, count in ((0, 0), (-1, 2), (8, 2)):
        with pytest.raises(UsageError, match="recording that has 9"):
            store.crop(0, first, count)
    back = Latents.from_channels(store.channels(0), SPEC)
    assert torch.allclose(back.values, torch.from_numpy(values(0, 9)), atol=1e-6)


def test_statistics_are_those_of_all_recordings(tmp_path: Path) -> None:
    lengths = {"a": 5, "b": 3}
    fill(tmp_path, "tar", lengths)
    store = LatentStore(tmp_path)
    every = np.concatenate([to_channels(values(i, n), True, 32) for i, n in enumerate(lengths.values())]).reshape(
        -1, 32
    )
    assert np.allclose(store.mean, every.mean(0), atol=1e-5) and np.allclose(store.deviation, every.std(0), atol=1e-5)
    assert store.info.statistics and store.info.statistics.count == len(every)


def test_unbounded_latents_are_only_reshaped(tmp_path: Path) -> None:
    with LatentWriter(tmp_path, info("npy", OTHER)) as writer:
        writer.add("a", 5 * values(0, 4, OTHER), source(4, OTHER), "a.wav", None)
    store = LatentStore(tmp_path)
    assert np.array_equal(store.channels(0)[:, 0], 5 * values(0, 4, OTHER)) and store.info.shape == (64,)
    assert usual_channels((128, 4)) == 64 and usual_channels((64,)) == 64 and usual_channels((18, 256)) == 256
    assert usual_channels((3, 5)) == 5


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_run_that_was_stopped_goes_on(layout: Layout, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), LatentWriter(tmp_path, info(layout)) as writer:
        writer.add("a", values(0, 2), source(2), "a.wav", (5, 5))
        raise KeyboardInterrupt
    store = LatentStore(tmp_path)  # where files hold many recordings, what was encoded waits for the next run
    assert [recording.name for recording in store.recordings] == ([] if layout in ("shards", "tar") else ["a"])
    with pytest.raises(FormatError, match="no statistics"):
        store.mean  # noqa: B018
    with open(tmp_path / RECORDINGS, "a") as file:
        file.write('{"name": "cut')  # as a crash leaves it
    with LatentWriter(tmp_path, info(layout)) as writer:
        if layout in ("shards", "tar"):
            assert writer.encoded("a", (5, 6)) is None and writer.encoded("a", None) is None
            part = writer.encoded("a", (5, 5))
            assert part is not None
            writer.take(part)
        else:
            assert writer.has("a", (5, 5)) and not writer.has("a", (5, 6)) and not writer.has("b", (5, 5))
            assert not writer.has("a", None)
        writer.add("b", values(1, 3), source(3), "b.wav", (6, 6))
    store = LatentStore(tmp_path)
    assert store.chunks == 5 and store.damaged() == [] and len(store.mean) == 32


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_last_encoding_of_a_name_counts(layout: Layout, tmp_path: Path) -> None:
    fill(tmp_path, layout, {"a": 2, "b": 2})
    with LatentWriter(tmp_path, info(layout)) as writer:
        writer.add("a", values(9, 4), source(4), "a.wav", (7, 7))
    store = LatentStore(tmp_path)
    assert np.array_equal(store.values(0), values(9, 4)) and np.array_equal(store.values(1), values(1, 2))
    assert store.info.chunks == 6


def test_shards_are_closed_when_they_are_full(tmp_path: Path) -> None:
    fill(tmp_path, "tar", dict.fromkeys("abcde", 4), shard_bytes=2_000)
    assert sorted(path.name for path in tmp_path.glob("*.tar")) == [f"shard-{i:06d}.tar" for i in range(3)]
    assert [recording.file for recording in LatentStore(tmp_path).recordings] == [
        f"shard-{i:06d}.tar" for i in (0, 0, 1, 1, 2)
    ]  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_full_disk_leaves_no_half_file(layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from duotone.store.parts import Part

    fill(tmp_path, layout, {"a": 2})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    blocks = Part.blocks

    def full(self: Part, array: str) -> Iterator[bytes]:
        yield next(blocks(self, array))[:100]
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Part, "blocks", full)
        with pytest.raises(OSError, match="No space"):
            fill(tmp_path, layout, {"b": 3})
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file() and p.name[0] != "."} == {
        name: data for name, data in before.items() if name[0] != "."
    }
    fill(tmp_path, layout, {"b": 3})
    assert [recording.name for recording in LatentStore(tmp_path).recordings] == ["a", "b"]
    assert LatentStore(tmp_path).damaged() == []


def test_a_part_that_changed_on_disk_is_told_of(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="changed on disk"), LatentWriter(tmp_path, info("shards")) as writer:
        writer.add("a", values(0, 2), source(2), "a.wav", (5, 5))
        (path,) = (tmp_path / ".parts").glob("*.latents")
        data = bytearray(path.read_bytes())
        data[9] ^= 4
        path.write_bytes(data)
    assert not list(tmp_path.glob("shard*"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_files_that_are_gone_or_cut_are_made_again(layout: Layout, tmp_path: Path) -> None:
    fill(tmp_path, layout, {"a": 2, "b": 2})
    path = tmp_path / LatentStore(tmp_path).recordings[1].file
    path.write_bytes(path.read_bytes()[:-40] if layout != "tar" else b"")
    with LatentWriter(tmp_path, info(layout)) as writer:
        assert writer.has("a", (0, 1)) == (layout != "tar") and not writer.has("b", (1, 1))


def test_damaged_values_are_found(tmp_path: Path) -> None:
    fill(tmp_path, "npy", {"a": 2, "b": 2})
    store = LatentStore(tmp_path)
    data = bytearray((tmp_path / "a.npy").read_bytes())
    data[-3] ^= 1
    (tmp_path / "a.npy").write_bytes(data)
    (tmp_path / "b.npy").unlink()
    assert [recording.name for recording in store.damaged()] == ["a", "b"]
    with pytest.raises(FormatError, match="encodes what is missing"):
        store.values(1)


def test_other_settings_and_other_folders_are_refused(tmp_path: Path) -> None:
    fill(tmp_path / "s", "npy", {"a": 2})
    for change, names in (
        ({"layout": "tar"}, "layout"), ({"channels": 16}, "channels"), ({"format": "bfloat16"}, "format"),
        ({"spec": dataclasses.replace(SPEC, space="s9")}, "space"), ({"window": (3, 0)}, "window"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=f"{names}: .* there, .* now"):
            LatentWriter(tmp_path / "s", dataclasses.replace(info("npy"), **change))
    other = dataclasses.replace(SPEC, fingerprint="f9")
    with LatentWriter(tmp_path / "s", dataclasses.replace(info("npy"), spec=other)) as writer:
        assert writer.has("a", (0, 1))  # another decoder: the same latents
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.npy").write_text("mine")
    with pytest.raises(UsageError, match="no store"):
        LatentWriter(tmp_path / "mine", info("npy"))
    with pytest.raises(UsageError, match="is a file"):
        LatentWriter(tmp_path / "mine" / "a.npy", info("npy"))
    with pytest.raises(UsageError, match="does not divide"):
        LatentWriter(tmp_path / "new", info("npy", channels=7))
    with LatentWriter(tmp_path / "s", info("npy")) as writer, pytest.raises(UsageError, match="expected"):
        writer.add("b", values(0, 2)[:, :3], source(2), "b.wav", None)


@pytest.mark.skipif(sys.platform == "win32", reason="needs locks of folders")
def test_two_processes_do_not_fill_one_store(tmp_path: Path) -> None:
    with LatentWriter(tmp_path, info("npy")), pytest.raises(UsageError, match="Another process"):
        LatentWriter(tmp_path, info("npy"))
    LatentWriter(tmp_path, info("npy")).__exit__(None, None, None)


def test_damaged_manifests_are_told_of(tmp_path: Path) -> None:
    fill(tmp_path, "npy", {"a": 2})
    line = (tmp_path / RECORDINGS).read_text()
    for bad in ("no json", "[]", "{}", line.strip().replace('"a.npy"', '"../a.npy"')):
        (tmp_path / RECORDINGS).write_text(f"{bad}\n{line}")
        with pytest.raises(FormatError, match="Line 1 of"):
            LatentStore(tmp_path)
    (tmp_path / RECORDINGS).write_text(line)
    text = (tmp_path / "store.json").read_text()
    for bad in ("[", "[]", "{}", text.replace('"version": 2', '"version": 9'), text.replace('"npy"', '"zip"')):
        (tmp_path / "store.json").write_text(bad)
        with pytest.raises(FormatError, match=r"store\.json"):
            LatentStore(tmp_path)
    with pytest.raises(FormatError, match="no store"):
        LatentStore(tmp_path / "absent")


def test_reading_arrays_needs_no_torch(tmp_path: Path) -> None:
    fill(tmp_path, "npy", {"a": 2})
    code = (
        f"import sys; from duotone.store import LatentStore; print(LatentStore({str(tmp_path)!r}).crop(0, 0, 2).shape); "
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "(2, 2, 32)\n"), done.stderr
