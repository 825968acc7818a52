"""What `duotone generate` takes sound from: a flow's session or takes, or a language model's takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from duotone.cli.failures import tell
from duotone.cli.flow_options import DEFAULT_FLOW
from duotone.errors import UsageError

if TYPE_CHECKING:
    from duotone.audio.waveform import Waveform
    from duotone.codec.contract import Codec
    from duotone.config import LMSampling, SamplingConfig
    from duotone.flow.model import FlowModel
    from duotone.flow.prompt import Encodable
    from duotone.lm.model import LanguageModel

ChosenFlow = Annotated[
    str | None,
    typer.Option(
        "--flow", metavar="FLOW",
        help=f"Bundled name, folder of a trained flow, or a published ema.pt (default: {DEFAULT_FLOW}, unless --lm is given).",
    ),
]  # fmt: skip


@dataclass(frozen=True)
class Source:
    """Pieces of all takes without end, and what is told of them."""

    pieces: Iterator[Sequence[Waveform]]
    rate: int
    channels: int
    lead: int  #: samples of the prompt that come first
    about: dict[str, Any]  #: which model, with which settings
    cost: Callable[[], tuple[dict[str, Any], str]]  #: what it cost so far: figures, and a phrase


def refuse(options: Mapping[str, Any], needs: str, given: str) -> None:
    """Raise `UsageError` for options that were given to the wrong kind of model."""
    found = [f"--{name.replace('_', '-')}" for name, value in options.items() if value is not None]
    if found:
        raise UsageError(f"{', '.join(found)} cannot be used with {given}. Leave out what belongs to {needs}.")


def flow_source(
    model: FlowModel, codec: Codec, prompt: Encodable | None, seeds: range, settings: SamplingConfig, context: int | None, exact: bool,
    include_prompt: bool,
) -> Source:  # fmt: skip
    """A session for one seed, takes in one batch for several."""
    from duotone.flow.session import session
    from duotone.flow.takes import Takes
    from duotone.flow.weights import fingerprint

    about = {"flow": fingerprint(model), "settings": settings.to_dict(), "exact": exact}
    if len(seeds) == 1:
        one = session(
            model,
            codec,
            prompt,
            seed=seeds[0],
            settings=settings,
            lookahead=1,
            exact=exact,
            include_prompt=include_prompt,
        )
        one.set(context=context)
        pieces: Iterator[Sequence[Waveform]] = ([piece] for piece in one)
        return Source(pieces, one.rate, one.channels, one.made, about, lambda: _cost(one, one.health().replaced))
    several = Takes(model, codec, prompt, seeds, settings, None, exact, include_prompt, context)
    return Source(iter(several), several.rate, several.channels, several.lead, about, lambda: _cost(several, 0))


def _cost(source: Any, replaced: int) -> tuple[dict[str, Any], str]:
    if replaced:
        tell(
            f"warning: {replaced} chunks were not finite and are silent: the settings or the flow's weights are unusable. "
            f"Try the default settings."
        )
    figures = {
        "chunks": source.chunks, "steps": source.steps, "evaluations": source.evaluations, "replaced_chunks": replaced
    }  # fmt: skip
    return figures, f"{source.steps} steps, {source.evaluations} evaluations"


def lm_source(
    model: LanguageModel, codec: Codec, prompt: Encodable | None, seeds: range, settings: LMSampling, context: int | None,
    include_prompt: bool,
) -> Source:  # fmt: skip
    """Takes of a language model, in one batch."""
    from duotone.lm.model import fingerprint
    from duotone.lm.takes import LMTakes

    takes = LMTakes(model, codec, prompt, seeds, settings, context, include_prompt)
    about = {"lm": fingerprint(model), "settings": settings.to_dict()}
    return Source(
        iter(takes), takes.rate, takes.channels, takes.lead, about,
        lambda: ({"chunks": takes.chunks, "tokens": takes.tokens}, f"{takes.tokens} tokens"),
    )  # fmt: skip
