"""The listening page: one HTML file with clips, versions to switch between, spectrograms and blind tests.

The sound is embedded as FLAC (16 bits), which all browsers decode sample by sample; script and style are in ``assets/``.
"""

from __future__ import annotations

import base64
import io
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import soundfile

from duotone.audio.waveform import Waveform
from duotone.codec.contract import Codec
from duotone.evaluate.continued import Continued
from duotone.evaluate.listening import RATE, Clip, Version, codec_name
from duotone.evaluate.metrics import METRICS
from duotone.evaluate.opus import PROGRAMS
from duotone.evaluate.page import page as document
from duotone.evaluate.page import safe, table
from duotone.evaluate.picture import stops

#: Begins every page: a file with it may be replaced by another such page.
MARK = "<!-- a listening page of duotone demo -->"

#: Modules of assets/shared/ that the page's script begins with, each after those that it imports.
SHARED = ("dom.js", "spectrum.js", "player.js", "trials.js", "blind.js")


@dataclass(frozen=True)
class About:
    """The codec of a page, in the words of its weights."""

    codec: str
    fingerprint: str
    parameters: int
    kbit_per_second: float | None  #: information in the tokens; None without tokens
    provenance: str

    @classmethod
    def of(cls, codec: Codec) -> About:
        """Of a loaded codec."""
        spec = codec.spec
        rate = spec.bit_rate / 1000 if spec.codebooks else None
        weights = str(codec.provenance.get("weights", ""))
        return cls(codec_name(codec), spec.fingerprint, codec.parameter_count(), rate, weights)


def page(about: About, clips: Sequence[Clip], continued: Continued | None = None) -> str:
    """The page: everything is in the file, and nothing is fetched. With `continued`, a section plays a prompt and its continuation."""
    opus = any(version.group == "opus" for clip in clips for version in clip.versions)
    data: dict[str, Any] = {
        "rate": RATE,
        "colours": stops(),
        "clips": [_described(clip, i) for i, clip in enumerate(clips)],
    }
    sounds = "".join(
        f'<script type="text/plain" id="sound-{i}-{j}">{base64.b64encode(flac(version.wave)).decode()}</script>\n'
        for i, clip in enumerate(clips)
        for j, version in enumerate(clip.versions)
    )
    if continued is not None:
        data["continued"] = {"joint": continued.joint, "seconds": continued.seconds, "sound": "sound-continued"}
        coded = base64.b64encode(flac(continued.wave)).decode()
        sounds += f'<script type="text/plain" id="sound-continued">{coded}</script>\n'
    html = (
        _asset("listening.html").replace("{{headline}}", _headline(about)).replace("{{details}}", _details(clips, opus))
    )
    body = f"""{MARK}
{html.replace("{{continued}}", "" if continued is None else _continued(continued))}
<script type="application/json" id="data">{_json(data)}</script>
{sounds}<script>
{script()}
</script>"""
    return document(f"{about.codec}: listening test", body, _asset("listening.css"))


def _continued(found: Continued) -> str:
    """The section of a prompt and its continuation."""
    told = (
        f"The beginning of <b>{safe(found.title)}</b> through the codec, and after the dashed line what <b>{safe(found.flow)}</b> "
        f"(fingerprint {safe(found.fingerprint)}, seed {found.seed}) goes on with: the first thing it made, not chosen."
    )
    words = {"told": told, "prompt": f"{found.joint:.1f}", "rest": f"{found.seconds - found.joint:.1f}"}
    html = _asset("continued.html")
    for name, value in words.items():
        html = html.replace("{{" + name + "}}", value)
    return html + "\n"


def flac(wave: Waveform) -> bytes:
    """16-bit FLAC, as small as it gets; stereo of two equal channels becomes mono, which plays the same."""
    samples = wave.numpy()
    if wave.channels == 2 and bool((samples[0] == samples[1]).all()):
        samples = samples[:1]
    stream = io.BytesIO()
    soundfile.write(stream, samples.T, wave.rate, format="FLAC", subtype="PCM_16", compression_level=1.0)
    return stream.getvalue()


def _described(clip: Clip, number: int) -> dict[str, Any]:
    versions = [
        {
            "key": version.key, "group": version.group, "title": version.title, "rate": _rate(version),
            "size": _size(version.file_bytes), "detail": version.detail, "distance": _distance(version),
            "sound": f"sound-{number}-{j}",
        }
        for j, version in enumerate(clip.versions)
    ]  # fmt: skip
    return {"title": clip.title, "about": clip.about, "seconds": clip.seconds, "versions": versions}


def _headline(about: About) -> str:
    parts = [
        f"weights <b>{safe(about.codec)}</b>",
        *([f"<b>{about.kbit_per_second:.2f} kbit/s</b> of tokens"] if about.kbit_per_second else []),
        f"{about.parameters / 1e6:.1f}M parameters",
        f"fingerprint {safe(about.fingerprint)}",
        *([safe(about.provenance)] if about.provenance else []),
    ]
    return " · ".join(parts)


def _details(clips: Sequence[Clip], opus: bool) -> str:
    """Tables of rates, sizes, distances and gains, and how everything was made."""
    keys = list(dict.fromkeys(key for clip in clips for version in clip.versions for key in version.metrics))
    headings = ["version", "bytes", "kbit/s", *map(heading, keys), "gain"]
    parts = []
    for clip in clips:
        rows = [
            [v.title, f"{v.file_bytes:,}", f"{v.kbit_per_second:.2f}", *(number(v.metrics.get(k)) for k in keys), f"{v.gain:+.1f} dB"]
            for v in clip.versions
        ]  # fmt: skip
        parts.append(f"<h3>{safe(clip.title)}, {clip.seconds:.1f} s</h3>{table(headings, rows)}")
        notes = [f"{v.title}: {v.detail}." for v in clip.versions] + ([clip.source] if clip.source else [])
        parts.append("".join(f'<p class="soft">{safe(note)}</p>' for note in notes))
    parts.append(
        '<p class="soft">Bytes and rates are those of the whole files. Distances to the original: smaller is nearer. Every version '
        "has the length of the original, sample by sample, and its loudness (ITU-R BS.1770, whole clip, without gating) by the "
        "gain given; distances are measured before. Spectrograms are computed in this page from what is heard.</p>"
    )
    parts.append(
        '<p class="soft">opusenc documents 6 kbit/s as its lowest rate. It takes lower values, but below 2.4 kbit/s each packet is empty '
        "and decodes to silence; of the files with sound, the one nearest in size was taken.</p>"
        if opus
        else f'<p class="soft" id="no-opus">Opus is missing on this page: {" and ".join(PROGRAMS)} were not installed where it was made '
        "(Debian: apt install opus-tools).</p>"
    )
    return "\n".join(parts)


def heading(key: str) -> str:
    """Name, unit and better direction of a metric."""
    metric = METRICS[key]
    return " ".join(filter(None, (metric.label, metric.unit, metric.arrow)))


def number(value: float | None) -> str:
    """Two digits; a dash for what is not defined."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.2f}"


def _rate(version: Version) -> str:
    rate = version.kbit_per_second
    return f"{rate:,.0f} kbit/s" if rate >= 100 else f"{rate:.1f} kbit/s"


def _distance(version: Version) -> str:
    metric = METRICS["log_mel"]
    value = version.metrics.get(metric.key)
    return "" if value is None else f"{metric.label} {number(value)} {metric.unit}"


def _size(count: int) -> str:
    return f"{count:,} B" if count < 1_000_000 else f"{count / 1e6:.2f} MB"


def _json(value: Any) -> str:
    """JSON that cannot end a script element."""
    return json.dumps(value).replace("<", "\\u003c")


def script() -> str:
    """The page's script: the modules that it shares with the studio, as one script that imports nothing, then its own part."""
    modules = [re.sub(r"^(export |import .*\n)", "", _asset(f"shared/{name}"), flags=re.M) for name in SHARED]
    return "\n".join(['"use strict";', *modules, _asset("listening.js")])


def _asset(name: str) -> str:
    return (files("duotone.evaluate") / "assets" / name).read_text(encoding="utf-8")
