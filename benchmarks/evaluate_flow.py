"""Measure a flow's continuations of held-out music, and write benchmarks/results/flow_card.json and .md and its model card.

    python benchmarks/evaluate_flow.py --flow flow-tiny --codec tiny --heldout DIR --store STORE --publish
    python benchmarks/evaluate_flow.py --flow RUN/flow --heldout DIR --parts losses match joints
    python benchmarks/evaluate_flow.py --flow flow-tiny --heldout DIR --store STORE --parts drift --dtype bfloat16

DIR has held-out music by kinds (see duotone.evaluate.heldout), STORE the latents that the flow was trained on (duotone prepare): what
distances are measured to, and what the flow could have copied. --parts measures some figures only; the others stay, where they
are of the same flow and codec. Distances at position 1000 and drift need rollouts of eleven minutes, which are most of the time: on one
AVX-512 core 18 ms a chunk of flow-tiny (20 minutes for 64 rollouts) in float32, 11 ms in bfloat16; two cores take half of that. --positions
16 128 needs a seventh, and drift alone can do with few rollouts: --parts drift --prompts 4 --rollouts 4 takes two minutes. --keep FILE saves
rollouts, and takes those that are there.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import machine
from duotone import hub
from duotone.atomic import write_text
from duotone.codec.contract import Codec
from duotone.codec.values import Latents
from duotone.errors import DuotoneError, UsageError
from duotone.evaluate import continuations, flow_page, heldout
from duotone.evaluate.flow_figures import PARTS, Measuring, Plan, Reality
from duotone.flow import weights as flow_weights
from duotone.flow.model import FlowModel
from duotone.flow.prompt import check_pair
from duotone.store import LatentStore
from duotone.train.latents import StoredLatents

NAME = "flow_card"
ROOT = Path(__file__).resolve().parent.parent
KINDS = ("music-recorded", "music-generated")
SECONDS = 40.0


def parser() -> argparse.ArgumentParser:
    """The command line; the numbers of `Plan` are options."""
    out = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    out.add_argument("--flow", default="flow-tiny", help="bundled name or folder of a flow")
    out.add_argument("--codec", default="tiny", help="the codec of its latents")
    out.add_argument("--heldout", type=Path, required=True, help="folder with held-out sound by kinds")
    out.add_argument("--store", type=Path, nargs="*", default=[], help="stores of latents that the flow was trained on")
    out.add_argument("--name", help="name in results and card (default: that of the flow, without its folder)")
    out.add_argument("--kinds", nargs="+", default=list(KINDS), help="kinds of held-out sound to continue")
    out.add_argument("--seconds", type=float, default=SECONDS, help="at most, from the middle of each held-out file")
    out.add_argument("--files", type=int, help="held-out files of a kind at most")
    out.add_argument("--parts", nargs="+", choices=PARTS, metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    for field in dataclasses.fields(Plan):
        many = {"nargs": "+"} if field.name == "positions" else {}
        out.add_argument(f"--{field.name}", type=int, default=field.default, **many)
    out.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="in which rollouts are made")
    out.add_argument("--keep", type=Path, help="a .safetensors file for the rollouts")
    out.add_argument(
        "--recordings", action="store_true", help="trained on recordings of fetch-sounds: licences in the card"
    )
    out.add_argument("--publish", action="store_true", help="write the model card")
    out.add_argument("--out", type=Path, default=machine.RESULTS, help="where results go")
    out.add_argument("--results", default=NAME, metavar="NAME", help="name of the results' files, for a second flow")
    out.add_argument("--cards", type=Path, default=ROOT / "model_cards", help="where the card goes")
    return out


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, write the results; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    options = parser().parse_args(arguments)
    try:
        document = measured(options, arguments)
    except DuotoneError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    machine.record(options.results, document, lambda d: flow_page.page(d, machine.markdown(d["machine"])), options.out)
    print(flow_page.sections(document))
    print(f"Written: {options.results}.json and {options.results}.md in {options.out}")
    if options.publish:
        options.cards.mkdir(parents=True, exist_ok=True)
        path = options.cards / f"{document['flow']['name']}.md"
        write_text(path, flow_page.card(document))
        print(f"Written: {path.name}")
    return 0


def measured(options: argparse.Namespace, arguments: Sequence[str]) -> dict[str, Any]:
    """The document: figures, and what they are of. Raises `UsageError` for models that do not belong together."""
    codec, model = hub.load(options.codec), hub.load(options.flow)
    if not isinstance(model, FlowModel):
        raise UsageError(f"--flow got {options.flow}, which is {type(model).__name__}. Name a flow.")
    check_pair(model, codec)
    folder = hub.bundled_folder(options.flow) or Path(options.flow)
    name = options.name or Path(options.flow).name
    reality = real(codec, model, options)
    plan = Plan(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Plan)})
    plan = dataclasses.replace(plan, positions=tuple(options.positions))
    parts = options.parts or [part for part in PARTS if part != "copying" or reality.training is not None]
    flow = {"name": name, **flow_about(model, folder)}
    playing = model if options.dtype == "float32" else flow_weights.load(folder).to(torch.bfloat16)
    source = continuations.of_flow(playing, progress=telling("chunks of rollouts"))
    measuring = Measuring(source, reality, plan, tell)
    kept = Kept(
        options.keep,
        {"flow": flow["fingerprint"], "dtype": options.dtype, "names": measuring.names, "prompt": plan.prompt},
    )
    measuring.rollouts = kept.read()
    found = measuring.run(parts, model)
    kept.write(measuring.rollouts)
    seconds = found.pop("seconds")
    before = last(options.results, options.out, flow["fingerprint"], codec.fingerprint)
    told = {**dataclasses.asdict(plan), "dtype": options.dtype}
    commands = dict.fromkeys([*before.get("commands", []), machine.command(arguments, __file__)])
    return {
        "machine": machine.describe(), "commands": list(commands),
        "flow": flow, "codec": {"name": codec.spec.model, "fingerprint": codec.fingerprint, "space": codec.spec.space},
        "data": data_about(reality, options), "plans": {**before.get("plans", {}), **dict.fromkeys(found, told)},
        "figures": {**before.get("figures", {}), **found}, "seconds": {**before.get("seconds", {}), **seconds},
    }  # fmt: skip


def real(codec: Codec, model: FlowModel, options: argparse.Namespace) -> Reality:
    """Held-out recordings as latents, and the store's. Raises `UsageError` for a store of another codec, or kinds that are not there."""
    folders = heldout.kinds_of(options.heldout)
    missing = [kind for kind in options.kinds if kind not in folders]
    if missing:
        raise UsageError(
            f"--heldout has no {', '.join(missing)}; it has {', '.join(folders)}. Name these with --kinds."
        )
    training = None
    if options.store:
        stored = StoredLatents([LatentStore(store) for store in options.store])
        if stored.spec.space != codec.spec.space:
            raise UsageError(
                f"--store holds latents of the codec space {stored.spec.space}, --codec has {codec.spec.space}. Give the store of this codec."
            )
        training = [stored.crop(i, 0, chunks) for i, (_, chunks) in enumerate(stored.recordings)]
    chosen = {kind: folders[kind] for kind in options.kinds}
    channels = model.config.channels
    held = continuations.encode(codec, chosen, channels, options.seconds, options.files, tell)
    return Reality(
        held, training, lambda x: codec.decode(Latents.from_channels(x, codec.spec), seed=0), codec.spec.chunk_seconds
    )


def flow_about(model: FlowModel, folder: Path) -> dict[str, Any]:
    """What the card tells of the weights."""
    config = model.config
    files = folder.glob("*.safetensors") if folder.is_dir() else [folder]
    return {
        "fingerprint": flow_weights.fingerprint(model), "parameters": sum(p.numel() for p in model.parameters()),
        "bytes": sum(file.stat().st_size for file in files), "dim": config.dim, "layers": config.layers, "reach": config.reach,
        "sampling": config.sampling.to_dict(), "provenance": model.provenance,
    }  # fmt: skip


def data_about(reality: Reality, options: argparse.Namespace) -> dict[str, Any]:
    """The sound that was measured with."""

    def hours(latents: Sequence[Tensor]) -> float:
        return sum(map(len, latents)) * reality.chunk_seconds / 3600

    held, training = [each.latents for each in reality.held_out], reality.training
    return {
        "chunk_seconds": reality.chunk_seconds, "recordings": options.recordings,
        "held_out": {"kinds": list(options.kinds), "recordings": len(held), "minutes": 60 * hours(held)},
        "training": None if training is None else {"recordings": len(training), "hours": hours(training)},
    }  # fmt: skip


def last(name: str, folder: Path, flow: str, codec: str) -> dict[str, Any]:
    """The results of the last run; empty where there are none of this flow and codec."""
    found = machine.read(name, folder)
    same = found and (found["flow"]["fingerprint"], found["codec"]["fingerprint"]) == (flow, codec)
    return found if same else {}


@dataclasses.dataclass(frozen=True)
class Kept:
    """Rollouts in a file, and what they are of."""

    path: Path | None
    about: dict[str, Any]

    def read(self) -> Tensor | None:
        """Those of the file; None without one. Raises `UsageError` for others than are wanted."""
        if self.path is None or not self.path.is_file():
            return None
        about = json.loads(self.path.with_suffix(".json").read_text(encoding="utf-8"))
        if about != self.about:
            raise UsageError(
                f"--keep {self.path.name} holds rollouts of another flow, or of other prompts. Name another file."
            )
        return load_file(self.path)["rollouts"]

    def write(self, rollouts: Tensor | None) -> None:
        """Keep them."""
        if self.path is not None and rollouts is not None:
            save_file({"rollouts": rollouts.contiguous()}, self.path)
            write_text(self.path.with_suffix(".json"), json.dumps(self.about))


def telling(what: str, every: float = 20.0) -> Callable[[int, int], None]:
    """A progress that tells at most once in so many seconds."""
    told = [time.monotonic()]

    def progress(done: int, total: int) -> None:
        if time.monotonic() - told[0] > every:
            told[0] = time.monotonic()
            tell(f"{done} of {total} {what}")

    return progress


def tell(line: str) -> None:
    """A line on how it goes, to standard error."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
