"""``duotone store``: check stores, put them together, take them to other formats and back."""

from __future__ import annotations

import typer

from duotone.cli.stores import exported, imported, joined, verified

__all__ = ["HELP", "NAME", "app"]

NAME = "store"
HELP = "Stores of latents and codes: verify, join, export, import. Made by: duotone prepare."

app = typer.Typer(help=HELP, no_args_is_help=True, rich_markup_mode="markdown")
for _module in (verified, joined, exported, imported):
    app.command(_module.NAME, epilog=_module.EXAMPLES)(_module.command)
