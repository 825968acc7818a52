"""What an evaluation found: a row for each file and system, means with their uncertainty, and tables of them."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from duotone.errors import UsageError
from duotone.evaluate.metrics import METRICS, Metric

RESAMPLES = 2_000
LEVEL = 0.95
UNDEFINED = "–"


@dataclass(frozen=True)
class Row:
    """One file through one system; `figures` by metric key, NaN where a metric is undefined."""

    file: str
    system: str
    seconds: float
    file_bytes: int
    figures: dict[str, float]
    encode_seconds: float | None = None
    decode_seconds: float | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def bit_rate(self) -> float:
        """Bits a second of the real file."""
        return 8 * self.file_bytes / self.seconds


@dataclass(frozen=True)
class Interval:
    """A mean over `count` files and its 95% percentile bootstrap interval (Efron 1979); NaN when `count` is 0."""

    mean: float
    low: float
    high: float
    count: int

    def text(self, digits: int = 2) -> str:
        """Like ``1.23 [0.98, 1.45]``; the mean alone for a single file."""
        if self.count == 0:
            return UNDEFINED
        if self.count == 1:
            return f"{self.mean:.{digits}f}"  # one file says nothing about others
        return f"{self.mean:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


def bootstrap(values: list[float], seed: int) -> Interval:
    """The mean of the defined values and its interval, resampling files with replacement 2000 times.

    The same seed and number of values draw the same files, so that systems are resampled together.
    """
    defined = np.array([v for v in values if not math.isnan(v)], dtype=np.float64)
    if not defined.size:
        return Interval(math.nan, math.nan, math.nan, 0)
    draws = np.random.default_rng(seed).integers(0, defined.size, (RESAMPLES, defined.size))
    low, high = np.quantile(defined[draws].mean(1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(defined.mean()), float(low), float(high), int(defined.size))


@dataclass(frozen=True)
class Report:
    """All rows of an evaluation, with what was evaluated (`codec`) and how (`settings`)."""

    codec: dict[str, Any]
    settings: dict[str, Any]
    rows: tuple[Row, ...]
    frechet: dict[str, float] = field(default_factory=dict)  # system -> distance to the originals

    @cached_property
    def systems(self) -> tuple[str, ...]:
        """Names of the systems, in the order they were run."""
        return tuple(dict.fromkeys(row.system for row in self.rows))

    @cached_property
    def files(self) -> tuple[str, ...]:
        """Names of the files, relative to the folder."""
        return tuple(dict.fromkeys(row.file for row in self.rows))

    @property
    def seconds(self) -> float:
        """Seconds of sound, each file once."""
        return sum({row.file: row.seconds for row in self.rows}.values())

    def of(self, system: str) -> list[Row]:
        """The rows of a system. Raises `UsageError` listing the systems there are."""
        if system not in self.systems:
            raise UsageError(f"The report has no system {system!r}. It has: {', '.join(self.systems)}.")
        return [row for row in self.rows if row.system == system]

    def only(self, part: str) -> Report:
        """The report of those files whose name contains `part`, for example ``music``."""
        rows = tuple(row for row in self.rows if part in row.file)  # Fréchet distances are of whole sets: left out
        if not rows:
            raise UsageError(f"No file of the report has {part!r} in its name. There are: {', '.join(self.files)}.")
        return Report(self.codec, {**self.settings, "only": part}, rows)

    def mean(self, system: str, key: str) -> Interval:
        """Mean and 95% interval of a metric for a system."""
        return bootstrap([row.figures.get(key, math.nan) for row in self.of(system)], self.settings["seed"])

    def difference(self, system: str, other: str, key: str) -> Interval:
        """Mean and 95% interval of ``system - other`` file by file: surer than two intervals side by side."""
        mine, theirs = ({row.file: row.figures.get(key, math.nan) for row in self.of(name)} for name in (system, other))
        return bootstrap([mine[file] - theirs[file] for file in mine if file in theirs], self.settings["seed"])

    def bit_rate(self, system: str) -> float:
        """Bits a second over all files of a system."""
        rows = self.of(system)
        return 8 * sum(row.file_bytes for row in rows) / sum(row.seconds for row in rows)

    def speed(self, system: str, way: str) -> float:
        """Seconds of sound a second of `way` (``encode`` or ``decode``) takes in; NaN where nothing was timed."""
        timed = [(row.seconds, getattr(row, f"{way}_seconds")) for row in self.of(system)]
        pairs = [(sound, spent) for sound, spent in timed if spent]
        return sum(sound for sound, _ in pairs) / sum(spent for _, spent in pairs) if pairs else math.nan

    def summary(self) -> dict[str, dict[str, Any]]:
        """Figures of each system: bit rate, speeds (x real time), means with intervals."""
        return {
            system: {
                "bit_rate": self.bit_rate(system),
                "encode_speed": self.speed(system, "encode"),
                "decode_speed": self.speed(system, "decode"),
                **{m.key: dataclasses.asdict(self.mean(system, m.key)) for m in METRICS.values()},
                **({"frechet": self.frechet[system]} if system in self.frechet else {}),
            }
            for system in self.systems
        }

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values; undefined numbers are null."""
        rows = [dataclasses.asdict(row) for row in self.rows]
        whole = {
            "codec": self.codec,
            "settings": self.settings,
            "summary": self.summary(),
            "frechet": self.frechet,
            "rows": rows,
        }
        return {key: _plain(value) for key, value in whole.items()}

    def to_json(self) -> str:
        """The report as indented JSON."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Report:
        """The inverse of `to_dict`. Raises `UsageError` when it is not a report."""
        try:
            rows = tuple(
                Row(**{**row, "figures": {k: math.nan if v is None else float(v) for k, v in row["figures"].items()}})
                for row in values["rows"]
            )
            frechet = {k: math.nan if v is None else v for k, v in values.get("frechet", {}).items()}
            return cls(values["codec"], values["settings"], rows, frechet)
        except (KeyError, TypeError) as error:
            raise UsageError(
                f"This is no evaluation report ({error}). Give the JSON that Report.to_json wrote."
            ) from None

    def headings(self) -> list[str]:
        """Column titles, the better direction marked by an arrow."""
        frechet = ["Fréchet ↓"] if self.frechet else []
        return ["system", "kbit/s", *map(_heading, self.metrics), *frechet, "encode x", "decode x"]

    @cached_property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics that are defined for some row."""
        rows = self.rows
        return tuple(m for m in METRICS.values() if any(not math.isnan(r.figures.get(m.key, math.nan)) for r in rows))

    def cells(self, system: str) -> list[str]:
        """The row of a system as text."""
        figures = [self.mean(system, metric.key).text() for metric in self.metrics]
        if self.frechet:
            value = self.frechet.get(system, math.nan)
            figures.append(UNDEFINED if math.isnan(value) else f"{value:.3g}")
        speeds = [self.speed(system, way) for way in ("encode", "decode")]
        return [system, f"{self.bit_rate(system) / 1000:.2f}", *figures, *map(_speed, speeds)]

    def caption(self) -> str:
        """How to read the table."""
        count = "1 file" if len(self.files) == 1 else f"{len(self.files)} files"
        return (
            f"{count}, {self.seconds:.0f} s of sound. Mean over files [95% bootstrap interval]; "
            f"bit rates from the bytes of real files; speeds in times real time; {UNDEFINED} is undefined."
            + (f" Fréchet distance over {self.settings['frechet']}." if self.frechet else "")
        )

    def print_table(self, console: Console | None = None) -> None:
        """Print the summary to a rich console (default: standard output)."""
        table = Table(title=f"{self.codec.get('name', 'codec')} against others", caption=self.caption())
        for index, heading in enumerate(self.headings()):
            table.add_column(heading, justify="left" if index == 0 else "right")
        for system in self.systems:
            table.add_row(*self.cells(system))
        (console or Console()).print(table)

    def to_markdown(self) -> str:
        """The summary as a Markdown table with its caption."""
        lines = [self.headings(), ["---", *["---:"] * (len(self.headings()) - 1)], *map(self.cells, self.systems)]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines) + f"\n\n{self.caption()}\n"


def html_page(report: Report) -> str:
    """The summary and all rows as one HTML page that needs nothing beside it."""
    name = escape(str(report.codec.get("name", "codec")))

    def table(lines: list[list[str]]) -> str:
        head = "".join(f"<th>{escape(cell)}" for cell in lines[0])
        return (
            f"<table><tr>{head}"
            + "".join("<tr>" + "".join(f"<td>{escape(cell)}" for cell in line) for line in lines[1:])
            + "</table>"
        )

    summary = [report.headings(), *map(report.cells, report.systems)]
    each = [["file", "system", "kbit/s", *(m.label for m in report.metrics)]]
    for row in report.rows:
        values = [row.figures.get(m.key, math.nan) for m in report.metrics]
        shown = [UNDEFINED if math.isnan(v) else f"{v:.3f}" for v in values]
        each.append([row.file, row.system, f"{row.bit_rate / 1000:.2f}", *shown])
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{name} evaluated</title><style>{_STYLE}</style>"
        f"<h1>{name}</h1><p>Codec {escape(str(report.codec.get('fingerprint', '')))}. {escape(report.caption())}</p>"
        f"{table(summary)}<h2>File by file</h2>{table(each)}</html>\n"
    )


_STYLE = """
:root { color-scheme: light dark; } body { font: 14px/1.5 system-ui, sans-serif; margin: 2rem; }
table { border-collapse: collapse; } th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid #8884; }
th:first-child, td:first-child { text-align: left; }
"""


def _heading(metric: Metric) -> str:
    unit = f", {metric.unit}" if metric.unit else ""
    return f"{metric.label}{unit} {'↑' if metric.higher_is_better else '↓'}"


def _speed(value: float) -> str:
    return UNDEFINED if math.isnan(value) else f"{value:.3g}"


def _plain(value: Any) -> Any:
    """JSON values with null for numbers that are not finite."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
