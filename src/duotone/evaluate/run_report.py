"""A training run as one HTML page that needs nothing beside it: curves, clips, tables, the recipe."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import soundfile

from duotone.atomic import write_text
from duotone.errors import UsageError
from duotone.evaluate.page import inline, page, safe, table
from duotone.train.log import LOG, Record, read_log

WIDTH, HEIGHT, MARGIN = 560, 220, 44
POINTS = 400
LATEST = 2  # of the folders of clips, so many are shown

#: Text files of a run that the page shows, and their titles.
TEXTS = (
    ("recipe.json", "Recipe"), ("changes.jsonl", "Changes of the recipe on the way"), ("skipped.txt", "Files left out"),
)  # fmt: skip

#: Title of a chart, metrics drawn in it, whether its axis is logarithmic.
CURVES: tuple[tuple[str, tuple[str, ...], bool], ...] = (
    ("Loss", ("loss",), False),
    ("Error by noise level", ("error_below_0.1", "error_0.1_to_1", "error_1_to_10", "error_from_10"), True),
    (
        "Validation, one denoising step: continuous",
        tuple(f"validation_error_continuous_{s}" for s in (1, 10, 80)),
        False,
    ),
    ("Validation, one denoising step: rounded", tuple(f"validation_error_rounded_{s}" for s in (1, 10, 80)), False),
    ("Decoded clips, log-mel distance in dB", ("validation_log_mel", "listen_log_mel"), False),
    ("Decoded clips, multi-resolution STFT distance", ("validation_mr_stft", "listen_mr_stft"), False),
    ("Bottleneck", ("saturated_share", "level_entropy", "pre_tanh_deviation"), False),
    ("Codebook perplexity", ("codebook_perplexity",), True),
    ("Gradient norm", ("grad_norm",), True),
    ("Learning rate", ("rate",), False),
    ("Seconds a step", ("seconds", "waiting_for_data"), False),
)
COLOURS = ("#a8315f", "#3b6fb6", "#3f8f5b", "#c9822b")
#: Beside the style that all our pages have.
_STYLE = """
figure { display: inline-block; margin: 0 1rem 1.5rem 0; max-width: 100%; } svg { max-width: 100%; height: auto; }
figcaption { font-weight: 600; } .key { font-size: 13px; margin-right: 1rem; }
img { width: 100%; max-width: 340px; display: block; } audio { max-width: 340px; }
.clips { display: grid; grid-template-columns: repeat(auto-fill, minmax(220px, 1fr)); gap: 1rem; }
"""


def write_report(run: Path, target: Path) -> tuple[Path, list[str]]:
    """Write the page of a run's folder; returns its path, and a sentence for each damaged part that was left out.

    Raises `UsageError` if that is no run.
    """
    text, problems = report_page(run)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, text)
    return target, problems


def report_page(run: Path) -> tuple[str, list[str]]:
    """The page as text, and a sentence for each damaged part of the run that was left out (the page lists them too)."""
    log = run / LOG
    if not log.is_file():
        raise UsageError(f"{run} holds no {LOG}. Give the folder that `duotone train --out` filled.")
    records, problems = read_log(log)
    if not records:
        raise UsageError(f"{log} holds no steps yet. Wait for the first one." + "".join(f" {p}" for p in problems[:1]))
    last = records[-1]
    parts = [
        f"<h1>{safe(run.resolve().name)}</h1>",
        f"<p class=soft>{last['step'] + 1:,} steps, {safe(str(last.get('bad_steps', 0)))} of them skipped; "
        f"loss {_mean_loss(records[:50]):.4g} at first, {_mean_loss(records[-50:]):.4g} at last (means of 50 steps).</p>",
        *(_curve(title, keys, log_axis, records) for title, keys, log_axis in CURVES),
        _last_table(records),
        *_clips(run, problems),
        *(_text(run / name, title) for name, title in TEXTS),
    ]
    if problems:
        items = "".join(f"<li>{safe(problem)}" for problem in problems)
        parts.append(f"<h2>Damaged, not shown</h2><ul>{items}</ul>")
    return page(run.resolve().name, "\n".join(part for part in parts if part), _STYLE), problems


def _text(path: Path, title: str) -> str:
    """A text file of the run as a section; empty where there is none."""
    text = path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else ""
    return f"<h2>{title}</h2><pre>{safe(text)}</pre>" if text else ""


def _mean_loss(records: Sequence[Record]) -> float:
    values = [r["loss"] for r in records if isinstance(r.get("loss"), int | float) and math.isfinite(r["loss"])]
    return sum(values) / len(values) if values else math.nan


def thin(points: list[tuple[float, float]], count: int = POINTS) -> list[tuple[float, float]]:
    """At most `count` points, each the mean of neighbours."""
    size = -(-len(points) // count)
    groups = (points[i : i + size] for i in range(0, len(points), max(1, size)))
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def _curve(title: str, keys: Sequence[str], log_axis: bool, records: list[Record]) -> str:
    """A chart of some metrics over the steps; empty if none of them was ever logged."""
    lines = {}
    for key in keys:
        points = [(r["step"] + 1.0, float(r[key])) for r in records if isinstance(r.get(key), int | float)]
        points = [
            (x, math.log10(y) if log_axis else y) for x, y in points if math.isfinite(y) and (y > 0 or not log_axis)
        ]
        if points:
            lines[key] = thin(points)
    if not lines:
        return ""
    xs, ys = zip(*(p for points in lines.values() for p in points), strict=True)
    (left, right), (low, high) = _span(xs), _span(ys)

    def place(point: tuple[float, float]) -> str:
        x = MARGIN + (point[0] - left) / (right - left) * (WIDTH - MARGIN - 8)
        y = HEIGHT - 24 - (point[1] - low) / (high - low) * (HEIGHT - 36)
        return f"{x:.1f},{y:.1f}"

    drawn, legend = [], []
    for (key, points), colour in zip(lines.items(), COLOURS, strict=False):
        shape = f"<polyline fill=none stroke='{colour}' stroke-width=1.6 points='{' '.join(map(place, points))}'/>"
        drawn.append(
            shape
            if len(points) > 1
            else f"<circle r=3 fill='{colour}' cx={place(points[0]).split(',')[0]} cy={place(points[0]).split(',')[1]} />"
        )
        legend.append(f"<span class=key style='color:{colour}'>{safe(key)}</span>")
    labels = []
    for share in (0.0, 0.5, 1.0):
        value = low + share * (high - low)
        text = f"{10**value if log_axis else value:.3g}"
        y = HEIGHT - 24 - share * (HEIGHT - 36)
        labels.append(
            f"<line x1={MARGIN} x2={WIDTH - 8} y1={y} y2={y} stroke='var(--line)'/>"
            f"<text x={MARGIN - 6} y={y + 4} text-anchor=end font-size=11 fill='var(--soft)'>{text}</text>"
        )
    labels.append(f"<text x={MARGIN} y={HEIGHT - 6} font-size=11 fill='var(--soft)'>step {left:,.0f}</text>")
    labels.append(
        f"<text x={WIDTH - 8} y={HEIGHT - 6} font-size=11 text-anchor=end fill='var(--soft)'>{right:,.0f}</text>"
    )
    return (
        f"<figure><figcaption>{safe(title)}</figcaption>"
        f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' width={WIDTH} height={HEIGHT}>{''.join(labels + drawn)}</svg>"
        f"<div>{''.join(legend)}</div></figure>"
    )


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _last_table(records: list[Record]) -> str:
    """The newest value of every metric."""
    newest: dict[str, Any] = {}
    for record in records:
        newest |= record
    rows = [[key, f"{value:.5g}" if isinstance(value, float) else str(value)] for key, value in newest.items()]
    return "<h2>Newest values</h2>" + table(["metric", "value"], rows)


def _clips(run: Path, problems: list[str]) -> list[str]:
    """The newest folders of reconstructed clips, sound and spectrograms inside the page."""
    root = run / "samples"
    folders = sorted(p for p in root.iterdir() if p.is_dir())[-LATEST:] if root.is_dir() else []
    parts = []
    for folder in reversed(folders):
        cards = [_clip(path, problems) for path in sorted(folder.glob("*.wav"), key=_clip_order)]
        parts.append(f"<h2>Clips, {safe(folder.name)}</h2><div class=clips>{''.join(cards)}</div>")
        parts.append(_metrics_table(folder / "metrics.json", problems))
    return parts


def _clip(path: Path, problems: list[str]) -> str:
    """A clip to listen to, with its spectrogram; empty where the sound is damaged."""
    try:
        sound = inline(_ogg(path), "audio/ogg")
    except soundfile.LibsndfileError as error:
        problems.append(f"{path} cannot be read as sound ({error}); it is left out.")
        return ""
    picture = path.with_suffix(".png")
    image = f"<img alt='' src='{inline(picture.read_bytes(), 'image/png')}'>" if picture.is_file() else ""
    return f"<div>{safe(path.stem)}{image}<audio controls preload=none src='{sound}'></audio></div>"


def _clip_order(path: Path) -> tuple[str, bool, str]:
    clip = "-".join(path.stem.split("-")[:2])
    return clip, not path.stem.endswith("original"), path.stem


def _metrics_table(path: Path, problems: list[str]) -> str:
    """The metrics of a folder of clips, a row a clip; empty where there are none, or the file is damaged."""
    if not path.is_file():
        return ""
    try:
        rows = json.loads(path.read_bytes())
    except ValueError as error:
        problems.append(f"{path} is not JSON ({error}); its table is left out.")
        return ""
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        problems.append(f"{path} is not a list of rows; its table is left out.")
        return ""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    return table(keys, [[_cell(row.get(key)) for key in keys] for row in rows]) if rows else ""


def _cell(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else "" if value is None else str(value)


def _ogg(path: Path) -> bytes:
    """A sound as Ogg Vorbis, so that the page stays small."""
    samples, rate = soundfile.read(str(path), always_2d=True)
    out = io.BytesIO()
    with soundfile.SoundFile(out, "w", rate, samples.shape[1], format="OGG", subtype="VORBIS") as file:
        for start in range(0, len(samples), 1 << 16):  # libsndfile overflows on long blocks of Vorbis
            file.write(samples[start : start + (1 << 16)])
    return out.getvalue()
