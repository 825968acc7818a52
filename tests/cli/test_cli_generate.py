"""``duotone generate``: lengths, streams, takes, what is told beside the sound, and clean errors."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

from duotone import flow
from duotone.audio.files import read, write
from duotone.audio.wav_stream import WavStream
from duotone.audio.waveform import Waveform
from duotone.codec.container import write_duo
from duotone.config import LMConfig, LMSampling, SamplingConfig
from duotone.flow.weights import save as save_flow
from duotone.hub import load, save
from duotone.lm import LMTakes, fingerprint
from duotone.lm import random as random_lm
from duotone.lm import save as save_lm
from flow_toys import PAIRED, stirred
from small_bands import random_bands


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("pair")
    save(random_bands(), folder / "codec")
    save_flow(stirred(PAIRED), folder / "flow")
    return ["--flow", str(folder / "flow"), "--codec", str(folder / "codec"), "--dtype", "float32"]


def test_a_file_is_the_session_and_its_json_and_comment_tell_how(pair: list[str], here: Path, duotone: Any) -> None:
    result = duotone(
        "generate", *pair, "--prompt", "a.wav", "--seconds", "0.1", "--seed", "7", "--steps", "3", "-o", "out.wav"
    )
    assert result.exit_code == 0, result.stderr
    assert "steps 3 instead of 2" in result.stderr and "30 steps, 30 evaluations" in result.stderr
    about = json.loads(Path("out.wav.json").read_text())
    assert (about["seed"], about["settings"]["steps"], about["samples"], about["chunks"]) == (7, 3, 4800, 10) or about[
        "chunks"
    ] == 9
    comment = json.loads(soundfile.SoundFile("out.wav").comment)
    assert comment == {key: value for key, value in about.items() if key in comment} and comment["codec"]
    model, codec = load(pair[1]), load(pair[3], dtype="float32")
    assert about["flow"] == flow.fingerprint(model) and about["codec"] == codec.fingerprint
    session = flow.session(model, codec, read("a.wav"), seed=7, settings=SamplingConfig(steps=3))
    own = torch.cat([next(session).samples for _ in range(10)], 1)[:, :4800]
    assert torch.allclose(read("out.wav").samples, own, atol=1 / 32768)


def test_a_stream_has_the_samples_of_the_file(pair: list[str], here: Path, duotone: Any) -> None:
    words = ["generate", *pair, "--seconds", "0.05", "--quiet"]
    assert duotone(*words, "-o", "out.wav").exit_code == 0
    streamed = duotone(*words, "-o", "-")
    sound, rate = soundfile.read(io.BytesIO(streamed.stdout_bytes), dtype="int16")
    assert rate == 48_000 and len(sound) == 2400
    assert (sound == soundfile.read("out.wav", dtype="int16")[0]).all()
    assert json.loads(soundfile.SoundFile(io.BytesIO(streamed.stdout_bytes)).comment)["seed"] == 0


def test_streams_of_unknown_length_are_read_to_the_end(tmp_path: Path) -> None:
    out = io.BytesIO()
    stream = WavStream(out, 8000, 1)
    wave = Waveform(torch.tensor([[0.5, -0.5, 1.0, -1.0, 2.0, 1e-5]]), 8000)
    stream.write(wave)
    stream.write(wave)
    (tmp_path / "a.wav").write_bytes(out.getvalue())
    write(tmp_path / "b.wav", Waveform(torch.cat([wave.samples] * 2, 1).clamp(-1, 1), 8000))
    assert torch.equal(read(tmp_path / "a.wav").samples, read(tmp_path / "b.wav").samples)


def test_takes_are_single_runs_side_by_side(pair: list[str], here: Path, duotone: Any) -> None:
    words = ["generate", *pair, "--prompt", "a.wav", "--seconds", "0.04", "--quiet"]
    assert duotone(*words, "--takes", "3", "--seed", "5", "-o", "t.flac").exit_code == 0
    for i, seed in enumerate((5, 6, 7), start=1):
        assert duotone(*words, "--seed", str(seed), "-o", "one.flac", "--force").exit_code == 0
        assert torch.allclose(read(f"t-{i}.flac").samples[:, :1500], read("one.flac").samples[:, :1500], atol=2e-3)
        assert json.loads(Path(f"t-{i}.flac.json").read_text())["seed"] == seed
    assert not torch.allclose(read("t-1.flac").samples, read("t-2.flac").samples, atol=2e-3)


@pytest.mark.parametrize("takes", ["1", "2"])
def test_the_prompt_comes_first_if_wished(takes: str, pair: list[str], here: Path, duotone: Any) -> None:
    words = [
        "generate",
        *pair,
        "--prompt",
        "a.wav",
        "--seconds",
        "0.02",
        "--include-prompt",
        "--takes",
        takes,
        "-o",
        "p.wav",
    ]
    assert duotone(*words).exit_code == 0
    sound = read("p.wav" if takes == "1" else "p-2.wav")
    assert sound.length == 960 + 4 * 512 - 192  # 2400 samples less the remainder at the beginning


def test_a_duo_is_a_prompt(pair: list[str], here: Path, duotone: Any) -> None:
    codec = load(pair[3], dtype="float32")
    write_duo("p.duo", codec.encode(read("a.wav")))
    assert duotone("generate", *pair, "--prompt", "p.duo", "--seconds", "0.02", "-o", "o.wav").exit_code == 0


def test_json_is_one_object_a_file(pair: list[str], here: Path, duotone: Any) -> None:
    result = duotone("generate", *pair, "--seconds", "0.02", "--takes", "2", "-o", "o.wav", "--json")
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert [each["output"] for each in found] == ["o-1.wav", "o-2.wav"]
    assert found[0]["evaluations"] == found[0]["steps"] == 6


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--seconds", "-1", "-o", "o.wav"], 2, "--seconds got -1"),
        (["--seconds", "nan", "-o", "o.wav"], 2, "--seconds got nan"),
        (["--seconds", "1", "-o", "a.wav"], 2, "exists already"),
        (["--seconds", "1", "-o", "-", "--takes", "2"], 2, "one stream"),
        (["--seconds", "1", "-o", "-", "--json"], 2, "standard output"),
        (["--seconds", "1", "-o", "-", "--format", "flac"], 2, "streams WAV"),
        (["--seconds", "1", "-o", "o.xyz"], 2, "o.xyz"),
        (["--seconds", "1", "-o", "o.wav", "--prompt", "none.wav"], 3, "none.wav"),
        (["--seconds", "1", "-o", "o.wav", "--prompt", "short.wav"], 3, "expected at least"),
        (["--seconds", "1", "-o", "o.wav", "--solver", "magic"], 2, "solver"),
        (["--seconds", "1", "-o", "o.wav", "--solver", "average"], 2, "spans"),
        (["--seconds", "1", "-o", "o.wav", "--temperature", "-3"], 2, "temperature"),
        (["--seconds", "1", "-o", "o.wav", "--flow", "nowhere"], 6, "nowhere"),
        (["--seconds", "1", "-o", "no/such/folder/o.wav"], 2, "folder"),
    ],
)  # fmt: skip
def test_bad_input_is_told_without_a_traceback(
    words: list[str], code: int, message: str, pair: list[str], here: Path, duotone: Any
) -> None:
    write("short.wav", Waveform(torch.zeros(2, 300), 48_000))
    result = duotone("generate", *pair, *words)
    assert result.exit_code == code and message in result.stderr, result.stderr
    assert not list(here.glob("*.json")) and not list(here.glob("o.*"))


def test_a_flow_that_gives_no_numbers_is_told(pair: list[str], here: Path, duotone: Any) -> None:
    model = stirred(PAIRED)
    with torch.no_grad():
        model.proj_out.bias.fill_(torch.nan)
    save_flow(model, "bad")
    words = ["generate", "--flow", "bad", *pair[2:], "--seconds", "0.05", "-o", "o.wav"]
    single, several = duotone(*words), duotone(*words, "--takes", "2")
    assert (
        single.exit_code == 0
        and "6 chunks were not finite" in single.stderr
        and not read("o.wav").samples[:, 480:].any()
    )
    assert several.exit_code == 3 and "is not finite" in several.stderr and not list(here.glob("o-*"))


def test_a_codec_is_no_flow_and_a_flow_no_codec(pair: list[str], here: Path, duotone: Any) -> None:
    one = duotone("generate", "--flow", pair[3], "--codec", pair[3], "--seconds", "1", "-o", "o.wav")
    two = duotone("generate", "--flow", pair[1], "--codec", pair[1], "--seconds", "1", "-o", "o.wav")
    assert one.exit_code == two.exit_code == 2 and "Name a flow" in one.stderr and "expected a codec" in two.stderr


# Language models.


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder, codec = tmp_path_factory.mktemp("tokens"), random_bands()
    save(codec, folder / "codec")
    save_lm(random_lm(LMConfig(dim=16, layers=1, heads=2, context_chunks=3), codec.spec), folder / "lm")
    return ["--lm", str(folder / "lm"), "--codec", str(folder / "codec"), "--dtype", "float32"]


def test_a_language_model_generates_as_its_takes_do(tokens: list[str], here: Path, duotone: Any) -> None:
    words = ["generate", *tokens, "--prompt", "a.wav", "--seconds", "0.05", "--seed", "7", "--top-k", "9"]
    result = duotone(*words, "--takes", "2", "-o", "out.wav")
    assert result.exit_code == 0, result.stderr
    assert "top_k 9 instead of 0" in result.stderr and "tokens" in result.stderr
    about = json.loads(Path("out-2.wav.json").read_text())
    model, codec = load(tokens[1]), load(tokens[3], dtype="float32")
    assert (about["seed"], about["settings"]["top_k"], about["samples"], about["lm"]) == (
        8,
        9,
        2400,
        fingerprint(model),
    )
    assert (
        about["tokens"] == 2 * about["chunks"] * codec.spec.steps and "flow" not in about and "evaluations" not in about
    )
    assert json.loads(soundfile.SoundFile("out-2.wav").comment)["lm"] == about["lm"]
    pieces = iter(LMTakes(model, codec, read("a.wav"), [7, 8], LMSampling(top_k=9)))
    own = torch.cat([next(pieces)[1].samples for _ in range(about["chunks"])], 1)[:, :2400]
    assert torch.allclose(read("out-2.wav").samples, own, atol=1 / 32768)
    assert duotone(*words, "-o", "one.wav").exit_code == 0
    assert torch.allclose(read("one.wav").samples, read("out-1.wav").samples, atol=2 / 32768)


def test_info_describes_a_language_model(tokens: list[str], here: Path, duotone: Any) -> None:
    found = json.loads(duotone("info", tokens[1], "--json").stdout)
    assert (found["type"], found["tokens"], found["architecture"]) == ("language model", 14643, "LlamaForCausalLM")
    assert found["fingerprint"] == fingerprint(load(tokens[1])) and found["sampling"]["top_p"] == 1.0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--flow", "flow-tiny"], "one of them"),
        (["--steps", "3"], "--steps cannot be used with a language model"),
        (["--exact"], "--exact cannot be used"),
        (["--top-p", "2"], "top_p"),
        (["--context", "9"], "context of 9"),
    ],
)
def test_options_of_the_other_kind_are_refused(
    tokens: list[str], here: Path, duotone: Any, words: list[str], message: str
) -> None:
    result = duotone("generate", *tokens, "--seconds", "0.02", "-o", "out.wav", *words)
    assert result.exit_code == 2 and message in result.stderr and not Path("out.wav").exists()


def test_a_flow_takes_no_options_of_language_models(
    pair: list[str], tokens: list[str], here: Path, duotone: Any
) -> None:
    result = duotone("generate", *pair, "--seconds", "0.02", "-o", "out.wav", "--top-k", "3")
    assert result.exit_code == 2 and "--top-k cannot be used with a flow" in result.stderr
    result = duotone("generate", "--lm", pair[1], *tokens[2:], "--seconds", "0.02", "-o", "out.wav")
    assert result.exit_code == 2 and "is a FlowModel" in result.stderr
    result = duotone("generate", "--flow", tokens[1], *tokens[2:], "--seconds", "0.02", "-o", "out.wav")
    assert result.exit_code == 2 and "is a LanguageModel" in result.stderr
