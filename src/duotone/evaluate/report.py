"""Results of an evaluation: a row for each file and system, means with confidence intervals, JSON.

`tables` shows a report as text, Markdown or HTML.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from duotone.errors import UsageError
from duotone.evaluate.metrics import METRICS, Metric

RESAMPLES = 2_000
LEVEL = 0.95
UNDEFINED = "–"


@dataclass(frozen=True)
class Row:
    """The result of one system on one file; `metrics` by key, NaN if a metric is undefined."""

    file: str
    system: str
    seconds: float
    file_bytes: int
    metrics: dict[str, float]
    encode_seconds: float | None = None
    decode_seconds: float | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def bit_rate(self) -> float:
        """Bits a second of the real file."""
        return 8 * self.file_bytes / self.seconds


@dataclass(frozen=True)
class Failure:
    """A file that could not be evaluated, and why."""

    file: str
    error: str


@dataclass(frozen=True)
class Interval:
    """A mean over `count` files and its 95% percentile bootstrap interval (Efron 1979); NaN when `count` is 0."""

    mean: float
    low: float
    high: float
    count: int

    def text(self, digits: int = 2) -> str:
        """Like ``1.23 [0.98, 1.45]``; the mean alone for a single file."""
        return " ".join(filter(None, (self.mean_text(digits), self.bounds_text(digits))))

    def mean_text(self, digits: int = 2) -> str:
        """The mean, like ``1.23``."""
        return UNDEFINED if self.count == 0 else f"{self.mean:.{digits}f}"

    def bounds_text(self, digits: int = 2) -> str:
        """The interval, like ``[0.98, 1.45]``; empty for a single file, which has no interval."""
        return "" if self.count < 2 else f"[{self.low:.{digits}f}, {self.high:.{digits}f}]"


def bootstrap(values: list[float], seed: int) -> Interval:
    """The mean of the defined values and its interval, resampling files with replacement 2000 times.

    The same seed and number of values draw the same files, so that systems are resampled in the same way.
    """
    defined = np.array([v for v in values if not math.isnan(v)], dtype=np.float64)
    if not defined.size:
        return Interval(math.nan, math.nan, math.nan, 0)
    draws = np.random.default_rng(seed).integers(0, defined.size, (RESAMPLES, defined.size))
    low, high = np.quantile(defined[draws].mean(1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(defined.mean()), float(low), float(high), int(defined.size))


@dataclass(frozen=True)
class Report:
    """All rows of an evaluation, with descriptions of the codecs (`codec`, and `others` by name) and the `settings`."""

    codec: dict[str, Any]
    settings: dict[str, Any]
    rows: tuple[Row, ...]
    frechet: dict[str, float] = field(default_factory=dict)  #: system -> distance to the originals
    others: dict[str, dict[str, Any]] = field(default_factory=dict)
    failures: tuple[Failure, ...] = ()

    @cached_property
    def systems(self) -> tuple[str, ...]:
        """Names of the systems, in the order they were run."""
        return tuple(dict.fromkeys(row.system for row in self.rows))

    @cached_property
    def files(self) -> tuple[str, ...]:
        """Names of the files, relative to the folder."""
        return tuple(dict.fromkeys(row.file for row in self.rows))

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of sound, which begin the names of the files; empty where a file has none."""
        parts = [file.partition("/") for file in self.files]
        return tuple(dict.fromkeys(kind for kind, _, _ in parts)) if all(rest for _, _, rest in parts) else ()

    @cached_property
    def measured(self) -> tuple[Metric, ...]:
        """The metrics that are defined for some row."""
        rows = self.rows
        return tuple(m for m in METRICS.values() if any(not math.isnan(r.metrics.get(m.key, math.nan)) for r in rows))

    @property
    def seconds(self) -> float:
        """Seconds of audio, counting each file once."""
        return sum({row.file: row.seconds for row in self.rows}.values())

    def of(self, system: str) -> list[Row]:
        """The rows of a system. Raises `UsageError` that lists the known systems."""
        if system not in self.systems:
            raise UsageError(f"The report has no system {system!r}. It has: {', '.join(self.systems)}.")
        return [row for row in self.rows if row.system == system]

    def only(self, part: str) -> Report:
        """The report of those files whose name contains `part`, for example ``music``."""
        rows = tuple(row for row in self.rows if part in row.file)
        if not rows:
            raise UsageError(f"No file of the report has {part!r} in its name. There are: {', '.join(self.files)}.")
        # Fréchet distances belong to whole sets of files: left out.
        return dataclasses.replace(self, settings={**self.settings, "only": part}, rows=rows, frechet={}, failures=())

    def of_kind(self, kind: str) -> Report:
        """The report of the files of a kind. Raises `UsageError` that lists the kinds."""
        if kind not in self.kinds:
            raise UsageError(f"The report has no kind {kind!r}. It has: {', '.join(self.kinds) or 'none'}.")
        rows = tuple(row for row in self.rows if row.file.startswith(f"{kind}/"))
        return dataclasses.replace(self, settings={**self.settings, "only": kind}, rows=rows, frechet={}, failures=())

    def mean(self, system: str, key: str) -> Interval:
        """Mean and 95% interval of a metric for a system."""
        return bootstrap([row.metrics.get(key, math.nan) for row in self.of(system)], self.settings["seed"])

    def difference(self, system: str, other: str, key: str) -> Interval:
        """Mean and 95% interval of ``system - other`` file by file: a narrower interval than from two separate means.

        Of a signed metric, which is best at 0, absolute values are compared.
        """
        size = abs if key in METRICS and METRICS[key].signed else float
        mine, theirs = (
            {row.file: size(row.metrics.get(key, math.nan)) for row in self.of(name)} for name in (system, other)
        )
        return bootstrap([mine[file] - theirs[file] for file in mine if file in theirs], self.settings["seed"])

    def bit_rate(self, system: str) -> float:
        """Bits a second over all files of a system."""
        rows = self.of(system)
        return 8 * sum(row.file_bytes for row in rows) / sum(row.seconds for row in rows)

    def speed(self, system: str, way: str) -> float:
        """Seconds of audio that `way` (``encode`` or ``decode``) processes per second; NaN if nothing was timed."""
        timed = [(row.seconds, getattr(row, f"{way}_seconds")) for row in self.of(system)]
        pairs = [(sound, spent) for sound, spent in timed if spent]
        return sum(sound for sound, _ in pairs) / sum(spent for _, spent in pairs) if pairs else math.nan

    def summary(self) -> dict[str, dict[str, Any]]:
        """Each system's bit rate, speeds (times real time), and means with intervals."""
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
        whole = {
            "codec": self.codec,
            "others": self.others,
            "settings": self.settings,
            "summary": self.summary(),
            "frechet": self.frechet,
            "failures": [dataclasses.asdict(failure) for failure in self.failures],
            "rows": [dataclasses.asdict(row) for row in self.rows],
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
                Row(**{**row, "metrics": {k: math.nan if v is None else float(v) for k, v in row["metrics"].items()}})
                for row in values["rows"]
            )
            frechet = {k: math.nan if v is None else v for k, v in values.get("frechet", {}).items()}
            failures = tuple(Failure(**failure) for failure in values.get("failures", ()))
            return cls(values["codec"], values["settings"], rows, frechet, values.get("others", {}), failures)
        except (KeyError, TypeError) as error:
            raise UsageError(
                f"This is no evaluation report ({error}). Give the JSON that Report.to_json wrote."
            ) from None


def _plain(value: Any) -> Any:
    """JSON values with null for numbers that are not finite."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
