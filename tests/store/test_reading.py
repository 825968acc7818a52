"""`LatentStore`: crops are slices of the whole and read their own bytes alone, on disk and behind a URL; training and validation."""

from __future__ import annotations

import io
import mmap
import multiprocessing
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from collections_of_sound import LENGTHS, contents, fill, make_sounds
from hypothesis import given, settings
from hypothesis import strategies as st

from duotone.errors import FormatError, UsageError
from duotone.spec import Source
from duotone.store import LatentStore, LatentWriter
from duotone.store.encode import settings_for
from duotone.store.folders import LocalFolder, RemoteFolder, is_url, open_folder
from duotone.store.split import FEW, Crops, Region, split
from toys import Grouped


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> LatentStore:
    folder = tmp_path_factory.mktemp("reading")
    return fill(folder / "s", make_sounds(folder / "sounds"), Grouped(), workers=0)


@pytest.fixture
def memory() -> Iterator[str]:
    """A URL in fsspec's memory."""
    import fsspec

    yield "memory://bucket/store"
    system = fsspec.filesystem("memory")
    if system.exists("/bucket"):
        system.rm("/bucket", recursive=True)


@given(data=st.data())
@settings(max_examples=60)
def test_crops_are_slices_of_the_whole(store: LatentStore, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(LENGTHS)))
    first = data.draw(st.integers(0, LENGTHS[name] - 1))
    count = data.draw(st.integers(1, LENGTHS[name] - first))
    whole, steps = store.channels(name), store.spec.steps
    crop = store.crop(name, first, count)
    assert np.array_equal(crop, whole[first : first + count]) and crop.shape == (count, 144 // 8, 8)
    assert np.allclose(crop, store[name][first : first + count].channels(8).numpy(), atol=1e-6)
    assert np.array_equal(store.normalized(name, first, count), (crop - store.mean) / store.deviation)
    codes = store.crop_codes(name, first, count)
    assert np.array_equal(codes, store.codes(name).numpy()[:, first * steps : (first + count) * steps])
    assert codes.dtype == np.int64 and codes.shape == (2, count * steps)


@given(data=st.data())
@settings(max_examples=30)
def test_a_crop_behind_a_url_reads_its_own_bytes_alone(store: LatentStore, data: st.DataObject) -> None:
    import fsspec

    system = fsspec.filesystem("memory")
    url = "memory://bytes/store"
    if not system.exists("/bytes/store/store.json"):
        for path in Path(str(store.folder)).iterdir():
            if path.is_file() and path.name[0] != ".":
                system.pipe_file(f"/bytes/store/{path.name}", path.read_bytes())
    far = LatentStore(url)
    read: list[int] = []

    class Counting:
        def cat_file(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
            found = system.cat_file(path, start=start, end=end)
            read.append(len(found))
            return bytes(found)

    far.folder._system = Counting()  # type: ignore[attr-defined]
    name = data.draw(st.sampled_from(sorted(LENGTHS)))
    first = data.draw(st.integers(0, LENGTHS[name] - 1))
    count = data.draw(st.integers(1, LENGTHS[name] - first))
    assert np.array_equal(far.crop(name, first, count), store.crop(name, first, count))
    assert np.array_equal(far.crop_codes(name, first, count), store.crop_codes(name, first, count))
    assert read == [count * 18 * 8 * 4, count * 18 * 2 * 2]


@pytest.mark.skipif(sys.platform != "linux", reason="counts pages by /proc")
def test_a_crop_on_disk_touches_its_own_pages_alone(tmp_path: Path) -> None:
    chunks, size = 200_000, 18 * 8 * 4
    with LatentWriter(tmp_path, settings_for(Grouped())) as writer:
        writer.add("a", np.zeros((2, 18, 8)), Source(48_000, 2, 1440), "a.wav", (1, 1))
    line = (tmp_path / "recordings.jsonl").read_text()
    path = tmp_path / "shard-000000.latents.npy"
    with path.open("r+b") as file:
        file.truncate(chunks * size)  # 115 MB without content
    (tmp_path / "recordings.jsonl").write_text(line.replace('"chunks": 2', f'"chunks": {chunks - 1}'))
    store = LatentStore(tmp_path)
    assert store.crop("a", 150_000, 2).shape == (2, 18, 8)
    (entry,) = re.findall(rf"{re.escape(str(path))}\n(?:.*\n)*?Rss: +(\d+) kB", Path("/proc/self/smaps").read_text())
    around = 16 * mmap.PAGESIZE  # the kernel also maps the neighbours of a page
    assert int(entry) * 1024 <= 2 * size + 2 * around


def test_names_and_errors(store: LatentStore) -> None:
    assert store.index("d") == [r.name for r in store.recordings].index("d") and store.index(-1) == len(store) - 1
    assert np.array_equal(store.values("b/\udce9"), store.values(store.index("b/\udce9")))
    with pytest.raises(UsageError, match=r"no recording 'x' among its 7"):
        store.crop("x", 0, 1)
    with pytest.raises(UsageError, match="recording that has 3"):
        store.crop_codes("b/Op. 5 live", 2, 2)
    with pytest.raises(IndexError):
        store.index(7)
    with pytest.raises(UsageError, match="holds latents and codes, no scale"):
        store.stored("scale", 0)
    assert [len(latents) for latents in store] == [LENGTHS[r.name] for r in store.recordings]


def _crop(store: LatentStore) -> Any:
    return store.crop("d", 3, 4)


@pytest.mark.long
def test_a_store_goes_to_other_processes(store: LatentStore) -> None:
    want = _crop(store)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert np.array_equal(pool.apply(_crop, (store,)), want)


def test_a_constant_channel_is_normalized_to_zero(tmp_path: Path) -> None:
    values = np.zeros((4, 18, 8), np.float32)
    values[..., 1] = np.random.default_rng(0).uniform(-0.5, 0.5, (4, 18))
    with LatentWriter(tmp_path, settings_for(Grouped())) as writer:
        writer.add("a", values, Source(48_000, 2, 4 * 720), "a.wav", (1, 1))
    found = LatentStore(tmp_path).normalized(0, 0, 4)
    assert not found[..., 0].any() and np.allclose(found[..., 1].std(), 1, atol=1e-5)


def test_damage_is_told_of_with_what_to_do(tmp_path: Path) -> None:
    jobs = make_sounds(tmp_path / "sounds")
    store = fill(tmp_path / "s", jobs, Grouped(), workers=0)
    path = tmp_path / "s" / store.recordings[0].file
    data = bytearray(path.read_bytes())
    data[store.recordings[0].arrays["latents"].offset + 7] ^= 8
    path.write_bytes(data)
    store = LatentStore(tmp_path / "s")
    with pytest.raises(FormatError, match=r"1 of 7 recordings in .* are damaged: a \(in shard-000000.* --verify"):
        store.verify()
    store.verify([1, 2])
    (tmp_path / "s" / store.recordings[-1].arrays["codes"].file).unlink()
    names = [recording.name for recording in LatentStore(tmp_path / "s").damaged()]
    assert "a" in names and store.recordings[-1].name in names
    with pytest.raises(FormatError, match="encodes what is missing"):
        LatentStore(tmp_path / "s").codes(-1)


def test_stores_of_version_1_are_read(tmp_path: Path) -> None:
    import json

    with LatentWriter(tmp_path, settings_for(Grouped(), "npy")) as writer:
        writer.add("a", np.full((2, 18, 8), 0.5), Source(48_000, 2, 1440), "a.wav", (1, 2))
    told = json.loads((tmp_path / "store.json").read_text())
    shape = told.pop("arrays")["latents"]["shape"]
    (tmp_path / "store.json").write_text(json.dumps({**told, "version": 1, "shape": shape}))
    line = json.loads((tmp_path / "recordings.jsonl").read_text())
    line.update(line.pop("arrays")["latents"])
    (tmp_path / "recordings.jsonl").write_text(json.dumps(line) + "\n")
    store = LatentStore(tmp_path)
    assert store.damaged() == [] and store.values("a").mean() == 0.5 and store.recordings[0].stamp == (1, 2)


# --- behind a URL


def test_a_store_behind_a_url_is_that_on_disk(memory: str, tmp_path: Path, store: LatentStore) -> None:
    import fsspec

    jobs = make_sounds(tmp_path / "sounds")
    far = fill(memory, jobs, Grouped(), workers=0)  # type: ignore[arg-type]
    near = fill(tmp_path / "s", jobs, Grouped(), workers=0)
    system = fsspec.filesystem("memory")
    files = {path.rpartition("/")[2]: system.cat_file(path) for path in system.ls("/bucket/store", detail=False)}
    assert files == {name: data for name, data in contents(tmp_path / "s").items() if name[0] != "."}
    assert far.damaged() == [] and np.array_equal(far.mean, near.mean)
    again = fill(memory, jobs, Grouped(), workers=0)  # type: ignore[arg-type]
    assert len(again) == len(near) and not open_folder(memory).parts.exists()


def test_a_stopped_run_to_a_url_goes_on(memory: str, tmp_path: Path) -> None:
    jobs = make_sounds(tmp_path / "sounds")
    with pytest.raises(KeyboardInterrupt), LatentWriter(memory, settings_for(Grouped())) as writer:
        from duotone.store import prepare

        for number, _ in enumerate(prepare(writer, jobs, Grouped())):
            if number == 2:
                raise KeyboardInterrupt
    assert len(LatentStore(memory)) == 0 and len(list(open_folder(memory).parts.glob("*.json"))) == 3
    with LatentWriter(memory, settings_for(Grouped())) as writer:
        assert writer.encoded("a", (os.stat(jobs[0].sound).st_size, os.stat(jobs[0].sound).st_mtime_ns)) is not None
        for _, outcome in prepare(writer, jobs, Grouped()):
            outcome.check()
    assert len(LatentStore(memory)) == len(jobs) and LatentStore(memory).damaged() == []


def test_folders_of_urls(memory: str) -> None:
    folder = open_folder(memory)
    assert isinstance(folder, RemoteFolder) and folder.names() == [] and folder.size("x") is None
    folder.append("x", b"one")
    folder.append("x", b"two")
    assert folder.read("x") == b"onetwo" and folder.size("x") == 6 and folder.names() == ["x"]
    with pytest.raises(ValueError), folder.replacing("y") as path:
        path.write_bytes(b"half")
        raise ValueError
    assert folder.names() == ["x"]
    folder.remove("x")
    assert is_url("s3://b/x") and not is_url("C:\\sounds") and not is_url("a/b") and not is_url(Path("s3://b"))
    assert isinstance(open_folder("a/b"), LocalFolder)
    with pytest.raises(UsageError, match="protocol"):
        open_folder("nowhere://x")
    with pytest.raises(FormatError, match="no store"):
        LatentStore("memory://bucket/none")


# --- training and validation


@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=40), chunks=st.integers(1, 20), share=st.floats(0.01, 0.5)
)
@settings(max_examples=150)
def test_no_chunk_is_in_training_and_validation(lengths: list[int], chunks: int, share: float) -> None:
    recordings = [(f"r{i}", n) for i, n in enumerate(lengths)]
    usable = [n for n in lengths if n >= chunks]
    try:
        found = split(recordings, chunks, share)
    except UsageError as error:
        assert len(usable) < 2 and max(lengths) < 2 * chunks and f"has {max(lengths)} chunks" in str(error)
        return
    both = []
    for side in (found.training, found.validation):
        assert len(side) > 0
        covered = set()
        for recording, first in side:  # type: ignore[attr-defined]
            assert 0 <= first <= lengths[recording] - chunks
            covered |= {(recording, first + i) for i in range(chunks)}
        both.append(covered)
        assert set(side.grid()) <= set(side) and len(side.grid()) > 0
    assert not both[0] & both[1]


def test_whole_recordings_are_held_out_of_many_and_stay_where_they_are() -> None:
    names = [(f"song {i}", 10 + i) for i in range(2 * FEW)]
    found = split(names, 4, 0.2)
    held = {names[region.recording][0] for region in found.validation.regions}
    assert 0 < len(held) < 2 * FEW and all(region.first == 0 for region in found.validation.regions)
    more = split([("new", 50), *names], 4, 0.2)
    again = {([("new", 50), *names])[region.recording][0] for region in more.validation.regions}
    assert again - {"new"} == held


def test_one_recording_is_enough() -> None:
    found = split([("a", 100)], 10, 0.2)
    assert found.training.regions == [Region(0, 0, 80)] and found.validation.regions == [Region(0, 80, 20)]
    assert found.validation.grid() == [(0, 80), (0, 90)] and len(found.training) == 71
    assert split([("a", 5)], 5, 0).training.grid() == [(0, 0)]
    with pytest.raises(UsageError, match="expected at least 12 for crops of 6"):
        split([("a", 11)], 6)
    with pytest.raises(UsageError, match="0 recordings"):
        split([], 6)
    with pytest.raises(UsageError, match="share"):
        split([("a", 11)], 2, 0.9)


def test_random_crops_are_equally_likely_and_repeatable() -> None:
    crops = Crops([Region(0, 5, 3), Region(1, 0, 1), Region(2, 0, 12)], 2)
    assert list(crops) == [(0, 5), (0, 6), *((2, i) for i in range(11))] and crops[-1] == (2, 10)
    drawn = crops.draw(np.random.default_rng(1), 13_000)
    assert drawn == crops.draw(np.random.default_rng(1), 13_000)
    counts = {place: drawn.count(place) for place in crops}
    assert min(counts.values()) > 850 and max(counts.values()) < 1150
    with pytest.raises(UsageError, match="No region holds 20"):
        Crops([Region(0, 0, 3)], 20).draw(np.random.default_rng(1))
    with pytest.raises(IndexError):
        crops[13]


def test_the_manifest_is_text_of_any_name(store: LatentStore) -> None:
    lines = io.StringIO((Path(str(store.folder)) / "recordings.jsonl").read_text("ascii")).readlines()
    assert len(lines) == len(LENGTHS) and "\\udce9" in "".join(lines)


def test_the_share_that_is_held_out_is_that_asked_for() -> None:
    recordings = [(f"song {i}", 8) for i in range(10_000)]
    for share in (0.05, 0.2, 0.5):
        assert abs(len(split(recordings, 8, share).validation) / 10_000 - share) < 0.02
