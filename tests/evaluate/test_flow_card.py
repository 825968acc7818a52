"""The flow's card: a source that gives the recordings' own continuations measures as they do; the command writes what it measured."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from duotone import flow
from duotone.audio.files import write
from duotone.audio.waveform import Waveform
from duotone.config import FlowConfig, SamplingConfig
from duotone.errors import AudioError, UsageError
from duotone.evaluate import flow_page
from duotone.evaluate.continuations import Recording, crops, of_flow, pick, roll_out
from duotone.evaluate.flow_figures import Measuring, Plan, Reality
from duotone.flow import Sampler
from flow_toys import TOY, chunks, stirred

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
RATE, CHUNK = 8_000, 4_000
PLAN = Plan(prompts=6, prompt=10, continuation=10, rollouts=6, positions=(16, 118), window=8, batch=4, heard=2)


def decode(x: Tensor) -> Waveform:
    """A song: notes of the pitch that the first value of a chunk says, with the period of its second value."""
    pitch, period = (x[:, 0, k].repeat_interleave(CHUNK) for k in (0, 1))
    time = torch.arange(len(pitch)) / RATE
    since = (time % period.clamp(0.2, 0.5)) * 20
    note = 0.3 * torch.sin(2 * math.pi * 220.0 * 2 ** pitch.clamp(-1, 3) * time) * torch.exp(-since)
    return Waveform((note + 0.001 * torch.randn(len(note)))[None], RATE)


def songs(count: int, length: int, seed: int) -> list[Recording]:
    g = torch.Generator().manual_seed(seed)
    out = []
    for i in range(count):
        x = torch.randn(length, 2, 3, generator=g)
        x[:, 0, 0] = i % 7 / 7
        x[:, 0, 1] = (0.2, 0.3, 0.45)[i % 3]
        out.append(Recording(f"music-{'ab'[i % 2]}/{i}", x))
    return out


def the_songs_themselves(real: Measuring) -> Any:
    """Continues with what the recordings have, over and over."""

    def source(prompts: Tensor, count: int, seeds: Sequence[int]) -> Tensor:
        own = torch.stack([real.real[seed % len(real.real)] for seed in seeds])
        return own.repeat(1, count // own.shape[1] + 1, 1, 1)[:, :count]

    return source


def test_the_recordings_own_continuations_measure_as_they_do() -> None:
    torch.manual_seed(0)
    held, training = songs(6, 40, 1), [song.latents for song in songs(40, 40, 2)]
    measuring = Measuring(lambda *_: torch.empty(0), Reality(held, training, decode, CHUNK / RATE), PLAN)
    measuring.source = the_songs_themselves(measuring)
    found = measuring.run(["match", "joints", "distances", "copying", "drift"])
    for key, values in found["match"]["generated"].items():
        assert values["own"]["mean"] == pytest.approx(found["match"]["real"][key]["own"]["mean"], abs=0.05)
        assert values["own"]["mean"] > 0.9
        assert values["difference"]["low"] > 0.1 or key == "same tempo"  # all begin again with each chunk
    assert found["joints"]["generated"]["level, dB"]["joints"]["mean"] == pytest.approx(
        found["joints"]["real"]["level, dB"]["joints"]["mean"], abs=0.3
    )
    rows = {(row["name"], row["position"]): row for row in found["distances"]}
    assert [*rows] == [("generated", 16), ("generated", 118), *((n, None) for n in ("real", "shuffled", "shuffled in time", "held out"))]  # fmt: skip
    assert rows["generated", 16]["frechet"] < rows["shuffled", None]["frechet"] + 2 * rows["real", None]["frechet"]
    assert found["copying"]["nearer"] < 0.1 and found["copying"]["training"] == 1600
    (minute,) = found["drift"]["minutes"]
    assert (
        minute["minute"] == 1
        and minute["level"]["count"] == 2
        and found["drift"]["a_minute"] == {"level": 0, "centroid": 0}
    )
    assert set(found["seconds"]) == {"rollouts", "match", "joints", "distances", "copying", "drift"}


def test_another_song_does_not_match() -> None:
    torch.manual_seed(0)
    measuring = Measuring(lambda *_: torch.empty(0), Reality(songs(6, 40, 1), None, decode, CHUNK / RATE), PLAN)
    own = the_songs_themselves(measuring)
    measuring.source = lambda prompts, count, seeds: own(prompts, count, [seed + 1 for seed in seeds])
    found = measuring.run(["match"])["match"]
    assert (
        measuring.rollouts is not None and measuring.rollouts.shape[1] == PLAN.continuation
    )  # no longer than it has to be
    assert found["generated"]["pitch classes"]["own"]["mean"] < 0.5 < found["real"]["pitch classes"]["own"]["mean"]
    with pytest.raises(UsageError, match="copying the store"):
        measuring.run(["copying"])
    with pytest.raises(UsageError, match="losses need a flow"):
        measuring.run(["losses"])
    measuring.rollouts, measuring.source = None, lambda p, count, seeds: torch.full((len(seeds), count, 2, 3), math.nan)
    with pytest.raises(AudioError, match="6 of 6 rollouts are not finite"):
        measuring.run(["match"])


def test_what_is_not_defined_is_a_dash() -> None:
    torch.manual_seed(0)
    silent = Reality(songs(6, 40, 1), None, lambda x: Waveform(torch.zeros(1, len(x) * CHUNK), RATE), CHUNK / RATE)
    measuring = Measuring(lambda prompts, count, seeds: torch.zeros(len(seeds), count, 2, 3), silent, PLAN)
    found = measuring.run(["match"])
    assert found["match"]["generated"]["same tempo"]["own"]["mean"] is None
    json.dumps(found, allow_nan=False)
    text = flow_page.sections({"figures": {"match": found["match"]}, "plans": {"match": asdict(PLAN)}})
    assert "| generated: same tempo | – | – | – |" in text and "nan" not in text


def test_rollouts_of_a_flow_continue_their_prompts_in_turn() -> None:
    model, prompts = stirred(), chunks(2, 3)
    seen: list[tuple[int, int]] = []
    found = roll_out(of_flow(model, progress=lambda *now: seen.append(now)), prompts, 3, 4, batch=2)
    sampler = Sampler(model, [2])
    sampler.push(prompts[:1])  # number 2 begins again with the first prompt
    for n in range(4):
        torch.testing.assert_close(found[2, n], sampler.next().latents[0], atol=1e-4, rtol=1e-3)
    assert found.shape == (3, 4, TOY.tokens, TOY.channels) and seen[:4] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert roll_out(of_flow(model), prompts[:, :0], 1, 2).shape[1] == 2  # from nothing
    with pytest.raises(UsageError, match="expected at least one"):
        roll_out(of_flow(model), prompts, 0, 4)
    with pytest.raises(UsageError, match="The source gave"):
        roll_out(lambda prompts, count, seeds: torch.zeros(1, 1, 4, 6), prompts, 3, 4)


def test_windows_come_from_all_kinds_and_recordings_in_turn() -> None:
    held = songs(6, 12, 0)
    windows, names = pick([*held, Recording("music-a/short", torch.zeros(3, 2, 3))], 9, 8)
    assert windows.shape == (9, 8, 2, 3) and len(set(names[:6])) == 6
    assert [name.partition("/")[0] for name in names] == ["music-a", "music-b"] * 4 + ["music-a"]
    for window, name in zip(windows, names, strict=True):
        whole = next(each.latents for each in held if each.name == name)
        assert any(torch.equal(window, whole[i : i + 8]) for i in range(5))
    assert crops([each.latents for each in held], 12, 5).shape == (5, 12, 2, 3)
    with pytest.raises(AudioError, match="has 12 chunks, expected 13"):
        pick(held, 2, 13)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("evaluate_flow")


def test_the_command_measures_in_parts_and_writes_the_card(
    command: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i, kind in enumerate(("music-recorded", "music-generated")):
        (tmp_path / "sound" / kind).mkdir(parents=True)
        x = 0.1 * torch.randn(1, 10 * 48_000, generator=torch.Generator().manual_seed(i))
        write(tmp_path / "sound" / kind / "a.wav", Waveform(x, 48_000))
    small = FlowConfig(dim=32, layers=1, heads=2, head=16, condition=16, sampling=SamplingConfig(steps=1))
    flow.save(flow.random(small), tmp_path / "mine", torch.bfloat16, {"steps": 7, "minutes": 90})
    arguments = [
        "--flow", str(tmp_path / "mine"), "--heldout", str(tmp_path / "sound"), "--out", str(tmp_path / "out"), "--prompts", "2",
        "--prompt", "7", "--continuation", "7", "--rollouts", "2", "--positions", "4", "--window", "4", "--crops", "2",
        "--keep", str(tmp_path / "rolled.safetensors"), "--cards", str(tmp_path / "cards"),
    ]  # fmt: skip
    assert command.main([*arguments, "--parts", "match"]) == 0
    assert command.main([*arguments, "--parts", "losses", "joints", "--crops", "1", "--publish", "--recordings"]) == 0
    text, page = ((tmp_path / "out" / f"flow_card.{end}").read_text() for end in ("json", "md"))
    card = (tmp_path / "cards" / "mine.md").read_text()
    assert str(tmp_path) not in text + page + card
    document = json.loads(text)
    assert set(document["figures"]) == {"match", "losses", "joints"} and len(document["commands"]) == 2
    assert document["plans"]["match"]["crops"] == 2 and document["plans"]["losses"]["crops"] == 1
    assert document["figures"]["losses"]["clean_past"] > 0 and document["seconds"]["rollouts"] < 1  # they were kept
    assert flow_page.sections(document) in page and flow_page.card(document) == card
    assert "continuity, not taste" in page and "1.50 hours" in card
    assert (
        "GPL-2.0-only" in card and "| soundfont OPL-3_FM_128M.sf2 | CC-BY-SA-4.0 |" in card
    )  # what played generated music
    assert "TimGM6mb" not in card and "dialogues" not in card  # it plays held-out music; speech was not in the training
    assert "do not surely keep" in card  # an untrained flow makes noise
    assert command.main([*arguments, "--dtype", "bfloat16", "--parts", "match"]) == 2
    assert command.main([*arguments, "--kinds", "music-recorded", "opera"]) == 2
    assert command.main(["--flow", "tiny", "--heldout", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert all(hint in told for hint in ("Name another file", "has no opera", "Name a flow"))


def test_the_card_tells_every_training_that_led_to_the_weights() -> None:
    first = {"steps": 1500, "minutes": 43.2, "machine": "abacus"}
    third = {"steps": 240, "minutes": 24.0, "machine": "slide rule", "began_from": {"fingerprint": "2222", "provenance": {
        "steps": 1000, "minutes": 60.0, "machine": "slide rule", "began_from": {"fingerprint": "1111", "provenance": first},
    }}}  # fmt: skip
    text = flow_page.training_section(third)
    assert "Began from `2222`: 1000 steps in 1.00 hours on slide rule." in text
    assert "Began from `1111`: 1500 steps in 0.72 hours on abacus." in text
    published = {"began_from": {"fingerprint": "3333", "provenance": {"weights": "imported from ema.pt"}}}
    assert "Began from `3333` (imported from ema.pt)." in flow_page.training_section(published)
    assert "Began from flow-tiny." in flow_page.training_section({"began_from": "flow-tiny"})
