"""Draw learning.png, what the bundled codec gained with hours of training: ``python docs/pictures/make_learning.py`` (needs matplotlib).

It shows `benchmarks/results/learning_tiny.json`, which `benchmarks/learning_curve.py` makes.
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from duotone.evaluate.bars import BARS

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parents[1] / "benchmarks" / "results" / "learning_tiny.json"
COLOURS = {
    "music-recorded": "#c2410c",
    "music-generated": "#ca8a04",
    "speech-recorded": "#0f766e",
    "speech-generated": "#2563eb",
}
MUSIC, SPEECH = list(COLOURS)[:2], list(COLOURS)[2:]
#: The least STOI that we set ourselves.
STOI = next(bar.least.value for bar in BARS if bar.key == "stoi" and bar.least is not None)


def panel(axes: Axes, document: dict, key: str, title: str, kinds: list[str], least: dict[str, float]) -> None:
    """A figure over hours, a line for each kind; what it has to reach is dashed."""
    hours = [point["hours"] for point in document["points"]]
    for kind in kinds:
        label = kind.replace("-", ", ")
        axes.plot(
            hours, [p["kinds"][kind]["ours"][key] for p in document["points"]], "o-", color=COLOURS[kind], label=label
        )
    for kind, value in least.items():
        axes.axhline(value, color=COLOURS.get(kind, "#1d2433"), linestyle="--", linewidth=1)
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel("hours of training")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)


def main() -> None:
    """Draw and save."""
    document = json.loads(RESULTS.read_text(encoding="utf-8"))
    opus = {kind: values["opus:12k"] for kind, values in document["points"][-1]["kinds"].items()}
    figure, parts = plt.subplots(1, 4, figsize=(13, 3.3), layout="constrained")
    panel(
        parts[0],
        document,
        "log_mel",
        "log-mel of music, dB (dashed: Opus 12k)",
        MUSIC,
        {k: opus[k]["log_mel"] for k in MUSIC},
    )
    panel(
        parts[1],
        document,
        "mr_stft",
        "MR-STFT of music (dashed: Opus 12k)",
        MUSIC,
        {k: opus[k]["mr_stft"] for k in MUSIC},
    )
    panel(
        parts[2],
        document,
        "log_mel",
        "log-mel of speech, dB (dashed: Opus 12k)",
        SPEECH,
        {k: opus[k]["log_mel"] for k in SPEECH},
    )
    panel(parts[3], document, "stoi", f"STOI of speech (dashed: {STOI})", SPEECH, {"": STOI})
    figure.savefig(HERE / "learning.png", dpi=110)
    print(HERE / "learning.png")


if __name__ == "__main__":
    main()
