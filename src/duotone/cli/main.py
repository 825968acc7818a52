"""The command line: one file per command, errors without tracebacks, exit codes as in `failures`."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from typing import Annotated

import typer

from duotone.cli import (
    codes,
    convert,
    decode,
    demo,
    doctor,
    encode,
    evaluate,
    fetch_sounds,
    generate,
    info,
    jam,
    latents,
    make_sounds,
    prepare,
    serve,
    stores,
    tokens,
    train,
)
from duotone.cli.failures import Guarded, prepare_process

HELP = "Neural audio codecs: audio -> continuous latents or discrete tokens -> audio."
EPILOG = """
Start with **duotone demo**: it encodes a piece, decodes it in every way and writes a page to listen to.

Exit codes: 0 done, 2 arguments, 3 unusable sound, 4 a damaged .duo, store or tokenizer (or none at all), 5 another codec's file, 6 weights, 7 disk, rights or
memory, 8 training, 130 interrupted (143 by SIGTERM), 1 anything else. Of several files that failed, the first one's code.
"""

app = typer.Typer(
    name="duotone",
    cls=Guarded,
    help=HELP,
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_modules = (
    encode,
    decode,
    info,
    convert,
    demo,
    train,
    evaluate,
    make_sounds,
    fetch_sounds,
    codes,
    latents,
    prepare,
    generate,
    jam,
    serve,
    doctor,
)
for _name, _examples, _command, _class in (
    *((m.NAME, m.EXAMPLES, m.command, getattr(m, "CLASS", None)) for m in _modules),
    (train.REPORT_NAME, train.REPORT_EXAMPLES, train.report, None),
):
    app.command(_name, epilog=_examples, cls=_class)(_command)
_groups = {tokens.NAME: tokens.app, stores.NAME: stores.app}
for _name, _group in _groups.items():
    app.add_typer(_group, name=_name)


def _version(value: bool) -> None:
    if value:
        from duotone import __version__

        typer.echo(f"duotone {__version__}")
        raise typer.Exit


@app.callback(help=HELP, epilog=EPILOG)
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", envvar="DUOTONE_DEBUG", help="Show tracebacks of errors.")] = False,
) -> None:
    """Options before the command; `Guarded` reads them."""


def share_cores(environment: MutableMapping[str, str]) -> None:
    """Let PyTorch's threads on Linux (GNU OpenMP) wait for each other without holding their cores for long.

    By default they spin for milliseconds. Where another program needs a core, they all wait for the thread that is not running,
    and decoding takes ten to twenty times as long; on an idle machine it makes no difference. OpenMP reads the setting when
    PyTorch is imported, so this is called before. A value that the user has set is kept.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & environment.keys():
        environment["GOMP_SPINCOUNT"] = "3000"


def run() -> None:
    """Run the program on `sys.argv` and exit."""
    share_cores(os.environ)
    prepare_process()
    app(prog_name="duotone")
