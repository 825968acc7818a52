"""``duotone evaluate``: codecs on held-out sound, against each other and against Opus."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from duotone.atomic import is_stream
from duotone.cli.codec_options import (
    Bandwidth,
    Device,
    Dtype,
    Particular,
    Quantizers,
    Repository,
    load_codec,
    particular,
)
from duotone.cli.common import Force, Quiet, check_outputs, table
from duotone.cli.failures import require_stdout, shown, tell, verdict
from duotone.cli.files import named_path, output_path
from duotone.errors import DuotoneError, UsageError

if TYPE_CHECKING:
    from duotone.codec.contract import Codec as LoadedCodec
    from duotone.evaluate.report import Report

NAME = "evaluate"
EXAMPLES = """
Examples:

    duotone evaluate tiny --data heldout/

    duotone evaluate runs/first/codec --data heldout/ --against opus:6k --against tiny --limit 20 --json

    duotone evaluate mimi --n-quantizers 8 --against mimi,n-quantizers=32 --against tiny --data heldout/

    duotone evaluate tiny --data heldout/ --frechet clap:laion/larger_clap_music --html evaluation.html
"""
#: An option after the name of a codec in --against.
_OPTION = re.compile(r"(?P<name>bandwidth|n-quantizers|codec-repo)=(?P<value>.+)")
#: What it is called in `duotone.load`, and its type.
_OPTIONS: dict[str, tuple[str, type]] = {
    "bandwidth": ("bandwidth", float), "n-quantizers": ("n_quantizers", int), "codec-repo": ("repository", str),
}  # fmt: skip


def command(
    codec: Annotated[
        str,
        typer.Argument(metavar="CODEC", help="Bundled name, folder, .pt file, mimi and the like, org/name on the Hub."),
    ],
    data: Annotated[
        Path, typer.Option(metavar="DIR", parser=named_path, help="A folder of sound that no codec was trained on.")
    ],
    against: Annotated[
        list[str] | None,
        typer.Option(
            metavar="BASELINE",
            help="opus:6k and the like (needs opus-tools), or a codec, with options after commas; repeatable.",
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use at most this many files, drawn with the seed.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Only the beginning of each file.")] = None,
    rate: Annotated[
        int | None, typer.Option(min=1, help="Measure at this rate (default: the highest of the codecs).")
    ] = None,
    speech: Annotated[
        str, typer.Option(metavar="PART", help="Compute STOI and PESQ for files with this text in their name.")
    ] = "speech",
    frechet: Annotated[
        str, typer.Option(metavar="EMBEDDING", help="logmel (a stand-in without weights), clap:NAME or ast:NAME.")
    ] = "logmel",
    bandwidth: Bandwidth = None,
    n_quantizers: Quantizers = None,
    repository: Repository = None,
    seed: Annotated[int, typer.Option(help="Seed of the noise, of the draw and of the intervals.")] = 0,
    intervals: Annotated[
        bool, typer.Option("--intervals", help="Show the 95% confidence intervals in the table.")
    ] = False,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", parser=output_path, help="Also write an HTML page with every row.")
    ] = None,
    force: Force = False,
    device: Device = "cpu",
    dtype: Dtype = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="The whole report as JSON on standard output.")] = False,
    quiet: Quiet = False,
) -> None:
    """Compare decoded sound with the original: SI-SDR, log-mel and spectral distances, stereo, speech, bit rate, speed.

    Latents (continuous) and codes (discrete), decoded with each strategy, are separate rows. The table shows what fits the
    terminal, or 80 columns; --json and --html have everything.
    """
    from duotone.evaluate import speech as spoken
    from duotone.evaluate.compare import choose_files, evaluate_folder
    from duotone.evaluate.frechet import load_embedder
    from duotone.evaluate.opus import is_opus, parse_rate, require_programs

    _check_output(html, force)
    baselines = [spec for spec in against or [] if is_opus(spec)]
    if [parse_rate(spec) for spec in baselines]:
        require_programs()
    choose_files(data, limit, seed)  # a wrong folder is reported before codecs are loaded, which can take long
    embedder = load_embedder(frechet)
    options = particular(bandwidth, n_quantizers, repository)
    others = [spec for spec in against or [] if spec not in baselines]
    codecs = _load(codec, options, others, device, dtype)
    if not (quiet or as_json) and spoken.missing():
        tell(f"Not installed, so not measured: {', '.join(spoken.missing())} (pip install 'duotone[speech]').")
    failures = _Failures()
    report = evaluate_folder(
        codecs, data, baselines, limit, seed, seconds=seconds, rate=rate, speech=speech, embedder=embedder,
        progress=None if quiet or as_json else tell, failed=failures,
    )  # fmt: skip
    if html is not None:
        _write_page(html, report)
    if as_json:
        typer.echo(report.to_json(), nl=False)
    else:
        _print(report, intervals)
    if failures.code:
        raise typer.Exit(failures.code)


def _check_output(html: Path | None, force: bool) -> None:
    """Check before the work whether the results can be written. Raises `UsageError` or `OSError`."""
    require_stdout()
    if html is None:
        return
    if html.is_dir():
        raise UsageError(f"--html {html} is a folder, expected the name of a file. Add a name to it.")
    if html.exists() and not is_stream(html) and not force:
        raise UsageError(f"{html} exists already. Add --force to replace it, or choose another name with --html.")
    check_outputs([html])


def _load(codec: str, options: Particular, others: Sequence[str], device: str, dtype: str) -> dict[str, LoadedCodec]:
    """Load the codecs; the keys are their names in the table; `options` belong to the first.

    Raises `UsageError` for a name that is not a codec, or is given twice.
    """
    names = _names([codec, *others])
    if len(set(names)) < len(names):
        raise UsageError(f"{max(names, key=names.count)} is named twice. Name each codec once.")
    found: dict[str, LoadedCodec] = {}
    for name, spec in zip(names, [codec, *others], strict=True):
        model, own = _with_options(spec)
        wanted = own if found else {**own, **{key: value for key, value in options.items() if value is not None}}
        found[name] = load_codec(model, device, dtype, particular(**{**dict.fromkeys(options), **wanted}))
    return found


def _with_options(spec: str) -> tuple[str, dict[str, Any]]:
    """``mimi,n-quantizers=8`` -> ``mimi`` and its options; a name with commas of its own stays whole."""
    model, *parts = spec.split(",")
    matches = [_OPTION.fullmatch(part) for part in parts]
    if None in matches:
        return spec, {}
    options = {}
    for match in filter(None, matches):
        name, kind = _OPTIONS[match["name"]]
        try:
            options[name] = kind(match["value"])
        except ValueError as error:
            raise UsageError(f"{spec} has an option that cannot be used ({error}).") from None
    return model, options


def _names(specs: Sequence[str]) -> list[str]:
    """Short names: the last part of a path, with as many parts before it as needed to be unique."""
    parts = [tuple(part for part in spec.split("/") if part not in ("", ".")) or (spec,) for spec in specs]
    names = []
    for own in parts:
        others = [other for other in parts if other != own]
        count = next((n for n in range(1, len(own) + 1) if all(other[-n:] != own[-n:] for other in others)), len(own))
        names.append("/".join(own[-count:]))
    return names


class _Failures:
    """Reports files that could not be evaluated; `code` is the first one's exit code, 0 if there are none."""

    code = 0

    def __call__(self, file: str, error: Exception) -> None:
        message, code = verdict(error) or (str(error), DuotoneError.exit_code)
        self.code = self.code or code
        tell(f"error: {file}: {message}" if file not in message else f"error: {message}")


def _write_page(html: Path, report: Report) -> None:
    from duotone.atomic import write_text
    from duotone.evaluate.tables import html_page

    html.parent.mkdir(parents=True, exist_ok=True)
    write_text(html, html_page(report))


def _print(report: Report, intervals: bool) -> None:
    from duotone.evaluate.tables import WIDTH, text_table

    width = shutil.get_terminal_size((WIDTH, 24)).columns if sys.stdout.isatty() else WIDTH
    headings, rows, notes = text_table(report, max(width, WIDTH), intervals)
    for line in [*table(headings, rows), "", *notes]:
        typer.echo(shown(line))
