"""`prepare`: the same bytes for any number of workers and after any interruption; bad files; what has changed."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from collections_of_sound import LENGTHS, Deadly, contents, fill, make_sounds
from hypothesis import given, settings
from hypothesis import strategies as st

from duotone.audio.files import read
from duotone.codec.codicodec import CoDiCodec
from duotone.errors import AudioError, FormatError, UsageError
from duotone.store import LatentStore, LatentWriter, missing, prepare
from duotone.store.encode import Job, encode_file, settings_for
from duotone.store.statistics import Moments
from toys import TOYS, Features, Grouped, Pcm, Scaled


@pytest.fixture
def jobs(tmp_path: Path) -> list[Job]:
    return make_sounds(tmp_path / "sounds")


@pytest.fixture
def want(tmp_path: Path, jobs: list[Job]) -> dict[str, bytes]:
    """The files of a store that was made without interruption, by one worker."""
    fill(tmp_path / "want", jobs, Grouped(), workers=0)
    return contents(tmp_path / "want")


def test_latents_and_codes_are_those_of_the_files(tmp_path: Path, jobs: list[Job]) -> None:
    store = fill(tmp_path / "s", jobs, Grouped(), workers=0)
    assert [r.name for r in store.recordings] == sorted(LENGTHS) and store.damaged() == []
    assert len({r.file for r in store.recordings}) > 2
    for job in jobs:
        value = Grouped().encode(read(job.sound))
        assert store[job.name] == value and store.codes(job.name) == value.codes()
    assert store.info.array("codes")[0] == "<u2" and not (tmp_path / "s" / ".parts").exists()
    store.verify()


@pytest.mark.parametrize(
    "workers", [2, pytest.param(1, marks=pytest.mark.long), pytest.param(3, marks=pytest.mark.long)]
)
def test_any_number_of_workers_gives_the_same_bytes(
    workers: int, tmp_path: Path, jobs: list[Job], want: dict[str, bytes]
) -> None:
    fill(tmp_path / "s", jobs[::-1], workers=workers)
    assert contents(tmp_path / "s") == want


def test_a_worker_that_is_killed_loses_nothing(tmp_path: Path) -> None:
    jobs = make_sounds(tmp_path / "sounds", "d")
    fill(tmp_path / "want", jobs, Grouped(), workers=0)
    flag = tmp_path / "flag"
    flag.touch()
    fill(tmp_path / "s", jobs, partial(Deadly, str(flag)), workers=1)
    assert not flag.exists() and contents(tmp_path / "s") == contents(tmp_path / "want")


@pytest.mark.long
def test_a_file_that_kills_its_workers_is_a_bad_file(tmp_path: Path) -> None:
    jobs = make_sounds(tmp_path / "sounds", "d")[3:5]
    flag = tmp_path / "flag"
    flag.touch()
    with LatentWriter(tmp_path / "s", settings_for(Grouped())) as writer:
        deadly = partial(Deadly, str(flag), always=True)
        outcomes = {job.name: outcome for job, outcome in prepare(writer, jobs, deadly, workers=1)}
    with pytest.raises(AudioError, match=r"d\.wav ended its worker process 2 times, at last by signal 9"):
        outcomes["d"].check()
    assert [r.name for r in LatentStore(tmp_path / "s").recordings] == ["c"]


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.long)])
def test_a_run_that_is_killed_goes_on_to_the_same_bytes(workers: int, tmp_path: Path) -> None:
    jobs = make_sounds(tmp_path / "sounds", "f")
    fill(tmp_path / "want", jobs, Grouped(), workers=0)
    flag = tmp_path / "flag"
    flag.touch()
    script = tmp_path / "script.py"
    script.write_text(
        "from functools import partial; from pathlib import Path; from collections_of_sound import *\n"
        "if __name__ == '__main__':\n"
        f"    load = partial(Deadly, {str(flag)!r}, parent={bool(workers)})\n"
        f"    fill(Path({str(tmp_path / 's')!r}), jobs_in(Path({str(tmp_path / 'sounds')!r})), "
        f"load if {workers} else load(), workers={workers})\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not flag.exists()
    there = contents(tmp_path / "s")
    assert "shard-000000.latents.npy" in there and 0 < len(LatentStore(tmp_path / "s")) < len(jobs)
    assert any(name.startswith(".parts/") and name.endswith(".json") for name in there)
    assert fill(tmp_path / "s", jobs, Grouped(), workers=0).damaged() == []
    assert contents(tmp_path / "s") == contents(tmp_path / "want")


def test_disk_errors_of_a_worker_end_the_run(tmp_path: Path, jobs: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    from duotone.store.parts import PartWriter

    push = PartWriter.push

    def full(self: PartWriter, arrays: dict[str, np.ndarray]) -> None:
        if self.name == "c":
            raise OSError(errno.ENOSPC, "No space left on device")
        push(self, arrays)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(PartWriter, "push", full)
        fill(tmp_path / "s", jobs, Grouped(), workers=0)
    store = LatentStore(tmp_path / "s")
    assert store.damaged() == [] and not list((tmp_path / "s").rglob("*.part"))
    assert len(fill(tmp_path / "s", jobs, Grouped(), workers=0)) == len(jobs)


def test_bad_files_are_left_out(tmp_path: Path, jobs: list[Job]) -> None:
    bad = [Job("0", str(tmp_path / "none.wav")), Job("cc", str(tmp_path / "text.wav"))]
    (tmp_path / "text.wav").write_text("no sound")
    with LatentWriter(tmp_path / "s", settings_for(Grouped())) as writer:
        outcomes = dict(prepare(writer, [*jobs, *bad], Grouped()))
    for job, message in zip(bad, ("There is no file", "is not a sound file"), strict=True):
        with pytest.raises(AudioError, match=message):
            outcomes[job].check()
    store = LatentStore(tmp_path / "s")
    assert len(store) == len(jobs) and store.damaged() == [] and len(store.mean) == 8


def test_only_what_is_new_or_has_changed_is_encoded(tmp_path: Path, jobs: list[Job]) -> None:
    fill(tmp_path / "s", jobs[:3], Grouped(), workers=0)
    before = contents(tmp_path / "s")
    os.utime(jobs[0].sound, ns=(1, 1))
    with LatentWriter(tmp_path / "s", settings_for(Grouped(), codes=True), 4_000) as writer:
        left = missing(writer, jobs)
        assert [job.name for job in left] == ["a", *(job.name for job in jobs[3:])]
        for _, outcome in prepare(writer, left, Grouped()):
            outcome.check()
    store = LatentStore(tmp_path / "s")
    after = contents(tmp_path / "s")
    kept = {r.file for r in store.recordings} & before.keys()
    assert kept and all(after[name] == before[name] for name in kept) and store.damaged() == []
    fresh = fill(tmp_path / "fresh", jobs, Grouped(), workers=0)
    assert np.array_equal(fresh.mean, store.mean) and np.array_equal(fresh.deviation, store.deviation)


def test_a_shard_without_recordings_is_removed(tmp_path: Path, jobs: list[Job]) -> None:
    fill(tmp_path / "s", jobs[:1], Grouped(), workers=0)
    os.utime(jobs[0].sound, ns=(1, 1))
    store = fill(tmp_path / "s", jobs[:1], Grouped(), workers=0)
    assert sorted(n for n in contents(tmp_path / "s") if n.startswith("shard")) == [
        "shard-000001.codes.npy", "shard-000001.latents.npy",
    ]  # fmt: skip
    assert store.damaged() == []


def test_the_latents_of_a_long_file_are_those_of_the_whole(tmp_path: Path, codec: CoDiCodec) -> None:
    from duotone.audio.blocks import BLOCK_SECONDS
    from duotone.audio.files import write
    from duotone.audio.synth import synthesize

    write(tmp_path / "long.wav", synthesize(1, 1.1 * BLOCK_SECONDS))
    part = encode_file(codec, settings_for(codec), Job("long", str(tmp_path / "long.wav")), tmp_path)
    whole = codec.encode(read(tmp_path / "long.wav"))
    assert (
        np.allclose(part.values("latents", settings_for(codec)), whole.numpy(), atol=1e-5)
        and part.source == whole.source
    )


@pytest.mark.parametrize("toy", TOYS)
@pytest.mark.parametrize("stereo", [False, True])
def test_codecs_of_every_shape(toy: type, stereo: bool, tmp_path: Path, jobs: list[Job]) -> None:
    codec = toy()
    faces = {"latents": "latents" in codec.spec.faces, "codes": "tokens" in codec.spec.faces}
    with LatentWriter(tmp_path / "s", settings_for(codec, "shards", stereo=stereo, **faces)) as writer:
        for _, outcome in prepare(writer, jobs, codec):
            outcome.check()
    store = LatentStore(tmp_path / "s")
    store.verify()
    for job in jobs:
        wave = read(job.sound)
        value = codec.encode(wave if stereo or codec.spec.channels == 2 else wave.to_channels(1))
        if faces["latents"]:
            assert np.array_equal(store.values(job.name), value.numpy())
        if faces["codes"]:
            codes = store.codes(job.name)
            assert codes == value.codes() and np.array_equal(
                store.crop_codes(job.name, 0, 1), value.codes().numpy()[:, : codec.spec.steps]
            )
    if not faces["latents"]:
        with pytest.raises(UsageError, match="no latents"):
            store.values(0)
        with pytest.raises(UsageError, match="no latents"):
            store.mean  # noqa: B018


def test_what_a_codec_does_not_have_is_refused() -> None:
    with pytest.raises(UsageError, match="pcm16 has no latents, only tokens"):
        settings_for(Pcm())
    with pytest.raises(UsageError, match="features has no tokens, only latents"):
        settings_for(Features(), codes=True)
    with pytest.raises(UsageError, match="would hold nothing"):
        settings_for(Grouped(), latents=False)
    with pytest.raises(UsageError, match=r"An \.npy file holds one array"):
        settings_for(Grouped(), "npy", codes=True).check()
    assert settings_for(Scaled(), latents=False, codes=True).holds == ("codes", "scale")
    assert (
        settings_for(Grouped(), "shards").window == (1, 0)
        and settings_for(Pcm(), latents=False, codes=True).window[0] is None
    )


def test_an_unknown_engine_is_refused(tmp_path: Path, jobs: list[Job]) -> None:
    with LatentWriter(tmp_path / "s", settings_for(Grouped())) as writer, pytest.raises(UsageError, match="local, ray"):
        list(prepare(writer, jobs, Grouped(), engine="spark"))


def test_an_empty_collection_is_a_store(tmp_path: Path) -> None:
    store = fill(tmp_path / "s", [], Grouped(), workers=0)
    assert len(store) == 0 and store.chunks == 0 and store.damaged() == []
    with pytest.raises(FormatError, match="no recordings"):
        store.mean  # noqa: B018


@given(
    lengths=st.lists(st.integers(1, 3000), min_size=1, max_size=6), seed=st.integers(0, 99), offset=st.floats(-1e4, 1e4)
)
@settings(max_examples=20)
def test_statistics_do_not_depend_on_order_and_are_sound(lengths: list[int], seed: int, offset: float) -> None:
    generator = np.random.default_rng(seed)
    every = [generator.normal(offset, 1, (n, 4)).astype(np.float32) for n in lengths]
    parts = [Moments.of(values, False, 2) for values in every]
    found = Moments.join(parts).statistics()
    for _ in range(3):
        generator.shuffle(parts)  # type: ignore[arg-type]
        assert Moments.join(parts).statistics() == found
    rows = np.concatenate(every).reshape(-1, 2).astype(np.float64)
    assert found.count == len(rows)
    assert np.allclose(found.mean, rows.mean(0), rtol=1e-12) and np.allclose(found.deviation, rows.std(0), rtol=1e-9)
