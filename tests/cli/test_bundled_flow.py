"""The bundled flow: one command makes music with it, it belongs to the bundled codec, and its card is about it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from duotone import flow, hub
from duotone.audio.files import read, write
from duotone.audio.synth import synthesize
from duotone.cli.flow_options import DEFAULT_FLOW
from duotone.evaluate import flow_page
from duotone.flow import weights

ROOT = Path(__file__).resolve().parents[2]
needed = pytest.mark.skipif(
    not (hub.WEIGHTS / DEFAULT_FLOW).is_dir(), reason=f"{DEFAULT_FLOW} does not come with this version yet"
)


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, so that no folder of the flow's name stands in its place."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_without_bundled_weights_the_commands_say_how_to_make_some(
    alone: Path, duotone: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (alone / "weights").mkdir()
    (alone / "weights" / "tiny").symlink_to(hub.WEIGHTS / "tiny", target_is_directory=True)
    monkeypatch.setattr(hub, "WEIGHTS", alone / "weights")
    for words in (["generate", "--seconds", "1", "-o", "out.wav"], ["jam", "--sink", "null", "--seconds", "1"]):
        result = duotone(*words)
        assert result.exit_code == 6 and "duotone train flow-tiny --data STORE" in result.stderr and result.stdout == ""
    assert [path.name for path in alone.iterdir()] == ["weights"]


def test_a_bundled_flow_of_another_codec_is_refused(alone: Path, duotone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = alone / "shelf"
    shelf.mkdir()
    (shelf / hub.DEFAULT).symlink_to(hub.WEIGHTS / hub.DEFAULT)
    config = flow.random(DEFAULT_FLOW).config.model_copy(update={"dim": 64, "layers": 1, "heads": 1, "codec": "0" * 16})
    weights.save(flow.random(config), shelf / DEFAULT_FLOW)
    monkeypatch.setattr(hub, "WEIGHTS", shelf)
    for words in (["generate", "--seconds", "1", "-o", "out.wav"], ["jam", "--sink", "null", "--seconds", "1"]):
        result = duotone(*words)
        assert result.exit_code != 0 and "was trained on latents of codec 0000000000000000" in result.stderr
    assert not (alone / "out.wav").exists()


@needed
def test_the_bundled_flow_is_small_and_belongs_to_the_bundled_codec() -> None:
    folder = hub.WEIGHTS / DEFAULT_FLOW
    assert sum(file.stat().st_size for file in folder.glob("*.safetensors")) <= 16 * 2**20
    model, codec = hub.load(DEFAULT_FLOW), hub.load(hub.DEFAULT)
    assert model.config.codec == codec.spec.space
    assert float(model.proj_out.weight.abs().max()) > 0  # it was trained: that layer starts at zero
    told = model.provenance
    assert told["steps"] > 0 and told["hours_of_sound"] > 0


@needed
def test_one_command_continues_music(alone: Path, duotone: Any) -> None:
    write("song.wav", synthesize(3, 3.0))
    words = ["generate", "--prompt", "song.wav", "--seconds", "2", "--seed", "1", "--quiet", "--dtype", "float32"]
    assert duotone(*words, "-o", "a.wav").exit_code == 0 and duotone(*words, "-o", "b.wav").exit_code == 0
    sound = read("a.wav")
    assert (sound.rate, sound.channels, sound.length) == (48_000, 2, 96_000)
    assert float(sound.samples.square().mean().sqrt()) > 1e-3 and torch.equal(sound.samples, read("b.wav").samples)
    about = json.loads(Path("a.wav.json").read_text(encoding="utf-8"))
    assert about["flow"] == weights.fingerprint(hub.load(DEFAULT_FLOW)) and about["replaced_chunks"] == 0
    assert duotone("jam", "--sink", "null", "--seconds", "1").exit_code == 0


@needed
def test_its_card_and_figures_are_of_these_weights() -> None:
    document = json.loads((ROOT / "benchmarks" / "results" / "flow_card.json").read_text(encoding="utf-8"))
    card = (ROOT / "model_cards" / f"{DEFAULT_FLOW}.md").read_text(encoding="utf-8")
    assert document["flow"]["fingerprint"] == weights.fingerprint(hub.load(DEFAULT_FLOW))
    assert document["codec"]["space"] == hub.load(hub.DEFAULT).spec.space
    assert flow_page.card(document) == card and "continuity, not taste" in card
