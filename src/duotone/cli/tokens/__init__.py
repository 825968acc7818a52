"""``duotone tokens``: acoustic BPE. Commands accept the option names of `codec-bpe`, with dashes or underscores."""

from __future__ import annotations

import typer

from duotone.cli.tokens import advise, dataset, decode, extend, report, stats, train
from duotone.cli.tokens.lenient import Lenient

__all__ = ["HELP", "NAME", "Lenient", "app"]

NAME = "tokens"
HELP = "Acoustic BPE: codes of any codec -> tokens for language models."

app = typer.Typer(help=HELP, no_args_is_help=True, rich_markup_mode="markdown")
for _module in (train, report, advise, dataset, stats, extend, decode):
    app.command(_module.NAME, cls=Lenient, epilog=_module.EXAMPLES)(_module.command)
