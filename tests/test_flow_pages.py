"""The pages about flows and their notebook, run in miniature."""

from __future__ import annotations

import functools
import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from duotone import hub
from duotone.audio.files import read, write
from duotone.audio.synth import synthesize
from duotone.codec.codicodec import CoDiCodec
from duotone.codec.codicodec.weights import export_codicodec
from duotone.config import SamplingConfig, Solver, flow_preset
from duotone.flow import Controls, Health, protocol, weights
from duotone.flow.controls import SLOTS, Changes
from duotone.flow.session import LOOKAHEAD
from duotone.spec import CodecSpec
from duotone.store import LatentStore
from duotone.train.flow_sections import FlowModelSection
from duotone.train.recipe import TrainRecipe, bundled
from flow_toys import DIM, published_state, write_checkpoint
from pages import TRAIN_FLOW, block_of, code_of, commands_of, lines_of, page, run
from small import SMALL

FLOW = "flow-tiny"
CONTINUE = page("docs/continue-my-music.md")
COMING = page("docs/coming-from-codicodec-flow.md")


@pytest.fixture(scope="module")
def own_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled weights; where no flow is among them, one as training starts it stands for it."""
    if FLOW in hub.bundled("flow"):
        return hub.WEIGHTS
    folder = tmp_path_factory.mktemp("weights")
    (folder / hub.DEFAULT).symlink_to(hub.WEIGHTS / hub.DEFAULT)
    config = flow_preset(FLOW).model_copy(update={"codec": spec().space})
    weights.save(weights.random(config), folder / FLOW)
    return folder


@pytest.fixture
def here(own_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: song.wav and music/, with a flow bundled."""
    monkeypatch.setattr(hub, "WEIGHTS", own_weights)
    monkeypatch.chdir(tmp_path)
    write("song.wav", synthesize(1, 1.5))
    (tmp_path / "music").mkdir()
    for i in range(2):
        write(tmp_path / "music" / f"{i}.wav", synthesize(i, 4.0))
    return tmp_path


@functools.cache
def spec() -> CodecSpec:
    """That of the bundled codec."""
    found: CodecSpec = hub.load(hub.DEFAULT).spec
    return found


MINIATURE = {
    "prepare": ["--workers", "0"],
    "train": TRAIN_FLOW,
    "generate": ["--seconds", "0.7"],
    "jam --stdio": [],
    "jam": ["--sink", "null", "--seconds", "0.3"],
}


def test_continue_my_music_runs(here: Path) -> None:
    (here / "performance.jsonl").write_text(re.sub(r'"chunks": \d+', '"chunks": 1', block_of(CONTINUE, "jsonl")))
    told = commands_of(CONTINUE, 13, MINIATURE)
    for name in ("more", "take-4", "out", "mine", "other"):
        assert read(f"{name}.wav").seconds >= 0.7 and json.loads(Path(f"{name}.wav.json").read_text())["codec"]
    assert json.loads(Path("other.wav.json").read_text())["settings"]["solver"] == "dpm++"
    assert Path("runs/mine/report.html").is_file() and list(Path("runs/mine/samples").rglob("*-continued.wav"))
    assert any("solver: euler" in each and "trained on" in each for each in told)
    events = [json.loads(line) for line in told[-1].splitlines()]
    assert not [event for event in events if event["type"] == "error"]
    pieces = [event for event in events if event["type"] == "audio"]
    assert len(pieces) == 4 and events[-1]["type"] == "stopped"
    assert read("performance.wav").length == sum(piece["count"] for piece in pieces)


def test_sessions_of_the_page_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code_of(CONTINUE)
    told = capsys.readouterr().out
    assert "2.15 s from a control to the ear" in told.replace("2.148", "2.15") and "True Waveform" in told, told
    assert abs(read("session.wav").seconds - 20 * spec().chunk_seconds) < 1e-3


def test_figures_of_the_page_are_those_of_the_code() -> None:
    chunk = spec().chunk_seconds
    for lookahead in (LOOKAHEAD, 1):
        assert f"{(lookahead + 1) * chunk:.2f} s" in CONTINUE
    assert f"{(LOOKAHEAD + 1) * chunk:.2f} s" in COMING
    assert f"look-ahead ({LOOKAHEAD} chunks, 1 with --lookahead 1)" in CONTINUE
    assert f"of at least {(spec().chunk + spec().ahead) / spec().rate:.2f} s (a chunk" in CONTINUE
    assert f"`t_min`, {SamplingConfig().t_min}" in CONTINUE


def table_of(text: str, head: str) -> dict[str, str]:
    """The first two columns of the table whose head begins so; rows of several names become several rows."""
    lines = text[text.index(f"| {head} |") :].split("\n\n")[0].splitlines()[2:]
    found = {}
    for line in lines:
        first, second = (cell.strip() for cell in line.split("|")[1:3])
        names = re.findall(r"`(\w+)`", first)
        values = second.split(", ", len(names) - 1)
        found |= dict(zip(names, values * len(names) if len(values) < len(names) else values, strict=False))
    return found


def test_the_table_of_controls_is_complete() -> None:
    rows = table_of(CONTINUE, "control")
    assert rows.keys() == Changes.model_fields.keys()
    rest = {**SamplingConfig().to_dict(), **Controls.of(flow_preset(FLOW)).to_dict()}
    named = {"context": "all", "lfos": "none", "feedback": "false"}
    for name, told in rows.items():
        value = rest[name]
        value = value[0] if isinstance(value, (list, tuple)) and name.endswith(("scale", "bias")) else value
        value = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) and name not in named else value
        assert told == named.get(name, str(value)), name
    stored = list(rows)[: list(rows).index("context_noise") + 1]
    assert {*stored, "t_min"} == SamplingConfig.model_fields.keys()
    assert f"| {SLOTS} oscillators" in CONTINUE
    overrides = re.findall(r"`(model\.replace\.sampling\.[^`]+)`", CONTINUE)
    section = TrainRecipe.load(FLOW, overrides).model
    assert isinstance(section, FlowModelSection)
    assert (section.build().sampling.solver, section.build().sampling.steps) == ("heun", 6)


def test_the_table_of_health_is_complete() -> None:
    assert table_of(CONTINUE, "figure").keys() == {field.name for field in fields(Health)}


def test_the_tables_of_commands_and_events_are_complete() -> None:
    own = {field.name for field in fields(Health)}
    for head, union in (("command", protocol.Command), ("event", protocol.Event)):
        lines = CONTINUE[CONTINUE.index(f"| {head} | fields |") :].split("\n\n")[0].splitlines()[2:]
        rows = {(cells := line.split("|"))[1].strip(" `"): set(re.findall(r"`(\w+)`", cells[2])) for line in lines}
        models = {model.model_fields["type"].default: model for model in get_args(get_args(union)[0])}
        assert rows.keys() == models.keys()
        for name, model in models.items():
            missing = model.model_fields.keys() - {"type", "id"} - rows[name]
            assert missing == (own if (head, name) == ("event", "health") else set()), name
            assert rows[name] <= model.model_fields.keys(), name


NOTEBOOK: dict[str, Any] = json.loads(page("examples/continue_my_music.ipynb"))


def test_the_notebook_is_valid_and_clean() -> None:
    assert (NOTEBOOK["nbformat"], NOTEBOOK["nbformat_minor"]) == (4, 5)
    assert NOTEBOOK["metadata"]["kernelspec"]["name"] == "python3"
    names = [cell["id"] for cell in NOTEBOOK["cells"]]
    assert len(names) == len(set(names)) and all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name) for name in names)
    for cell in NOTEBOOK["cells"]:
        own = {"execution_count", "outputs"} if cell["cell_type"] == "code" else set()
        assert cell.keys() == {"cell_type", "id", "metadata", "source", *own} and cell["metadata"] == {}
        assert not cell.get("outputs") and cell.get("execution_count") is None
        assert all(line.endswith("\n") for line in cell["source"][:-1])


def test_the_notebook_runs(
    here: Path, own_weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its code cells in order, as a notebook runs them."""
    recipe = [*TRAIN_FLOW, "train.device=cpu"]
    small = {"start_from": str(own_weights / FLOW), "steps": 1, "seconds": 1.4, "recipe": recipe, "music": "music"}
    monkeypatch.setenv("DUOTONE_NOTEBOOK", json.dumps(small))
    names: dict[str, Any] = {}
    for cell in NOTEBOOK["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"cell {cell['id']}", "exec"), names)
    told, progress = capsys.readouterr()
    assert "step 1/1" in progress and "Health(" in told, progress
    for name in (
        "continued-1.wav",
        "continued-2.wav",
        "session.wav",
        "run/samples/step-000000001/clip-0-continued.wav",
    ):
        assert name in told and read(name).seconds >= 1.3
    assert read("continued-1.wav").seconds > 1.4 + 2 * spec().chunk_seconds  # the prompt is heard first
    assert hub.load(here / "run" / "flow").config.codec == spec().space


# --- coming from CoDiCodec-Flow

#: A chunk has 8 x 64 values, as those of the published codec.
PUBLISHED = SMALL.model_copy(update={"latents": 128})
SIZES = [
    f"model.replace.{name}={value}" for name, value in (("dim", DIM), ("condition", DIM), ("heads", 2), ("layers", 2))
]
FROM_THERE = {
    "convert codicodec.pt": ["--config", "sizes.yaml"],
    "prepare": ["--workers", "0"],
    "train": [*TRAIN_FLOW, "train.batch_size=2", *SIZES],
    "generate": ["--seconds", "0.05"],
    "jam": ["--sink", "null", "--seconds", "0.02"],
}


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with what somebody has who comes from there: weights, latents, sound."""
    monkeypatch.chdir(tmp_path)
    codec = CoDiCodec(CoDiCodec.random(PUBLISHED, seed=1).network, extras={"unused": torch.zeros(2)})
    export_codicodec(codec, "codicodec.pt")
    Path("sizes.yaml").write_text(PUBLISHED.to_json())
    for folder in ("runs/v0", "data/latents", "music"):
        Path(folder).mkdir(parents=True)
    write_checkpoint(Path("runs/v0/ema.pt"), published_state())
    for i in range(2):
        wave = synthesize(i, 0.2)
        shard = {"latent": codec.encode(wave, framing="published").channels(64), "sample_rate": wave.rate}
        torch.save({**shard, "samples": wave.length, "source": f"{i}.wav"}, f"data/latents/{i}.pt")
        write(f"music/{i}.wav", wave)
    write("prompt.wav", synthesize(3, 0.1))
    return tmp_path


def ours_of(text: str, heading: str) -> list[list[str]]:
    """The code in the second column of the table below a heading, row by row."""
    rows = [line for line in text.split(f"\n## {heading}\n")[1].split("\n## ")[0].splitlines() if line.startswith("| ")]
    return [re.findall(r"`([^`]+)`", row.split(" | ")[1]) for row in rows[2:]]


def test_commands_for_those_who_come_from_there(there: Path) -> None:
    commands_of(COMING, 9, FROM_THERE)
    assert len(LatentStore("store")) == len(LatentStore("again")) == 2
    assert LatentStore("store").recordings[0].source.framing == "published"
    began = json.loads(Path("runs/v1/flow/config.json").read_text())
    assert began["provenance"]["began_from"]["fingerprint"] == weights.fingerprint(weights.load("flow"))
    assert began["config"]["context_chunks"] == 12
    assert read("out.wav").seconds == pytest.approx(0.05)


def test_each_of_our_options_for_those_who_come_from_there(there: Path) -> None:
    first, second, third, *_ = lines_of(COMING)
    for line in (first, second, third):
        run(line, FROM_THERE)

    (base,) = (line for line in lines_of(COMING) if line.startswith("duotone prepare"))
    options = [option for row in ours_of(COMING, "preprocess") for option in row]
    run(" ".join([base, *options, *re.findall(r"`(--workers 2)`", COMING)]), FROM_THERE)

    rows = ours_of(COMING, "train")
    keys = [each for row in rows for each in row if "=" in each]
    words = [each for row in rows for each in row if each.startswith("--")]
    recipes = {each for row in rows for each in row if each.startswith("flow-")}
    assert len(keys) == 15 and recipes == {"flow-base", "flow-small"} and recipes <= bundled().keys()
    run(" ".join(["duotone train flow-base", *words, *keys, "data.listen_with=codicodec/"]), FROM_THERE)
    smaller = TrainRecipe.load("flow-base", [key for key in keys if key.startswith("model.")]).model
    assert isinstance(smaller, FlowModelSection)
    assert smaller.build() == flow_preset("flow-small").model_copy(update={"context_chunks": 12})

    options = [option for row in ours_of(COMING, "sample") for option in row]
    solvers = [option for option in options if option.startswith("--solver")]
    assert {option.split()[1] for option in solvers} == {*get_args(Solver)} - {"average"}
    rest = [option for option in options if option not in solvers]
    for solver in solvers:
        run(" ".join(["duotone generate --seconds 1 --force", *rest, solver]), FROM_THERE)
        assert json.loads(Path("out.wav.json").read_text())["settings"]["temperature"] == 1.5


def test_each_line_for_jam_for_those_who_come_from_there(there: Path) -> None:
    for line in lines_of(COMING)[:2]:
        run(line, FROM_THERE)
    found = [each for row in ours_of(COMING, "realtime") for each in row]
    commands = [json.loads(each) for each in found if each.startswith("{")]
    options = [each for each in found if each.startswith("--")]
    assert "--stdio" in options and len(commands) == 9
    Path("lines").write_text("\n".join(map(json.dumps, [*commands, {"type": "step"}, {"type": "stop"}])))
    told = run(" ".join(["duotone jam --clock host --sink null", *options, "< lines"]), {})
    events = [json.loads(line) for line in told.splitlines()]
    answers = [event["command"] for event in events if event["type"] == "ack"]
    assert answers == [*(command["type"] for command in commands[1:]), "step"] and events[-1]["type"] == "stopped"
