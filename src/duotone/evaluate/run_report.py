"""A training run as one self-contained HTML page: curves, clips, tables, the recipe."""

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
from duotone.evaluate.chart import STYLE as CHART_STYLE
from duotone.evaluate.chart import chart, thin
from duotone.evaluate.page import inline, page, safe, table
from duotone.train.log import LOG, Record, read_log

POINTS = 400  # points of a curve
LATEST = 2  # number of folders of clips that are shown

#: Text files of a run that the page shows, and their titles.
TEXTS = (
    ("recipe.json", "Recipe"), ("changes.jsonl", "Changes of the recipe during the run"), ("skipped.txt", "Files left out"),
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
    ("Loss by t", ("loss_t_below_0.25", "loss_t_0.25_to_0.5", "loss_t_0.5_to_0.75", "loss_t_from_0.75"), False),
    (
        "Loss by chunks of clean past",
        ("loss_context_0", "loss_context_1_to_3", "loss_context_4_to_15", "loss_context_from_16", "loss_noisy_past"),
        False,
    ),
    (
        "Validation, next chunk: clean past, generated past, no past",
        ("validation_clean_past", "validation_generated_past", "validation_context_0"),
        False,
    ),
    ("Rollouts: deviation and mean, in deviations of the data", ("rollout_deviation", "rollout_mean"), False),
    ("Gradient norm", ("grad_norm",), True),
    ("Learning rate", ("rate",), False),
    ("Seconds a step", ("seconds", "waiting_for_data"), False),
)
STYLE = """
.clips { display: grid; grid-template-columns: repeat(auto-fill, minmax(220px, 1fr)); gap: 1rem; }
.clips img, .clips audio { width: 100%; max-width: 340px; display: block; }
"""


def write_report(run: Path, target: Path) -> tuple[Path, list[str]]:
    """Write the page of a run's folder; returns its path, and a message for each damaged part that was left out.

    Raises `UsageError` if the folder is not a run.
    """
    text, problems = report_page(run)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, text)
    return target, problems


def report_page(run: Path) -> tuple[str, list[str]]:
    """The page as text, and a message for each damaged part of the run that was left out (the page lists them too)."""
    log = run / LOG
    if not log.is_file():
        raise UsageError(f"{run} holds no {LOG}. Give the --out folder of `duotone train`.")
    records, problems = read_log(log)
    if not records:
        raise UsageError(f"{log} holds no steps yet. Wait for the first one." + "".join(f" {p}" for p in problems[:1]))
    last = records[-1]
    parts = [
        f"<h1>{safe(run.resolve().name)}</h1>",
        f"<p class=soft>{last['step'] + 1:,} steps, {safe(str(last.get('bad_steps', 0)))} of them skipped; "
        f"loss {_mean_loss(records[:50]):.4g} at first, {_mean_loss(records[-50:]):.4g} at last (means of 50 steps).</p>",
        *(_curve(title, keys, log_axis, records) for title, keys, log_axis in CURVES),
        *(_curve(key, (key,), False, records) for key in _others(records)),
        _last_table(records),
        *_clips(run, problems),
        *(_text(run / name, title) for name, title in TEXTS),
    ]
    if problems:
        items = "".join(f"<li>{safe(problem)}" for problem in problems)
        parts.append(f"<h2>Damaged, not shown</h2><ul>{items}</ul>")
    body = "\n".join(part for part in parts if part)
    return page(run.resolve().name, body, CHART_STYLE + STYLE), problems


def _text(path: Path, title: str) -> str:
    """A text file of the run as a section; empty if the file is missing."""
    text = path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else ""
    return f"<h2>{title}</h2><pre>{safe(text)}</pre>" if text else ""


def _mean_loss(records: Sequence[Record]) -> float:
    values = [r["loss"] for r in records if isinstance(r.get("loss"), int | float) and math.isfinite(r["loss"])]
    return sum(values) / len(values) if values else math.nan


def _curve(title: str, keys: Sequence[str], log_axis: bool, records: list[Record]) -> str:
    """A chart of some metrics over the steps; empty if none of them was ever logged."""
    lines = {}
    for key in keys:
        points = [(r["step"] + 1.0, float(r[key])) for r in records if isinstance(r.get(key), int | float)]
        points = [
            (x, math.log10(y) if log_axis else y) for x, y in points if math.isfinite(y) and (y > 0 or not log_axis)
        ]
        if points:
            lines[key] = thin(points, POINTS)
    return chart(title, lines, log_axis)


def _others(records: list[Record]) -> list[str]:
    """Charts of other metrics that have changed, for other objectives; metrics of clips are in tables."""
    shown = {"step", *(key for _, keys, _ in CURVES for key in keys)}
    values: dict[str, set[Any]] = {}
    for record in records:
        for key, value in record.items():
            if key not in shown and not key.startswith("listen_") and isinstance(value, int | float):
                values.setdefault(key, set()).add(value)
    return [key for key, seen in values.items() if len(seen) > 1]


def _last_table(records: list[Record]) -> str:
    """The newest value of every metric."""
    newest: dict[str, Any] = {}
    for record in records:
        newest |= record
    rows = [(key, f"{value:.5g}" if isinstance(value, float) else str(value)) for key, value in newest.items()]
    return "<h2>Newest values</h2>" + table(("metric", "value"), rows)


def _clips(run: Path, problems: list[str]) -> list[str]:
    """The newest folders of reconstructed clips, with audio and spectrograms embedded in the page."""
    root = run / "samples"
    folders = sorted(p for p in root.iterdir() if p.is_dir())[-LATEST:] if root.is_dir() else []
    parts = []
    for folder in reversed(folders):
        cards = [_clip(path, problems) for path in sorted(folder.glob("*.wav"), key=_clip_order)]
        parts.append(f"<h2>Clips, {safe(folder.name)}</h2><div class=clips>{''.join(cards)}</div>")
        parts.append(_metrics_table(folder / "metrics.json", problems))
    return parts


def _clip(path: Path, problems: list[str]) -> str:
    """A clip to listen to, with its spectrogram; empty if the audio file is damaged."""
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
    """The metrics of a folder of clips, one row per clip; empty if there are none or the file is damaged."""
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
    """Audio as Ogg Vorbis, so that the page stays small."""
    samples, rate = soundfile.read(str(path), always_2d=True)
    out = io.BytesIO()
    with soundfile.SoundFile(out, "w", rate, samples.shape[1], format="OGG", subtype="VORBIS") as file:
        for start in range(0, len(samples), 1 << 16):  # libsndfile overflows on long blocks of Vorbis
            file.write(samples[start : start + (1 << 16)])
    return out.getvalue()
