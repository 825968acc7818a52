"""The held-out evaluation of a codec: four kinds of sound, figures of its codes, bars, and the pages that show them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from duotone.codec.contract import Codec
from duotone.codec.values import Codes, Latents
from duotone.errors import UsageError
from duotone.evaluate.bars import KINDS, Verdict
from duotone.evaluate.bars import markdown as bars_markdown
from duotone.evaluate.code_use import stability, use_of
from duotone.evaluate.compare import excerpt, named_files
from duotone.evaluate.report import Report, bootstrap
from duotone.evaluate.tables import markdown

#: Where the kinds lie in a folder filled by `duotone fetch-sounds` (recorded/) and `duotone make-sounds` (made/).
PLACES = {
    "music-recorded": "recorded/heldout/music", "music-generated": "made/heldout/music",
    "speech-recorded": "recorded/heldout/speech", "speech-generated": "made/heldout/speech",
}  # fmt: skip
BEGIN, END = "<!-- held-out -->", "<!-- /held-out -->"


def kinds_of(folder: str | Path) -> dict[str, Path]:
    """The kinds of sound in a folder: subfolders named after them, or those of `PLACES`. Raises `UsageError` for none."""
    root = Path(folder)
    found = {kind: path for kind in KINDS for path in (root / kind, root / PLACES[kind]) if path.is_dir()}
    if not found:
        raise UsageError(
            f"{root} has none of the subfolders {', '.join(KINDS)} (or {', '.join(PLACES.values())}). Fill it with "
            f"duotone fetch-sounds and duotone make-sounds, see docs/training.md, or name another folder."
        )
    return found


def measure_codes(
    codec: Codec,
    folders: Mapping[str, Path],
    limit: int | None = None,
    seed: int = 0,
    *,
    seconds: float = 60.0,
    stable_seconds: float = 10.0,
    progress: Callable[[str], object] = lambda _: None,
) -> dict[str, Any]:
    """Use of the codes over all clips and by kind (`kinds`), and means over clips of their stability, as plain values.

    The files are those that `evaluate_folder` takes with this `limit` and `seed`; `seconds` are taken from the middle of each,
    `stable_seconds` to decode and encode again. Raises `UsageError` for a codec without codes.
    """
    if not codec.spec.codebooks:
        raise UsageError(f"{codec.spec.model} has no codes, so there is nothing to measure of them.")
    kept: dict[str, tuple[list[Codes], list[Latents]]] = {}
    shares: dict[str, list[float]] = {}
    for file, path in named_files(folders, limit, seed).items():
        progress(f"codes of {file}")
        wave = excerpt(path, seconds, middle=True)
        value = codec.encode(wave)
        codes, latents = kept.setdefault(file.partition("/")[0], ([], []))
        codes.append(value.codes())
        if isinstance(value, Latents):
            latents.append(value)
        for change, found in stability(codec, excerpt(path, stable_seconds, middle=True), seed).items():
            for key, share in found.items():
                shares.setdefault(f"{change}_{key}", []).append(share)
    every = [[value for pair in kept.values() for value in pair[part]] for part in (0, 1)]
    out: dict[str, Any] = use_of(every[0], every[1])  # type: ignore[arg-type]
    for key, values in shares.items():
        mean = bootstrap(values, seed)
        if not math.isnan(mean.mean):
            out[key] = {"mean": mean.mean, "low": mean.low, "high": mean.high, "count": mean.count}
    out["kinds"] = {kind: use_of(codes, latents) for kind, (codes, latents) in kept.items()}
    return out


def intro(about: Mapping[str, Any]) -> str:
    """How the figures came about; `about` is what the benchmark command records of a run."""
    data = about["data"]
    return (
        f"By `{about['command']}`: codec `{about['fingerprint']}`, {data['clips']} clips of a kind at most, {data['seconds']:g} s from the "
        f"middle of each, {about['dtype']} on {about['device']}. harmonics: by how much the harmonics of the original's pitch stand out more "
        f"(+) or less (-) than in the original; comb: the same for lines at multiples of 46.9 Hz, the hop rate.\n\n"
    )


def sections(report: Report, codes: Mapping[str, Any] | None, verdicts: list[Verdict], level: str = "##") -> str:
    """The bars, the figures by kind, harmonics, and codes, as Markdown with headings of `level`."""
    parts = [f"{level} Reached and missed\n", bars_markdown(verdicts)]
    parts.append(
        "In the tables of each kind, DAC mel and DAC STFT are the distances of descript-audio-codec by their formulas.\n"
    )
    for kind in report.kinds:
        parts += [f"{level} {kind.replace('-', ', ').capitalize()}\n", markdown(report.of_kind(kind))]
    parts += [f"{level} Harmonics, original and decoded\n", harmonics_table(report)]
    if codes:
        parts += [f"{level} Codes\n", codes_table(codes)]
    return "\n".join(parts)


def harmonics_table(report: Report) -> str:
    """Contrast of harmonics in dB, median over frames with a pitch and mean over clips, original and each system."""
    systems = [system for system in report.systems if system != "silence"]
    lines = ["| held-out | frames with a pitch | original | " + " | ".join(systems) + " |"]
    lines.append("| --- |" + " ---: |" * (len(systems) + 2))
    for kind in report.kinds or ("",):
        part = report.of_kind(kind) if kind else report
        rows = part.of(systems[0])
        share = bootstrap([_note(row.notes, "share_with_pitch") for row in rows], 0).mean
        original = bootstrap([_note(row.notes, "harmonics_original") for row in rows], 0).mean_text(1)
        cells = [
            bootstrap([_note(row.notes, "harmonics_decoded") for row in part.of(name)], 0).mean_text(1)
            for name in systems
        ]
        lines.append("| " + " | ".join([kind.replace("-", ", "), f"{share:.0%}", original, *cells]) + " |")
    return "\n".join(lines) + "\n"


def _note(notes: Mapping[str, Any], key: str) -> float:
    value = notes.get(key)
    return math.nan if value is None else float(value)


def codes_table(codes: Mapping[str, Any]) -> str:
    """Entropy and saturation over the positions of a chunk, for all clips and each kind."""
    lines = [
        "| held-out | chunks | entropy, lowest position | median | share at the bound, highest position | mean |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for kind, use in [("all", codes), *codes["kinds"].items()]:
        figures = [use.get(key) for key in ("entropy_least", "entropy_median", "saturated_most", "saturated_mean")]
        cells = ["–" if value is None else f"{value:.1%}" for value in figures]
        lines.append("| " + " | ".join([kind.replace("-", ", "), f"{use['chunks']:,}", *cells]) + " |")
    told = f"Entropy as a share of its maximum at each of {codes['positions']} positions of a chunk."
    return "\n".join(lines) + f"\n\n{told}\n"


def between_markers(text: str, content: str, where: str, marks: tuple[str, str] = (BEGIN, END)) -> str:
    """`text` with `content` between its markers. Raises `UsageError` where there are none."""
    before, begin, rest = text.partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not begin or not end:
        raise UsageError(f"{where} has no {' ... '.join(marks)}. Put these markers where the tables are to stand.")
    return f"{before}{marks[0]}\n{content.strip()}\n{marks[1]}{after}"
