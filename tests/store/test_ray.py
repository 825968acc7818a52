"""The engine on a Ray cluster: the same bytes as the local engine; a worker that is killed loses nothing. Needs the extra `ray`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from collections_of_sound import Deadly, contents, fill, make_sounds

from duotone.errors import AudioError, UsageError
from duotone.store import LatentStore, LatentWriter, prepare
from duotone.store.encode import Job, settings_for
from duotone.store.engines import encode_on_ray
from toys import Grouped


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of this machine with two processors and (in name) a GPU."""
    ray = pytest.importorskip("ray", reason="ray is not installed (extra: ray)")
    paths = os.pathsep.join(path for path in sys.path if path)
    ray.init(
        num_cpus=2, num_gpus=1, object_store_memory=100 << 20, include_dashboard=False, log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": paths}},
    )  # fmt: skip
    yield ray
    ray.shutdown()


@pytest.mark.long
def test_the_bytes_are_those_of_the_local_engine(cluster: Any, tmp_path: Path) -> None:
    jobs = make_sounds(tmp_path / "sounds")
    fill(tmp_path / "want", jobs, Grouped(), workers=0)
    fill(tmp_path / "s", jobs, Grouped, workers=2, engine="ray")
    assert contents(tmp_path / "s") == contents(tmp_path / "want")


@pytest.mark.long
def test_a_worker_that_is_killed_loses_nothing(cluster: Any, tmp_path: Path) -> None:
    jobs = make_sounds(tmp_path / "sounds", "d")
    fill(tmp_path / "want", jobs, Grouped(), workers=0)
    flag = tmp_path / "flag"
    flag.touch()
    fill(tmp_path / "s", jobs, partial(Deadly, str(flag)), workers=1, engine="ray")
    assert not flag.exists() and contents(tmp_path / "s") == contents(tmp_path / "want")


@pytest.mark.long
def test_bad_files_are_left_out(cluster: Any, tmp_path: Path) -> None:
    jobs = [*make_sounds(tmp_path / "sounds")[:2], Job("none", str(tmp_path / "none.wav"))]
    with LatentWriter(tmp_path / "s", settings_for(Grouped())) as writer:
        outcomes = {
            job.name: outcome for job, outcome in prepare(writer, jobs, Grouped, workers=1, engine="ray", gpus=1)
        }
    with pytest.raises(AudioError, match="There is no file"):
        outcomes["none"].check()
    assert len(LatentStore(tmp_path / "s")) == 2


def test_without_ray_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"duotone\[ray\]"):
        list(encode_on_ray(Grouped, settings_for(Grouped()), [(0, Job("a", "a.wav"))], tmp_path, 1))
