"""Command lines in `codec-bpe`'s syntax."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand


class Lenient(TyperCommand):
    """Underscores in option names, and options that take several values (``--special-tokens a b``)."""

    several = ("--special-tokens", "--codes-filter", "--vocab-sizes", "--additional-special-tokens", "--audio-filter")

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Rewrite the arguments into the form that typer knows."""
        out: list[str] = []
        option: str | None = None
        for arg in args:
            name, equals, value = arg.partition("=")
            if name.startswith("--"):
                name = name.replace("_", "-")
                option, arg = (name if name in self.several else None), name + equals + value
                out.append(arg)
                fresh = not equals
            elif option is not None and not arg.startswith("-"):
                out += [arg] if fresh else [option, arg]
                fresh = False
            else:
                option = None
                out.append(arg)
        rest: list[str] = super().parse_args(ctx, out)
        return rest
