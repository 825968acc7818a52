"""Two processes (gloo, CPU) compute what one does: gradients, curves, checkpoints."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from duotone.audio.files import write
from duotone.audio.synth import synthesize
from duotone.codec.codicodec.network import initialise_dead_ends
from duotone.config import CoDiCodecConfig
from duotone.train.consistency import ConsistencyObjective, ConsistencySection
from duotone.train.draws import Draws
from small import SMALL

ANCHORED = CoDiCodecConfig.parse(SMALL.to_dict() | {"anchored": True, "latents": 4})


#: Where the processes find the modules of the tests, and whatever this one was told of.
PATHS = (str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH"))


def make(config: CoDiCodecConfig) -> ConsistencyObjective:
    torch.manual_seed(0)
    model = ConsistencyObjective(config, ConsistencySection())
    initialise_dead_ends(model.network, 0.2)  # so that latents depend on the sound, and nothing is rounding alone
    model.calibrate(batch(8))  # as every run begins
    return model


def batch(total: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(1)
    return 0.3 * torch.randn(total, 2, 2 * SMALL.chunk_samples + SMALL.hop, generator=g)


def launch(count: int, arguments: list[str], folder: Path, **more: str) -> None:
    environment = os.environ | {
        "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, PATHS)), "MASTER_ADDR": "127.0.0.1",
        "DUOTONE_CACHE": str(folder / "cache"), "ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": "lo", **more,
    }  # fmt: skip
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(count), "--master_port", "0",
               "--standalone", *arguments]  # fmt: skip
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[:3000]


#: Runs in every process: its half of the batch through DDP, gradients of the first to a file.
WORKER = """
import gc
import sys
import torch, torch.distributed as dist
sys.path.insert(0, {here!r})
from test_processes import ANCHORED, SMALL, batch, make
from duotone.train.draws import Draws
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
model = torch.nn.parallel.DistributedDataParallel(make({{"small": SMALL, "anchored": ANCHORED}}[{kind!r}]))
own = 4 // world
part = batch(4)[rank * own : (rank + 1) * own]
loss, _ = model({{"samples": part}}, 0.3, Draws(0, 0, rank * own, own, 4))
loss.backward()
if rank == 0:
    torch.save({{n: p.grad for n, p in model.module.named_parameters()}}, {target!r})
dist.barrier()
del model, loss  # a group that a model holds ends with the interpreter, whose threads then abort now and then
gc.collect()
dist.destroy_process_group()
"""


@pytest.mark.parametrize("kind", ["small", pytest.param("anchored", marks=pytest.mark.long)])
def test_two_processes_have_the_gradients_of_one(kind: str, tmp_path: Path) -> None:
    script, target = tmp_path / "worker.py", tmp_path / "gradients.pt"
    script.write_text(WORKER.format(here=str(Path(__file__).parent), kind=kind, target=str(target)))
    launch(2, [str(script)], tmp_path)
    theirs = torch.load(target, weights_only=True)
    model = make({"small": SMALL, "anchored": ANCHORED}[kind])
    model({"samples": batch(4)}, 0.3, Draws.whole(4))[0].backward()
    for name, p in model.named_parameters():
        assert p.grad is not None
        gap = (p.grad - theirs[name]).norm() / p.grad.norm().clamp_min(1e-3)
        assert gap < 1e-5, (name, float(gap))


def plan_of_a_run(folder: Path) -> tuple[Path, Path]:
    """A recipe of five steps, and sound for it."""
    sounds = folder / "sounds"
    sounds.mkdir()
    for i in range(3):
        write(sounds / f"{i}.wav", synthesize(i, 0.3))
    plan = folder / "plan.json"
    plan.write_text(
        json.dumps(
            {
                "model": {"kind": "codicodec", "preset": "base", "replace": SMALL.to_dict()},
                "optim": {"rate": 1e-4, "warmup_steps": 2, "ema_decay": 0.9},
                "train": {
                    "steps": 5, "batch_size": 4, "checkpoint_every": 2, "validate_every": 3, "validation_batches": 1,
                    "precision": "float32", "device": "cpu",
                },
            }
        )
    )  # fmt: skip
    return plan, sounds


def curve(run: Path) -> list[tuple[int, float, float]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [(r["step"], r["loss"], r["grad_norm"]) for r in lines]


def same(one: list[tuple[int, float, float]], other: list[tuple[int, float, float]]) -> None:
    assert len(one) == len(other) == 5
    for (step, loss, norm), (their_step, their_loss, their_norm) in zip(one, other, strict=True):
        assert step == their_step
        assert loss == pytest.approx(their_loss, rel=2e-3) and norm == pytest.approx(their_norm, rel=2e-2)


def test_a_run_on_two_processes_is_the_run_on_one(tmp_path: Path) -> None:
    plan, sounds = plan_of_a_run(tmp_path)
    curves = []
    for count in (1, 2):
        run = tmp_path / f"run{count}"
        arguments = ["-m", "duotone", "train", str(plan), "--data", str(sounds), "--out", str(run), "--quiet"]
        launch(count, arguments, tmp_path)
        curves.append(curve(run))
        assert (run / "codec" / "model.safetensors").is_file()
    same(*curves)


#: Accelerate shards over accelerators alone; told that the processes have some, it shards over CPUs, too.
SHARDED = """
from accelerate.state import PartialState
from accelerate.utils import DistributedType
PartialState(cpu=True)
PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
from duotone.train import loop
from duotone.train.run import train
made = loop.make_accelerator
def check(*arguments):
    accelerator = made(*arguments)
    assert accelerator.distributed_type == "FSDP" and accelerator.is_fsdp2
    return accelerator
loop.make_accelerator = check
train({plan!r}, {sounds!r}, {run!r})
"""


@pytest.mark.long
def test_a_run_sharded_by_fsdp2_is_the_run_on_one(tmp_path: Path) -> None:
    """Weights, averages and checkpoints in shards; a run is taken up again with another way of sharding."""
    plan, sounds = plan_of_a_run(tmp_path)
    alone, run = tmp_path / "alone", tmp_path / "sharded"
    launch(1, ["-m", "duotone", "train", str(plan), "--data", str(sounds), "--out", str(alone), "--quiet"], tmp_path)
    script = tmp_path / "worker.py"
    script.write_text(SHARDED.format(plan=str(plan), sounds=str(sounds), run=str(run)))
    fsdp2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
    layers = {"FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP", "FSDP_TRANSFORMER_CLS_TO_WRAP": "Layer,ConvBlock"}
    launch(2, [str(script)], tmp_path, **fsdp2, **layers)
    same(curve(alone), curve(run))
    end = (run / "codec" / "model.safetensors").read_bytes()
    one, other = (load_file(folder / "codec" / "model.safetensors") for folder in (alone, run))
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-2, atol=1e-4)

    shutil.rmtree(run / "checkpoints" / "step-000000005")
    shutil.rmtree(run / "codec")
    launch(2, [str(script)], tmp_path, **fsdp2, FSDP_AUTO_WRAP_POLICY="NO_WRAP")
    same(curve(alone), curve(run))
    assert (run / "codec" / "model.safetensors").read_bytes() == end
