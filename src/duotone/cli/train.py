"""``duotone train``: a recipe and its data -> a codec, a flow model or a language model; ``duotone report``: an HTML page about a run."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from duotone.cli.common import Json, Quiet
from duotone.cli.failures import tell
from duotone.cli.files import output_path

NAME = "train"
EXAMPLES = """
Examples:

    duotone train tiny-demo --data sounds/ --out runs/first

    duotone train my.yaml --data 'music/**/*.flac' --data shards/ --out runs/two train.steps=200 data.validation=heldout/

    duotone train flow-tiny --data latents/ --out runs/flow

    accelerate launch --num_processes 4 -m duotone train small --data sounds/ --out runs/big

On Ctrl-C, or SIGTERM from a cluster, training finishes the step, writes a checkpoint and exits; the same command
resumes. A resumed run must keep its model, objective, data and batch size; the number of steps and the display may change.
"""


def command(
    recipe: Annotated[
        str,
        typer.Argument(metavar="RECIPE", help="A YAML file, or the name of a bundled recipe, such as tiny-demo."),
    ],
    data: Annotated[
        list[str],
        typer.Option(
            metavar="DATA",
            help="A folder, glob, list of files (.txt) or tar shard of sound; for flow and language models a store (duotone prepare). Repeatable.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="RUN",
            parser=output_path,
            help="Folder for log, checkpoints, samples and result; the same folder resumes the run.",
        ),
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[key=value]...", help="Overrides of the recipe's keys.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a codec, a flow model or a language model; with the same --out, resume a run. Prints the folder of the result.

    With --json each step's metrics are printed to standard output, one object per line; RUN/log.jsonl always has them.
    """
    from duotone.cli.train_display import display
    from duotone.train.log import as_line
    from duotone.train.recipe import TrainRecipe
    from duotone.train.run import train

    loaded = TrainRecipe.load(recipe, overrides)
    with _interrupts() as stop, display(loaded, quiet or as_json) as (watch, progress):
        watchers = [watch, lambda metrics: typer.echo(as_line(metrics))] if as_json else [watch]
        folder = train(
            loaded, list(data), out, None, watchers, progress=progress, load=_load, measure=_measure, picture=_picture,
            stop=stop,
        )  # fmt: skip
        if stop():
            tell(f"Stopped on request, with a checkpoint in {out}; the same command resumes from it.")
    if not as_json:
        typer.echo(folder)


@contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """During training, Ctrl-C and SIGTERM stop after the current step; a second Ctrl-C stops at once."""
    asked: list[int] = []

    def ask(number: int, frame: Any) -> None:
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(number)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _load(name: str) -> Any:
    from duotone.hub import load

    return load(name, dtype="float32", say=tell)


def _measure(reference: Any, estimate: Any) -> dict[str, float]:
    from duotone.evaluate.metrics import measure

    return measure(reference, estimate)


def _picture(wave: Any) -> bytes:
    from duotone.evaluate.picture import png, spectrogram

    return png(spectrogram(wave))


REPORT_NAME = "report"
REPORT_EXAMPLES = """
Examples:

    duotone report runs/first -o first.html --open
"""


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The --out folder of `duotone train`.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", parser=output_path, help="The page (default: RUN/report.html)."),
    ] = None,
    open_page: Annotated[bool, typer.Option("--open/--no-open", help="Show the page in a browser.")] = False,
) -> None:
    """Make one self-contained HTML page of a run: curves, clips to listen to, tables, the recipe."""
    from duotone.evaluate.run_report import write_report

    target, problems = write_report(run, output or run / "report.html")
    for problem in problems:
        tell(f"warning: {problem}")
    typer.echo(target)
    if open_page:
        typer.launch(str(target))
