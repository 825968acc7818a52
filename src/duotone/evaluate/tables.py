"""A report as a table: as text of a given width, as Markdown, as an HTML page.

Only the text table leaves out columns; it lists them below the table.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable
from dataclasses import dataclass

from duotone.evaluate.metrics import Metric
from duotone.evaluate.page import page, safe
from duotone.evaluate.page import table as html_table
from duotone.evaluate.report import UNDEFINED, Report

#: Width of text that fits every terminal, and a pipe.
WIDTH = 80
#: Columns in the order in which a narrow table takes them in; those of other keys come last.
_FIRST = ("bit_rate", "si_sdr", "log_mel", "mr_stft", "decode", "frechet", "stoi", "pesq", "encode")
_GAP = 2  # spaces between columns
_NAME = 40  # longest name of a system that text shows in full


@dataclass(frozen=True)
class Column:
    """A column: its title, the subtitle (unit, better direction), and each system's value.

    `bounds` is the value's interval, where it has one.
    """

    key: str
    title: str
    unit: str
    value: Callable[[str], str]
    bounds: Callable[[str], str] = lambda system: ""

    @property
    def heading(self) -> str:
        """Title and unit on one line."""
        separator = "" if self.unit in ("", "x", "↑", "↓", "→0") else ","
        return f"{self.title}{separator} {self.unit}".rstrip()


def columns(report: Report) -> list[Column]:
    """All columns of a report after the system's name."""
    out = [Column("bit_rate", "kbit/s", "", lambda system: f"{report.bit_rate(system) / 1000:.2f}")]
    out += [_metric_column(report, metric) for metric in report.measured]
    if report.frechet:
        out.append(Column("frechet", "Fréchet", "↓", lambda system: _short(report.frechet.get(system, math.nan))))
    out.append(Column("encode", "encode", "x", lambda system: _short(report.speed(system, "encode"))))
    out.append(Column("decode", "decode", "x", lambda system: _short(report.speed(system, "decode"))))
    return out


def _metric_column(report: Report, metric: Metric) -> Column:
    unit = f"{metric.unit} {metric.arrow}".lstrip()
    return Column(
        metric.key, metric.label, unit,
        lambda system: report.mean(system, metric.key).mean_text(),
        lambda system: report.mean(system, metric.key).bounds_text(),
    )  # fmt: skip


def _short(value: float) -> str:
    if math.isnan(value):
        return UNDEFINED
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def text_table(
    report: Report, width: int = WIDTH, intervals: bool = False
) -> tuple[list[str], list[list[str]], list[str]]:
    """The summary as text: headings (of two lines each), rows, and the lines to print below the table.

    As many columns as fit into `width`, the most important first. With `intervals` a second row below each system holds
    the bounds of its means.
    """
    every = columns(report)
    filled = {column.key: _filled(column, report, intervals) for column in every}
    names = [_shortened(system) for system in report.systems]
    room = width - max(map(len, ["system", *names]))
    rank = {key: place for place, key in enumerate(_FIRST)}
    taken: set[str] = set()
    for column in sorted(every, key=lambda column: rank.get(column.key, len(rank))):
        cells = [column.title, column.unit, *(line for cell in filled[column.key] for line in cell)]
        wide = max(map(len, cells)) + _GAP
        if wide <= room:
            taken.add(column.key)
            room -= wide
    shown = [column for column in every if column.key in taken]
    headings = ["\nsystem", *(f"{column.title}\n{column.unit}" for column in shown)]
    rows = []
    for i, name in enumerate(names):
        cells_of = [filled[column.key][i] for column in shown]
        rows.append([name, *(value for value, _ in cells_of)])
        if any(bounds for _, bounds in cells_of):
            rows.append(["", *(bounds for _, bounds in cells_of)])
    left_out = [column.title for column in every if column.key not in taken]
    return headings, rows, textwrap.wrap(caption(report, intervals, left_out), max(width, 20), break_on_hyphens=False)


def _filled(column: Column, report: Report, intervals: bool) -> list[tuple[str, str]]:
    return [(column.value(system), column.bounds(system) if intervals else "") for system in report.systems]


def _shortened(name: str) -> str:
    """A long name without its middle."""
    if len(name) <= _NAME:
        return name
    half = (_NAME - 1) // 2
    return f"{name[:half]}…{name[-half:]}"


def caption(report: Report, intervals: bool = True, left_out: list[str] | None = None) -> str:
    """How to read the table."""
    count = "1 file" if len(report.files) == 1 else f"{len(report.files)} files"
    failed = f" ({len(report.failures)} more failed)" if report.failures else ""
    means = "Mean over files [95% bootstrap interval]" if intervals else "Mean over files"
    parts = [
        f"{count}{failed}, {report.seconds:.0f} s of sound. {means}; bit rates from the bytes of real files; "
        f"encode and decode in times real time; {UNDEFINED} is undefined."
    ]
    if report.frechet:
        parts.append(f"Fréchet distance over {report.settings['frechet']}.")
    if left_out:
        parts.append(f"Not shown, to fit the width: {', '.join(left_out)}.")
    return " ".join(parts)


def markdown(report: Report) -> str:
    """The summary as a Markdown table with intervals, and its caption."""
    headings, rows = _whole(report)
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + f"\n\n{caption(report)}\n"


def html_page(report: Report) -> str:
    """The summary with intervals, and all rows, as one self-contained HTML page."""
    name = str(report.codec.get("name", "codec"))
    each = []
    for row in report.rows:
        values = [row.metrics.get(metric.key, math.nan) for metric in report.measured]
        shown = [UNDEFINED if math.isnan(value) else f"{value:.3f}" for value in values]
        each.append([row.file, row.system, f"{row.bit_rate / 1000:.2f}", *shown])
    codecs = {name: report.codec, **report.others}
    about = "; ".join(f"{name}: fingerprint {about.get('fingerprint', '')}" for name, about in codecs.items())
    parts = [
        f"<h1>{safe(name)}</h1>",
        html_table(*_whole(report)),
        f'<p class="soft">{safe(caption(report))} {safe(about)}.</p>',
        "<h2>File by file</h2>",
        html_table(["file", "system", "kbit/s", *(metric.label for metric in report.measured)], each),
    ]
    if report.failures:
        failed = [[failure.file, failure.error] for failure in report.failures]
        parts += ["<h2>Files that failed</h2>", html_table(["file", "reason"], failed)]
    return page(f"{name} evaluated", "\n".join(parts))


def _whole(report: Report) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of all columns, with intervals after the means."""
    every = columns(report)
    rows = [
        [system, *(f"{column.value(system)} {column.bounds(system)}".rstrip() for column in every)]
        for system in report.systems
    ]
    return ["system", *(column.heading for column in every)], rows
