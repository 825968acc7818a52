"""Taking up a run again: what may change and what not, whose folder it is, and one process at a time."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from duotone.errors import ConfigError, UsageError
from duotone.train import checkpoint, loop, resume
from duotone.train.lock import HOLDER, LOCK, locked
from duotone.train.optimizers import make_optimizers
from duotone.train.recipe import TrainRecipe
from duotone.train.run import train
from duotone.train.sections import DATA, MODELS, OBJECTIVES, SoundSection
from duotone.train.settings import OptimSection
from toy_task import Radius, ToyData, ToyModel, ToyObjective, Vectors, curve, toy_values, train_until


@pytest.fixture(autouse=True)
def toy_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    for kinds, section in ((MODELS, ToyModel), (OBJECTIVES, ToyObjective), (DATA, ToyData)):
        monkeypatch.setattr(kinds, "known", dict(kinds.known))
        kinds.register(section)  # type: ignore[attr-defined]


def recipe(**changes: Any) -> TrainRecipe:
    values = toy_values()
    for key, value in changes.items():
        section, _, name = key.partition("__")
        values[section][name] = value
    return TrainRecipe.parse(values)


def begun(run: Path, steps: int = 4) -> None:
    train(recipe(train__steps=steps), "points", run)


@pytest.mark.parametrize(
    ("change", "value", "named"),
    [
        ("train__batch_size", 2, "train.batch_size was 4, now 2"),
        ("train__seed", 1, "train.seed"),
        ("objective__rate_of_judge", 0.1, "objective.rate_of_judge"),
        ("optim__name", "adamw", "optim.name"),
        ("train__decoded_clips", 0, "train.decoded_clips"),
    ],
)
def test_what_would_falsify_the_record_is_refused(change: str, value: Any, named: str, tmp_path: Path) -> None:
    begun(tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(ConfigError, match=named):
        train(recipe(**{change: value}), "points", tmp_path)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_other_data_is_refused(tmp_path: Path) -> None:
    begun(tmp_path)
    with pytest.raises(ConfigError, match="other data"):
        train(recipe(), "other points", tmp_path)
    (tmp_path / resume.DATA).write_text("[")
    with pytest.raises(ConfigError, match="damaged"):
        train(recipe(), "points", tmp_path)


def test_how_fast_data_is_read_may_change() -> None:
    one, other = (TrainRecipe.parse({"data": {"workers": n}}) for n in (1, 2))
    assert resume.changes(one, other) == {"data.workers": [1, 2]}
    with pytest.raises(ConfigError, match=r"data\.silence_db"):
        resume.changes(one, TrainRecipe.parse({"data": SoundSection(silence_db=-50)}))
    with pytest.raises(ConfigError, match=r"model\.preset was 'tiny', now 'base'"):
        resume.changes(one, TrainRecipe.parse({"model": {"preset": "base"}}))


def test_steps_and_rates_may_change_and_are_recorded(tmp_path: Path) -> None:
    begun(tmp_path)
    seen: list[dict[str, Any]] = []
    train(recipe(train__steps=6, optim__rate=1e-5, train__log_every=1), "points", tmp_path, watchers=[seen.append])
    noted = [json.loads(line) for line in (tmp_path / resume.CHANGES).read_text().splitlines()]
    assert noted == [{"step": 4, "changed": {"optim.rate": [0.01, 1e-5], "train.steps": [4, 6]}}]
    assert json.loads((tmp_path / resume.RECIPE).read_text())["train"]["steps"] == 6
    train(recipe(train__steps=6, optim__rate=1e-5), "points", tmp_path)
    train(recipe(train__steps=7, optim__rate=1e-5), "points", tmp_path)
    with (tmp_path / resume.CHANGES).open("ab") as file:
        file.write(b"\xff\n")  # damage is passed over
    train(recipe(train__steps=7, optim__rate=1e-5), "points", tmp_path)
    noted = [json.loads(line) for line in (tmp_path / resume.CHANGES).read_bytes().splitlines() if line != b"\xff"]
    assert [(change["step"], list(change["changed"])) for change in noted[1:]] == [(6, ["train.steps"])]


def test_a_changed_rate_is_the_one_that_is_used(tmp_path: Path) -> None:
    """The optimizer's state in the checkpoint holds the former rate."""
    begun(tmp_path)
    before = load_file(checkpoint.folder(tmp_path) / "step-000000004" / "model.safetensors")
    train(recipe(train__steps=6, optim__rate=1e-12), "points", tmp_path)
    after = load_file(checkpoint.folder(tmp_path) / "step-000000006" / "model.safetensors")
    assert torch.allclose(before["generator.0.weight"], after["generator.0.weight"], atol=1e-9)


def test_before_the_first_checkpoint_everything_may_change(tmp_path: Path) -> None:
    class Crash(Exception):
        pass

    def crash(metrics: dict[str, Any]) -> None:
        raise Crash

    with pytest.raises(Crash):
        train(recipe(train__validate_every=50, train__batch_size=2), "points", tmp_path, watchers=[crash])
    for path in checkpoint.folder(tmp_path).glob("*"):  # the first validation's
        path.rename(tmp_path / "elsewhere")
    train(recipe(), "points", tmp_path)
    train(recipe(), "points", tmp_path / "whole")
    assert curve(tmp_path) == curve(tmp_path / "whole") and not (tmp_path / resume.CHANGES).exists()


def test_a_checkpoint_of_earlier_versions_is_read(tmp_path: Path) -> None:
    """They numbered the optimizers in a list; the recipe called the model codec."""
    begun(tmp_path / "new", 6)
    train_until(3, recipe(train__steps=6), tmp_path / "old")
    place = checkpoint.folder(tmp_path / "old") / "step-000000004"
    state = json.loads((place / "state.json").read_text())
    for i, name in enumerate(state["optimizers"]):
        (place / f"optimizer-{name}.safetensors").rename(place / f"optimizer-{i}.safetensors")
    state["optimizers"] = list(state["optimizers"].values())
    (place / "state.json").write_text(json.dumps(state))
    (tmp_path / "old" / resume.DATA).unlink()
    train(recipe(train__steps=6), "points", tmp_path / "old")
    assert curve(tmp_path / "old") == curve(tmp_path / "new")


def test_a_folder_that_is_no_run_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "codec").mkdir()
    (tmp_path / "codec" / "mine.txt").write_text("dear to me")
    with pytest.raises(UsageError, match=r"holds codec but is not a run"):
        train(recipe(), "points", tmp_path)
    (tmp_path / resume.RECIPE).write_text('{"flour": 500}')
    with pytest.raises(UsageError, match=r"recipe\.json is not the recipe of a run"):
        train(recipe(), "points", tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="which is a file"):
        train(recipe(), "points", tmp_path / "file")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["codec", "file", resume.RECIPE]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("of the user, and in nobody's way")
    begun(tmp_path / "run")


def test_an_output_that_cannot_be_written_is_found_before_the_data_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ToyObjective, "task", lambda self, parts: pytest.fail("the data was read"))
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Not a directory"):
        train(recipe(), "points", tmp_path / "file" / "run")

    def full(*arguments: Any, **named: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("duotone.train.lock.write_json", full)
    with pytest.raises(OSError, match="No space"):
        train(recipe(), "points", tmp_path / "run")


#: Holds the lock on a folder until it is killed.
HOLD = """
import sys, time
from pathlib import Path
from duotone.train.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_training_in_one_folder_is_refused_until_the_first_is_dead(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None and holder.stdout.readline() == "held\n"
            with pytest.raises(UsageError, match=f"trained in by process {holder.pid} on"):
                train(recipe(), "points", tmp_path)
            assert not (tmp_path / resume.RECIPE).exists()
        finally:
            holder.send_signal(signal.SIGKILL)
    assert (tmp_path / HOLDER).exists()  # what is left of a killed process is in nobody's way
    begun(tmp_path)
    assert not (tmp_path / HOLDER).exists()


def test_a_lock_without_a_note_is_a_lock(tmp_path: Path) -> None:
    with locked(tmp_path):
        (tmp_path / HOLDER).write_text("")
        with pytest.raises(UsageError, match="another process"), locked(tmp_path):
            pass
    with locked(tmp_path):
        assert (tmp_path / LOCK).exists()


def test_what_a_killed_process_was_writing_is_removed(tmp_path: Path) -> None:
    begun(tmp_path)
    left = checkpoint.folder(tmp_path) / ".duotone-step-000000004.abc.part"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    begun(tmp_path)
    assert [p.name for p in checkpoint.folder(tmp_path).iterdir() if p.name.startswith(".")] == []


def test_waiting_for_data_is_waiting_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that moves in validation (100 s) and nowhere else."""
    now = [0.0]
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def slow(self: Radius, done: int, weights: Any) -> dict[str, Any]:
        now[0] += 100
        return {"validation_loss": 1.0}

    monkeypatch.setattr(Radius, "__call__", slow)
    seen: list[dict[str, Any]] = []
    train(recipe(train__validate_every=2, train__steps=4), "points", tmp_path, watchers=[seen.append])
    assert [r["waiting_for_data"] for r in seen] == [0, 0, 0, 0]
    assert [r["seconds"] for r in seen] == [0, 100, 100, 0]  # validated after the steps 0, 1 and 3


def test_waiting_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: now[0]))
    vectors = Vectors(0)

    def late(examples: Any, first: int, last: int, positions: range) -> Any:
        for step in range(first, last):
            now[0] += 7
            yield vectors.batch(step, positions)

    monkeypatch.setattr(loop, "read_ahead", late)
    seen: list[dict[str, Any]] = []
    train(recipe(train__steps=3), "points", tmp_path, watchers=[seen.append])
    assert [r["waiting_for_data"] for r in seen] == [7, 7, 7]


@pytest.mark.parametrize("name", ["radam", "adamw"])
def test_weight_decay_leaves_vectors_alone(name: Any) -> None:
    module = torch.nn.Module()
    for key, shape in {
        "matrix": (3, 4),
        "bias": (4,),
        "gain": (1, 1, 5, 1),
        "scalar": (),
        "kernel": (2, 3, 3, 3),
    }.items():
        module.register_parameter(key, torch.nn.Parameter(torch.ones(shape)))
    module.register_parameter("still", torch.nn.Parameter(torch.ones(3, 3), requires_grad=False))
    (optimizer,) = make_optimizers(OptimSection(name=name, rate=0.1, weight_decay=0.5), module)
    for _ in range(3):
        for p in module.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step()
    moved = {key for key, p in module.named_parameters() if not torch.equal(p, torch.ones_like(p))}
    assert moved == {"matrix", "kernel"}


def test_without_weight_decay_there_is_one_group() -> None:
    (optimizer,) = make_optimizers(OptimSection(), torch.nn.Linear(3, 3))
    assert len(optimizer.param_groups) == 1
