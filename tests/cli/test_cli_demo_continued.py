"""A prompt and its continuation on the demo's page: the sound is the session's, the joint is where it says, and only where a flow fits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from duotone import flow, hub
from duotone.audio.files import read, write
from duotone.audio.synth import synthesize
from duotone.audio.waveform import Waveform
from duotone.cli import demo
from duotone.config import FlowConfig, SamplingConfig
from duotone.evaluate.continued import continue_sound, long_enough
from duotone.evaluate.listening import compare_clip
from duotone.evaluate.listening_page import About, page
from duotone.flow import weights
from flow_toys import stirred
from small_bands import random_bands

CONFIG = FlowConfig(
    dim=32, layers=2, heads=2, head=16, condition=16, tokens=8, channels=8, context_chunks=3, sampling=SamplingConfig(steps=2)
)  # fmt: skip


def test_the_sound_is_the_prompt_and_what_the_session_goes_on_with() -> None:
    model, codec, wave = stirred(CONFIG), random_bands(), synthesize(1, 0.2)
    found = continue_sound(model, codec, wave, "song", "toy", seed=3, seconds=0.1)
    chunk = codec.spec.chunk
    chunks = (wave.resample(codec.spec.rate).length - codec.spec.ahead) // chunk
    assert found.joint == pytest.approx(chunks * codec.spec.chunk_seconds)
    assert found.joint + 0.1 <= found.seconds < found.joint + 0.1 + 2 * codec.spec.chunk_seconds
    with flow.session(model, codec, wave, seed=3, include_prompt=True) as playing:
        pieces = [next(playing).samples for _ in range(found.wave.length // chunk + 2)]
    assert torch.equal(found.wave.samples, torch.cat(pieces, 1)[:, : found.wave.length])
    alone = codec.decode(codec.encode(wave), seed=3)  # the prompt comes through the codec, up to its alignment
    assert alone.length >= found.joint * codec.spec.rate_out - 2 * chunk
    assert long_enough(codec, wave) and not long_enough(codec, Waveform(wave.samples[:, :100].contiguous(), wave.rate))


def test_the_page_has_the_section_with_its_sound_or_not_at_all() -> None:
    model, codec, wave = stirred(CONFIG), random_bands(), synthesize(1, 0.2)
    clips = [compare_clip(codec, wave, "song")]
    found = continue_sound(model, codec, wave, "<song>", "toy", seconds=0.1)
    with_it, without = page(About.of(codec), clips, found), page(About.of(codec), clips)
    assert with_it.count('id="continued"') == with_it.count('id="sound-continued"') == 1
    assert "&lt;song&gt;" in with_it and found.fingerprint in with_it and "{{" not in with_it
    data = json.loads(with_it.partition('id="data">')[2].partition("</script>")[0])
    assert data["continued"] == {"joint": found.joint, "seconds": found.seconds, "sound": "sound-continued"}
    assert 'id="continued"' not in without and "{{" not in without
    assert "continued" not in json.loads(without.partition('id="data">')[2].partition("</script>")[0])


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Bundled weights: a small codec, and a flow of it."""
    codec = random_bands()
    hub.save(codec, tmp_path / "shelf" / hub.DEFAULT)
    config = CONFIG.model_copy(update={"codec": codec.spec.space})
    weights.save(stirred(config), tmp_path / "shelf" / "flow-tiny")
    monkeypatch.setattr(hub, "WEIGHTS", tmp_path / "shelf")
    monkeypatch.chdir(tmp_path)
    write("song.wav", synthesize(1, 0.3))
    write("short.wav", Waveform(synthesize(1, 0.3).samples[:, :200].contiguous(), 48_000))
    return tmp_path / "shelf"


def test_demo_continues_the_first_file_where_the_bundled_flow_fits(
    shelf: Path, duotone: Any, codec_folder: str
) -> None:
    words = ["demo", "song.wav", "short.wav", "-o", "out.html", "--json", "--seed", "4"]
    told = json.loads(duotone(*words, "--codec", "tiny").stdout)["continued"]
    assert (told["title"], told["flow"], told["seed"]) == ("song.wav", "flow-tiny", 4) and told[
        "joint"
    ] < 0.3 < 12 < told["seconds"]
    assert 'id="continued"' in Path("out.html").read_text(encoding="utf-8")
    assert json.loads(duotone(*words, "--codec", codec_folder).stdout)["continued"] is None  # another codec
    words[1:3] = ["short.wav"]
    assert json.loads(duotone(*words, "--codec", "tiny").stdout)["continued"] is None
    (shelf / "flow-tiny" / "config.json").unlink()
    words[1] = "song.wav"
    assert json.loads(duotone(*words, "--codec", "tiny").stdout)["continued"] is None
    assert 'id="continued"' not in Path("out.html").read_text(encoding="utf-8")


def test_of_the_bundled_clips_the_composed_one_is_continued() -> None:
    wave, title = demo._to_continue(demo._bundled())
    composed = next(clip for clip in json.loads((demo.files("duotone") / "assets" / "clips.json").read_text()) if clip["kind"] == "generated")  # fmt: skip
    assert title == composed["title"] and 5 <= wave.seconds <= 8
    assert torch.equal(wave.samples, read(str(demo.files("duotone") / "assets" / composed["file"])).samples)
