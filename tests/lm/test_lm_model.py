"""Folders of language models: ordinary ones of transformers, the same model again, and what is refused; and their sound."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

import duotone
from duotone.audio.synth import synthesize
from duotone.audio.waveform import Waveform
from duotone.config import LMConfig, LMSampling
from duotone.errors import AudioError, CodecMismatchError, ConfigError, UsageError, WeightsError
from duotone.lm import LanguageModel, LMSampler, LMTakes, fingerprint, load, random, save
from duotone.tokens import FrameGrammar, FrameStream
from lm_toys import MERGED, PLAIN, SPEC, melody, stirred
from small_bands import random_bands


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("lm") / "merged"
    model = stirred(MERGED)
    model.sampling = LMSampling(temperature=0.5, top_p=0.9)
    save(model, target, provenance={"steps": 3})
    return target


def test_transformers_reads_the_folder(folder: Path) -> None:
    own, network, tokenizer = (
        stirred(MERGED),
        AutoModelForCausalLM.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
    )
    codes = melody(4, 3)
    ids = np.concatenate(own.encode(codes))
    alphabet = own.tokenizer.alphabet
    from duotone.lm.frames import to_frames
    from duotone.tokens import to_text

    texts = [to_text(to_frames(codes[:, i : i + 6], SPEC, 2), alphabet) for i in (0, 6, 12)]
    assert np.concatenate(tokenizer(texts)["input_ids"]).tolist() == ids.tolist()
    seen = torch.from_numpy(ids)[None]
    assert torch.equal(network(input_ids=seen).logits, own.network(input_ids=seen).logits)
    settings = GenerationConfig.from_pretrained(folder)
    assert (settings.temperature, settings.top_p, settings.do_sample) == (0.5, 0.9, True)
    # What its own `generate` writes under the grammar is whole chunks, which the stream of frames reads.
    grammar = FrameGrammar(own.tokenizer, len(tokenizer), group=SPEC.steps)
    torch.manual_seed(0)
    start = torch.tensor([[tokenizer.bos_token_id]])
    made = network.generate(
        start, max_new_tokens=40, logits_processor=[lambda ids, scores: grammar(ids[:, 1:], scores)]
    )
    frames = FrameStream(alphabet, tokenizer=own.tokenizer).push_ids(made[0, 1:].tolist())
    assert frames.shape[0] == 2 and frames.shape[1] >= 18


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_what_was_saved_is_loaded(tmp_path: Path, dtype: torch.dtype | None) -> None:
    model = stirred()
    model.sampling = LMSampling(top_k=7)
    save(model, tmp_path / "m", dtype)
    found = duotone.load(tmp_path / "m")
    assert isinstance(found, LanguageModel) and (found.config, found.spec, found.sampling) == (
        PLAIN,
        SPEC,
        model.sampling,
    )
    assert found.tokenizer == model.tokenizer and found.network.dtype == torch.float32
    if dtype is None:
        assert fingerprint(found) == fingerprint(model)
        assert (LMSampler(found, [1]).next().codes == LMSampler(model, [1]).next().codes).all()
    for name, tensor in found.network.state_dict().items():
        assert torch.equal(tensor, model.network.state_dict()[name].to(dtype or torch.float32).float())
    assert fingerprint(found) != fingerprint(stirred(seed=1))
    size = sum(path.stat().st_size for path in (tmp_path / "m").glob("*.safetensors"))
    assert size < (2.2 if dtype else 4.2) * sum(p.numel() for p in found.network.parameters())  # the embedding once


def test_the_preset_fits_the_bundle(tmp_path: Path) -> None:
    spec = duotone.load("tiny").spec
    save(random(LMConfig(), spec), tmp_path, torch.bfloat16)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 16 << 20


def test_damaged_folders_are_refused(folder: Path, tmp_path: Path) -> None:
    def copy(name: str) -> Path:
        target = tmp_path / name
        target.mkdir()
        for path in folder.iterdir():
            (target / path.name).write_bytes(path.read_bytes())
        return target

    with pytest.raises(WeightsError, match=r"no duotone\.json"):
        load(tmp_path)
    cut = copy("cut")
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:-9])
    with pytest.raises(WeightsError, match="damaged"):
        load(cut)
    other = copy("other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "hidden_size": 64}))
    with pytest.raises(WeightsError, match="misshapen"):
        load(other)
    (other / "config.json").write_text(json.dumps({**config, "model_type": "none such"}))
    with pytest.raises(WeightsError, match="no causal model"):
        load(other)
    (other / "generation_config.json").unlink()
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="generation_config"):
        load(other)
    later = copy("later")
    (later / "duotone.json").write_text((later / "duotone.json").read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(ConfigError, match="version 2"):
        load(later)


def test_models_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="twice its 3 heads"):
        LMConfig.parse({"dim": 32, "heads": 3})
    with pytest.raises(UsageError, match="vocab_size got 5"):
        random(MERGED.model_copy(update={"vocabulary": 5}), SPEC)
    with pytest.raises(UsageError, match="no codes"):
        random(PLAIN, replace(SPEC, codebooks=(), levels=None))


def test_without_transformers_it_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['transformers'] = None\nimport duotone.lm as lm\n"
        "try: lm.model.require_transformers()\nexcept Exception as e: print(type(e).__name__, e)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ), check=True
    )
    assert "UsageError" in found.stdout and "pip install" in found.stdout


# Sound.

SMALL = LMConfig(dim=16, layers=1, heads=2, context_chunks=3)


@pytest.fixture(scope="module")
def pair() -> tuple[LanguageModel, duotone.Codec]:
    codec = random_bands()
    return random(SMALL, codec.spec), codec


def sound(takes: LMTakes, count: int) -> list[torch.Tensor]:
    pieces = iter(takes)
    found = [next(pieces) for _ in range(count)]
    return [torch.cat([row[i].samples for row in found], 1) for i in range(len(found[0]))]


def test_streaming_is_the_whole(pair: tuple[LanguageModel, duotone.Codec]) -> None:
    model, codec = pair
    prompt = Waveform(0.3 * torch.randn(2, 3000, generator=torch.Generator().manual_seed(1)), 48_000)
    takes = LMTakes(model, codec, prompt, [3, 4], include_prompt=True)
    streamed = sound(takes, 9)
    assert takes.tokens == 2 * takes.chunks * codec.spec.steps and takes.lead > 0
    count = (3000 - codec.spec.ahead) // 512
    start = (3000 - codec.spec.ahead) % 512
    with codec.encode_stream(48_000, 2) as stream:
        codes = stream.push(Waveform(prompt.samples[:, start:].contiguous(), 48_000)).codes()
    assert len(codes) == count and takes.chunks == 9 - count
    for i, seed in enumerate((3, 4)):
        sampler = LMSampler(model, [seed])
        sampler.push(codes.numpy())
        made = [model.codes(sampler.next().codes[0]) for _ in range(9 - count)]
        whole = codec.decode(duotone.Codes.join([model.codes(codes.numpy()), *made]), seed=seed).samples
        assert streamed[i].shape[1] >= 8 * 512
        torch.testing.assert_close(streamed[i], whole[:, : streamed[i].shape[1]], atol=1e-5, rtol=0)


def test_prompts_of_every_kind_and_none(pair: tuple[LanguageModel, duotone.Codec]) -> None:
    model, codec = pair
    encoding = codec.encode(synthesize(0, 0.05))
    from_latents, from_codes = (sound(LMTakes(model, codec, p), 2)[0] for p in (encoding, encoding.codes()))
    assert torch.equal(from_latents, from_codes)
    assert not torch.equal(sound(LMTakes(model, codec), 2)[0], from_codes)
    with pytest.raises(AudioError, match="one chunk"):
        LMTakes(model, codec, Waveform(torch.zeros(2, 100), 48_000))
    with pytest.raises(CodecMismatchError):
        LMTakes(model, random_bands(seed=2))
    other = codec.encode(synthesize(0, 0.05))
    with pytest.raises(CodecMismatchError):
        LMTakes(model, codec, duotone.Latents(other.values, replace(other.spec, space="elsewhere")))
