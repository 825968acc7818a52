"""What the commands of flows share: options, and loading a flow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from duotone.cli.failures import tell
from duotone.errors import UsageError

if TYPE_CHECKING:
    from duotone.config import SamplingConfig
    from duotone.flow.model import FlowModel

DEFAULT_FLOW = "flow-tiny"
Flow = Annotated[
    str, typer.Option("--flow", metavar="FLOW", help="Bundled name, folder of a trained flow, or a published ema.pt.")
]
PromptFile = Annotated[
    str | None,
    typer.Option(
        "--prompt", metavar="IN", help="Sound file or .duo to continue (- for standard input); none: from nothing."
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of the noise; the same seed gives the same samples on one machine.")]
Context = Annotated[int | None, typer.Option(min=0, help="Chunks of the past that are seen (default: all there are).")]
Temperature = Annotated[float | None, typer.Option(help="Scale of the noise that chunks are made from.")]
Steps = Annotated[int | None, typer.Option(help="Steps of the solver a chunk.")]
Solver = Annotated[
    str | None, typer.Option(help="euler, heun, midpoint, rk4, dpm++, ping-pong; average where the flow has spans.")
]
Shift = Annotated[float | None, typer.Option(help="Above 1, more steps are spent near the noise.")]
Guidance = Annotated[float | None, typer.Option(help="Weight of the history; 1 is none.")]
Exact = Annotated[
    bool, typer.Option("--exact", help="Compute the window again after each chunk, for flows trained without a window.")
]


def load_flow(name: str, device: str) -> FlowModel:
    """The flow of that name, float32. Raises `UsageError` for what is no flow."""
    from duotone.flow.model import FlowModel
    from duotone.hub import load

    found = load(name, device, "float32", say=tell)
    if not isinstance(found, FlowModel):
        raise UsageError(f"--flow got {name}, which is a {type(found).__name__}. Name a flow; codecs go to --codec.")
    return found


def sampling(model: FlowModel, **wishes: Any) -> SamplingConfig:
    """The settings stored with a flow, with those that were given; says which were overridden."""
    from duotone.config import SamplingConfig
    from duotone.flow.controls import Changes

    stored = model.config.sampling
    given = {name: value for name, value in wishes.items() if value is not None}
    Changes.parse(given, "One of the options")
    settings = SamplingConfig.parse({**stored.to_dict(), **given}, "One of the options")
    if settings.solver == "average" and not model.config.spans:
        raise UsageError("--solver average needs a flow with spans; this one has none. Choose another solver.")
    for name, value in given.items():
        if getattr(stored, name) != value:
            tell(f"{name} {value} instead of {getattr(stored, name)}, which is stored with the flow.")
    return settings
