"""The options of language models, and loading one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from duotone.cli.failures import tell
from duotone.errors import UsageError

if TYPE_CHECKING:
    from duotone.config import LMSampling
    from duotone.lm.model import LanguageModel

LM = Annotated[
    str | None,
    typer.Option(
        "--lm", metavar="LM", help="Bundled name or folder of a language model, which writes tokens, instead of a flow."
    ),
]
TopK = Annotated[int | None, typer.Option(min=0, help="With --lm: draw from the K likeliest tokens; 0: from all.")]
TopP = Annotated[
    float | None, typer.Option(help="With --lm: draw from the fewest tokens of this probability together.")
]


def load_lm(name: str, device: str) -> LanguageModel:
    """The language model of that name, float32. Raises `UsageError` for what is none."""
    from duotone.hub import load
    from duotone.lm.model import LanguageModel

    found = load(name, device, "float32", say=tell)
    if not isinstance(found, LanguageModel):
        raise UsageError(
            f"--lm got {name}, which is a {type(found).__name__}. Name a language model; flows go to --flow."
        )
    return found


def lm_sampling(model: LanguageModel, **wishes: Any) -> LMSampling:
    """The settings stored with a model, with those that were given; says which were overridden."""
    from duotone.config import LMSampling

    given = {name: value for name, value in wishes.items() if value is not None}
    for name, value in given.items():
        if getattr(model.sampling, name) != value:
            tell(f"{name} {value} instead of {getattr(model.sampling, name)}, which is stored with the language model.")
    return LMSampling.parse({**model.sampling.to_dict(), **given}, "One of the options")
