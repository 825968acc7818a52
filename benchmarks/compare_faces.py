"""Both faces of one codec generate, and are measured alike: a flow on its latents, a language model on its codes.

    python benchmarks/compare_faces.py --flow RUN/flow --lm RUN/lm --heldout DIR --store STORE
    python benchmarks/compare_faces.py --flow flow-tiny --lm lm-tiny --heldout DIR --rollouts 32 --positions 16 128

DIR has held-out music by kinds, STORE the latents that both were trained on; options are those of evaluate_flow.py. Both continue the same
prompts, and `duotone.evaluate.flow_figures` measures both: key and tempo against the prompts, joints, Fréchet distances of latents, copying.

The language model writes codes, whose latents have 11 levels in each dimension; the outermost are the bounds, which are infinite in the unit
scale that flows work in. So both are measured in the bounded scale, -1 to 1, that both have. The distance of the recordings' own latents, rounded,
to themselves tells what rounding alone costs.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import machine
from duotone import flow, hub, lm
from duotone.atomic import write_text
from duotone.codec.contract import Codec
from duotone.codec.values import Latents
from duotone.errors import DuotoneError, UsageError
from duotone.evaluate import faces_page, flow_page
from duotone.evaluate.continuations import Rows, Source, of_rows
from duotone.evaluate.flow_figures import PARTS, Measuring, Plan, Reality
from duotone.evaluate.frechet import frechet_distance
from duotone.evaluate.heldout import between_markers
from duotone.flow import weights as flow_weights
from duotone.flow.model import FlowModel
from duotone.flow.prompt import check_pair
from evaluate_flow import data_about, parser, real, telling

NAME = "compare_faces"
DOCS = Path(__file__).resolve().parent.parent / "docs" / "two-faces.md"
MARKS = "<!-- faces -->", "<!-- /faces -->"
SPEED_CHUNKS = 8  # timed for one listener

Make = Callable[[Sequence[int]], Rows]


def bounded(x: Tensor, codec: Codec) -> Tensor:
    """Latents `[..., M, C]` from the unit scale to the codec's own, for codecs that bound them."""
    flat = Latents.from_channels(x.reshape(-1, *x.shape[-2:]).cpu(), codec.spec).values
    return flat.reshape(x.shape)


def unit(x: Tensor, codec: Codec) -> Tensor:
    """The inverse of `bounded`."""
    spec, (tokens, channels) = codec.spec, x.shape[-2:]
    assert spec.latent is not None
    return Latents(x.reshape(-1, *spec.latent), spec).channels(channels).reshape(*x.shape[:-2], tokens, channels)


def rounded(x: Tensor, codec: Codec) -> Tensor:
    """Bounded latents `[N, M, C]` -> the levels that they are rounded to."""
    assert codec.spec.latent is not None
    return Latents(x.reshape(-1, *codec.spec.latent), codec.spec).codes().latents().values.reshape(x.shape)


def in_bounds(source: Source, codec: Codec) -> Source:
    """A source of the unit scale as one of the bounded scale."""
    return lambda prompts, chunks, seeds: bounded(source(unit(prompts, codec), chunks, seeds), codec)


def reality_in_bounds(found: Reality, codec: Codec) -> Reality:
    """Recordings in the bounded scale."""
    held = [dataclasses.replace(each, latents=bounded(each.latents, codec)) for each in found.held_out]
    training = None if found.training is None else [bounded(x, codec) for x in found.training]
    return dataclasses.replace(found, held_out=held, training=training, decode=lambda x: found.decode(unit(x, codec)))


def cost_of_rounding(found: Reality, codec: Codec) -> float:
    """The Fréchet distance of the held-out chunks, rounded, to themselves, in deviations of the data."""
    x = torch.cat([each.latents for each in found.held_out])
    scale = x.std((0, 1)).clamp_min(1e-6)
    return frechet_distance((rounded(x, codec) / scale).flatten(1), (x / scale).flatten(1))


def seconds_a_chunk(make: Make, prompt: Tensor) -> float:
    """The median time of a chunk for one listener."""
    rows, times = make([0]), []
    rows.push(prompt[None])
    for _ in range(SPEED_CHUNKS + 1):
        began = time.perf_counter()
        rows.next()
        times.append(time.perf_counter() - began)
    return float(np.median(times[1:]))


def faces(options: argparse.Namespace, codec: Codec) -> dict[str, tuple[Make, dict[str, Any], FlowModel]]:
    """How to make rows of each face, and what is known of it. Raises `UsageError` for models of another kind, `CodecMismatchError` of another codec."""
    flowing, writing = hub.load(options.flow), hub.load(options.lm)
    if not isinstance(flowing, FlowModel) or not isinstance(writing, lm.LanguageModel):
        raise UsageError(f"Got {type(flowing).__name__} and {type(writing).__name__}, expected --flow and --lm.")
    check_pair(flowing, codec)
    writing.check(codec.spec)
    channels = flowing.config.channels
    of_flow, of_lm = (hub.bundled_folder(name) or Path(name) for name in (options.flow, options.lm))
    return {
        faces_page.FLOW: (
            lambda seeds: flow.Sampler(flowing, seeds),
            about(of_flow, flowing, flow_weights.fingerprint(flowing), flowing.provenance), flowing,
        ),
        faces_page.LM: (
            lambda seeds: lm.LatentRows(writing, seeds, channels=channels),
            about(of_lm, writing.network, lm.fingerprint(writing), writing.provenance), flowing,
        ),
    }  # fmt: skip


def about(folder: Path, network: torch.nn.Module, fingerprint: str, told: dict[str, Any]) -> dict[str, Any]:
    """What a face cost to make and to store."""
    return {
        "fingerprint": fingerprint, "parameters": sum(p.numel() for p in network.parameters()),
        "bytes": sum(path.stat().st_size for path in folder.iterdir()),
        **{key: told.get(key) for key in ("minutes", "steps", "machine", "hours_of_sound")}, "provenance": told,
    }  # fmt: skip


def measured(options: argparse.Namespace, arguments: Sequence[str]) -> dict[str, Any]:
    """The document. Raises `UsageError` for models that do not belong together."""
    codec = hub.load(options.codec)
    made = faces(options, codec)
    flowing = made[faces_page.FLOW][2]
    found = real(codec, flowing, options)
    reality = reality_in_bounds(found, codec)
    plan = Plan(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Plan)})
    plan = dataclasses.replace(plan, positions=tuple(options.positions))
    possible = [
        part
        for part in PARTS
        if part not in ("losses", "drift") and (part != "copying" or reality.training is not None)
    ]
    parts = options.parts or possible
    out: dict[str, Any] = {}
    for name, (make, told, _) in made.items():
        source = in_bounds(of_rows(make, telling(f"chunks of rollouts of the {name}")), codec)
        measuring = Measuring(
            source, reality, plan, lambda line, name=name: print(f"{name}: {line}", file=sys.stderr, flush=True)
        )
        figures = measuring.run(parts)
        figures.pop("seconds")
        speed = seconds_a_chunk(make, unit(measuring.prompts[0], codec))
        out[name] = {
            **told,
            "seconds_a_chunk": speed,
            "figures": figures,
            "plans": dict.fromkeys(figures, dataclasses.asdict(plan)),
        }
    return {
        "machine": machine.describe(), "command": machine.command(arguments, __file__),
        "codec": {"name": codec.spec.model, "fingerprint": codec.fingerprint, "space": codec.spec.space},
        "data": data_about(found, options), "rounding": cost_of_rounding(reality, codec), "faces": out,
    }  # fmt: skip


def page(document: dict[str, Any]) -> str:
    """The benchmark's page as Markdown."""
    held = document["data"]["held_out"]
    return "\n".join([
        "# Two faces, compared\n", flow_page.CLAIM, "", machine.markdown(document["machine"]),
        f"Made by `{document['command']}`: {held['recordings']} held-out recordings, {held['minutes']:.0f} minutes.\n",
        tables(document),
    ])  # fmt: skip


def tables(document: dict[str, Any]) -> str:
    """What both cost, then the figures of each."""
    lines = [faces_page.side_by_side(document), explained(document)]
    for name, face in document["faces"].items():
        lines += [f"## The {name}", "", flow_page.sections(face, "###")]
    return "\n".join(lines) + "\n"


def explained(document: dict[str, Any]) -> str:
    """What the table's figures are of."""
    return (
        "Seconds a chunk are of one listener. Figures are of latents between their bounds; rounding real latents to their levels moves them by a "
        f"Fréchet distance of {document['rounding']:.3f}.\n"
    )


def publish(document: dict[str, Any], options: argparse.Namespace) -> None:
    """Write the model card of the language model, and the table into the docs page."""
    options.cards.mkdir(parents=True, exist_ok=True)
    name = options.name or Path(options.lm).name
    write_text(options.cards / f"{name}.md", faces_page.card(document, name))
    text = f"{faces_page.side_by_side(document)}\n{explained(document)}\nMade by `{document['command']}`; more in [results](../benchmarks/results/{NAME}.md)."
    write_text(options.docs, between_markers(options.docs.read_text(encoding="utf-8"), text, options.docs.name, MARKS))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure both, write the page; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    options = command().parse_args(arguments)
    try:
        document = measured(options, arguments)
    except DuotoneError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    machine.record(NAME, document, page, options.out)
    if options.publish:
        publish(document, options)
    print(page(document))
    return 0


def command() -> argparse.ArgumentParser:
    """The command line: that of evaluate_flow.py, and the language model."""
    out = parser()
    out.description = __doc__
    out.add_argument("--lm", default="lm-tiny", help="bundled name or folder of a language model")
    out.add_argument("--docs", type=Path, default=DOCS, help="the page that --publish puts the table into")
    out.set_defaults(positions=[16, 128])
    return out


if __name__ == "__main__":
    sys.exit(main())
