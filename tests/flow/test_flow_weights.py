"""Folders of ours and published checkpoints: what is written is read, and published layouts compute what the equations say."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from typer.testing import CliRunner

import duotone
from duotone.cli.main import app
from duotone.config import FlowConfig
from duotone.errors import ConfigError, UsageError, WeightsError
from duotone.flow import FlowCache, FlowModel, import_published, load, random, save
from flow_toys import DIM, LAYERS, LAYOUT, LOW_RANK, TOY, chunks, published_state, stirred, write_checkpoint


def reference(state: dict[str, Tensor], latents: Tensor, t: Tensor) -> Tensor:
    """The published network by its equations, token by token: latents `[S, 64]` (S = 8 N), t `[S]` -> velocities `[S, 64]`."""
    heads, tokens = DIM // 64, len(latents)

    def rms(x: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))

    def turned(x: Tensor) -> Tensor:  # [heads, S, 64]
        out = torch.empty_like(x)
        for place in range(tokens):
            for half, position in ((0, place % 8), (32, place // 8)):
                for i in range(16):
                    angle = position * 1e4 ** (-i / 16)
                    a, b = x[:, place, half + 2 * i], x[:, place, half + 2 * i + 1]
                    out[:, place, half + 2 * i] = a * math.cos(angle) - b * math.sin(angle)
                    out[:, place, half + 2 * i + 1] = b * math.cos(angle) + a * math.sin(angle)
        return out

    half = DIM // 2
    frequencies = torch.tensor([math.exp(-math.log(1e4) * i / (half - 1)) for i in range(half)])
    angles = t[:, None] * 1000 * frequencies
    c = linear("cond_mlp.2", F.silu(linear("cond_mlp.0", torch.cat([angles.cos(), angles.sin()], -1))))
    x = linear("proj_in", (latents - state["lat_mean"]) / state["lat_std"])
    chunk = torch.arange(tokens) // 8
    allowed = chunk[:, None] >= chunk
    for layer in range(LAYERS):
        block = f"blocks.{layer}."
        scale, shift, gate, scale2, shift2, gate2 = linear(f"{block}mod", F.silu(c)).chunk(6, -1)
        qkv = linear(f"{block}attn.qkv", rms(x) * (1 + scale) + shift)
        q, k, v = (part.view(tokens, heads, 64).transpose(0, 1) for part in qkv.chunk(3, -1))
        scores = turned(rms(q)) @ turned(rms(k)).transpose(1, 2) / 8
        weights = scores.masked_fill(~allowed, -torch.inf).softmax(-1)
        x = x + gate * linear(f"{block}attn.out", (weights @ v).transpose(0, 1).reshape(tokens, DIM))
        a, b = linear(f"{block}mlp.w1", rms(x) * (1 + scale2) + shift2).chunk(2, -1)
        x = x + gate2 * linear(f"{block}mlp.w2", F.silu(a) * b)
    scale, shift = linear("mod_out", F.silu(c)).chunk(2, -1)
    return linear("proj_out", rms(x) * (1 + scale) + shift)


def test_a_published_checkpoint_gives_the_velocities_of_its_equations(tmp_path: Path) -> None:
    state, n = published_state(), 4
    model = import_published(write_checkpoint(tmp_path / "ema.pt", state))
    sizes = model.config
    assert (sizes.dim, sizes.layers, sizes.heads, sizes.condition, sizes.channels) == (DIM, LAYERS, 2, DIM, 64)
    assert sizes.context_chunks is None and sizes.reach is None and sizes.context == 127
    latents = torch.randn(n, 8, 64, generator=torch.Generator().manual_seed(4))
    t = torch.tensor([0.0, 0.0, 0.25, 0.875])
    wanted = reference(state, latents.flatten(0, 1), t.repeat_interleave(8)).view(n, 8, 64)
    with torch.no_grad():
        x = model.normalize(latents)
        found = model(x[None], t[None])[0]
    assert wanted.std() > 0.1
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    cache = FlowCache(model, exact=True)
    cache.append(x[None, :2])
    torch.testing.assert_close(cache.velocity(x[None, 2], 0.25)[0], wanted[2], rtol=0, atol=1e-5)


def test_the_average_is_taken_unless_told_and_the_rest_is_left(tmp_path: Path) -> None:
    averaged, last = published_state(0), published_state(1)
    path = write_checkpoint(tmp_path / "last.pt", averaged, model=last, optim={"state": {}})
    assert torch.equal(import_published(path).proj_in.weight, averaged["proj_in.weight"])
    assert torch.equal(import_published(path, averaged=False).proj_in.weight, last["proj_in.weight"])
    with pytest.raises(WeightsError, match="no entry 'model'; it has ema, config, step"):
        import_published(write_checkpoint(tmp_path / "ema.pt", averaged), averaged=False)


def test_the_list_of_tensors_is_that_of_the_base_preset() -> None:
    lines = [line.split("\t") for line in LAYOUT.read_text(encoding="utf-8").splitlines()[1:]]
    with torch.device("meta"):
        state = FlowModel(FlowConfig()).state_dict()
    wanted = {
        name.replace("{i}", str(i)): tuple(map(int, shape.split("x")))
        for name, shape, _ in lines
        for i in (range(10) if "{i}" in name else (0,))
    }
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == wanted


def test_damaged_and_foreign_checkpoints_are_told(tmp_path: Path) -> None:
    state, path = published_state(), tmp_path / "ema.pt"
    with pytest.raises(WeightsError, match="No file"):
        import_published(path)
    path.write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="no PyTorch file"):
        import_published(path)
    torch.save([1], path)
    with pytest.raises(WeightsError, match="holds list"):
        import_published(path)
    torch.save({"gen_state_dict": {}}, path)
    with pytest.raises(WeightsError, match="no entry 'ema'"):
        import_published(path)
    torch.save({"ema": {"params.conv": torch.zeros(3)}}, path)
    with pytest.raises(WeightsError, match=r"proj_in\.weight"):
        import_published(path)
    missing = {name: tensor for name, tensor in state.items() if name != "blocks.1.mod.bias"}
    with pytest.raises(WeightsError, match=r"1 missing: blocks\.1\.mod\.bias"):
        import_published(write_checkpoint(path, missing))
    odd = {**state, "proj_in.weight": torch.zeros(100, 64)}
    with pytest.raises(WeightsError, match="sizes that are not supported"):
        import_published(write_checkpoint(path, odd))


@pytest.mark.parametrize("config", [TOY, LOW_RANK], ids=["full", "rank"])
def test_a_saved_model_is_loaded_bit_by_bit(config: FlowConfig, tmp_path: Path) -> None:
    sampling = config.sampling.model_copy(update={"steps": 3, "context_noise": 0.05})
    model = stirred(config.model_copy(update={"codec": "abc", "sampling": sampling}))
    save(model, tmp_path / "flow", provenance={"data": "toys"})
    found = load(tmp_path / "flow")
    assert found.config == model.config and not found.training
    assert all(torch.equal(a, found.state_dict()[name]) for name, a in model.state_dict().items())
    assert found.provenance == {"data": "toys"}
    save(model, tmp_path / "flow", torch.bfloat16)
    half = load(tmp_path / "flow")
    assert half.dtype == torch.float32 and torch.equal(half.lat_mean, model.lat_mean)
    assert torch.equal(half.proj_in.weight, model.proj_in.weight.bfloat16().float())
    x, t = chunks(1, 3, config=config), torch.rand(1, 3)
    assert (half(x, t) - model(x, t)).abs().max() < 0.2


def test_folders_that_are_no_flow_are_told(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="No flow at"):
        load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="is not JSON"):
        load(tmp_path)
    (tmp_path / "config.json").write_text('{"format": "duotone-codec"}')
    with pytest.raises(ConfigError, match="duotone-flow"):
        load(tmp_path)
    save(stirred(), tmp_path)
    document = json.loads((tmp_path / "config.json").read_text())
    for change, message in (({"version": 9}, "version 9"), ({"config": {"dim": 3}}, "must be heads")):
        (tmp_path / "config.json").write_text(json.dumps(document | change))
        with pytest.raises(ConfigError, match=message):
            load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(document))
    (tmp_path / "model.safetensors").write_bytes(b"12345678")
    with pytest.raises(WeightsError, match="damaged"):
        load(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"no model\.safetensors"):
        load(tmp_path)


def test_random_models_depend_on_the_seed_alone() -> None:
    before = torch.random.get_rng_state()
    one, two, other = random(TOY, 1), random(TOY, 1), random(TOY, 2)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(one.proj_in.weight, two.proj_in.weight)
    assert not torch.equal(one.proj_in.weight, other.proj_in.weight)
    with pytest.raises(ConfigError, match="flow-base"):
        random("base")


def test_flows_are_loaded_by_the_names_of_their_folders_and_files(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "ema.pt", published_state())
    imported = duotone.load(path)
    assert isinstance(imported, FlowModel)
    save(imported, tmp_path / "flow")
    found = duotone.load(tmp_path / "flow", dtype="bfloat16")
    assert isinstance(found, FlowModel) and found.dtype == torch.bfloat16
    assert torch.equal(found.proj_in.weight, imported.proj_in.weight.bfloat16())
    with pytest.raises(UsageError, match="has no option bandwidth"):
        duotone.load(tmp_path / "flow", bandwidth=3)
    with pytest.raises(WeightsError, match="no weights of it come"):
        duotone.load("flow-base")


def test_convert_writes_a_folder(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "ema.pt", published_state())
    run = CliRunner().invoke(app, ["convert", str(path), str(tmp_path / "flow"), "--dtype", "bfloat16"])
    assert run.exit_code == 0 and "flow of 0." in run.stderr, run.output
    model = load(tmp_path / "flow")
    assert model.provenance == {"weights": "imported from ema.pt"}
    assert torch.equal(model.lat_mean, import_published(path).lat_mean)
    again = CliRunner().invoke(app, ["convert", str(path), str(tmp_path / "flow")])
    assert again.exit_code == 2 and "--force" in again.stderr
    told = CliRunner().invoke(app, ["convert", str(path), str(tmp_path / "other"), "--config", "tiny"])
    assert told.exit_code == 2 and "--config is for codecs" in told.stderr
