"""The demo's HTML page: players, spectrograms and metrics. Every text from outside is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from duotone.cli.common import size
from duotone.evaluate.page import page as document
from duotone.evaluate.page import safe, table
from duotone.evaluate.picture import LOWEST_HZ, RANGE_DB, place

_FACES = {"latents": "continuous latents", "tokens": "discrete tokens"}


@dataclass(frozen=True)
class Take:
    """The piece decoded in one way; `name` is the stem of its .wav (and .png) in the page's folder."""

    name: str
    face: str
    strategy: str
    bytes: int
    kbit_per_second: float
    speed: float
    metrics: dict[str, float | None]

    @property
    def title(self) -> str:
        """For people."""
        return ", ".join(filter(None, (_FACES[self.face], self.strategy)))


@dataclass(frozen=True)
class Piece:
    """The encoded piece, and the codec."""

    name: str
    seconds: float
    rate: int
    channels: int
    codec: str
    fingerprint: str
    parameters: int
    encoded_in: str
    decoded_in: str
    provenance: str
    encode_speed: float

    @property
    def pcm_bytes(self) -> int:
        """Bytes of the piece as 16-bit samples."""
        return round(self.seconds * self.rate) * self.channels * 2


#: Key, heading and format of a column; the first three are fields of a `Take`, the others its metrics.
COLUMNS = (
    ("bytes", "bytes", "{:,d}"), ("kbit_per_second", "kbit/s", "{:.2f}"), ("speed", "x real time", "{:.1f}"),
    ("si_sdr", "SI-SDR dB ↑", "{:.2f}"), ("log_mel", "log-mel dB ↓", "{:.2f}"), ("mr_stft", "MR-STFT ↓", "{:.3f}"),
)  # fmt: skip

#: Beside the style that all our pages have.
_STYLE = """
h1 i { font-style: normal; color: var(--mark); }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); gap: 1.1rem; }
figure { background: var(--card); border: 1px solid var(--line); border-radius: .8rem; overflow: hidden; }
.view { position: relative; } .view img { display: block; width: 100%; height: 11.5rem; }
.view span { position: absolute; left: .45rem; transform: translateY(50%); color: #fffc; font: 11px/1 system-ui;
  text-shadow: 0 0 3px #000; }
figcaption { padding: .7rem .9rem .2rem; font-weight: 600; } figcaption small { display: block; font-weight: 400;
  color: var(--soft); } audio { width: calc(100% - 1.4rem); margin: .5rem .7rem .8rem; }
.strip { width: 100%; border-radius: .5rem; display: block; }
"""


def page(piece: Piece, takes: Sequence[Take], repeatable: str) -> str:
    """The whole page; `repeatable` says which results another run reproduces."""
    shown = [take for take in takes if take.strategy != "wavefront"]  # its samples equal those of parallel
    channels = "stereo" if piece.channels == 2 else "mono"
    original = _card("original", "original", f"{size(piece.pcm_bytes)} as 16-bit samples", piece.rate)
    cards = original + "".join(
        _card(take.name, take.title, f"{size(take.bytes)}, {take.kbit_per_second:.2f} kbit/s", piece.rate)
        for take in shown
    )
    body = f"""\
<h1>Duo<i>tone</i></h1>
<p>{safe(piece.name)}, {piece.seconds:.1f} s, {piece.rate} Hz, {channels}: encoded once, kept as
{" and as ".join(dict.fromkeys(_FACES[take.face] for take in takes))}, and decoded in every way that the codec has.</p>
<p class="soft">Codec {safe(piece.codec)} ({safe(piece.fingerprint)}), {piece.parameters / 1e6:.1f}M parameters,
encoder in {safe(piece.encoded_in)}, decoder in {safe(piece.decoded_in)}{"; " + safe(piece.provenance) if piece.provenance else ""}.
Encoded {piece.encode_speed:.1f}x real time.</p>
<h2>Listen</h2>
<div class="grid">{cards}</div>
<h2>Metrics</h2>
{table(["way", *(heading for _, heading, _ in COLUMNS)], [[take.title, *cells(take)] for take in takes])}
<p class="soft">{safe(repeatable)} Bytes are the sizes of the .duo files in this folder;
x real time is the speed of decoding; ↑ higher is better, ↓ lower.
SI-SDR is sensitive to phase, so a generative decoder scores low in it even where it
sounds right.</p>
<h2>Side by side</h2>
<img class="strip" src="spectrograms.png" alt="Spectrograms: original, then {safe(", ".join(t.title for t in shown))}">
<p class="soft">From the left: original, {safe("; ".join(t.title for t in shown))}. {LOWEST_HZ:.0f} Hz to half the rate
upwards on a logarithmic axis; {RANGE_DB:.0f} dB from dark to bright.</p>"""
    return document(f"Duotone: {piece.name}", body, _STYLE)


def cells(take: Take) -> list[str]:
    """A take's row of the table, without its title."""
    row: dict[str, Any] = {**vars(take), **take.metrics}
    return ["–" if row.get(key) is None else form.format(row[key]) for key, _, form in COLUMNS]


def _card(name: str, title: str, note: str, rate: int) -> str:
    ticks = "".join(
        f'<span style="bottom:{100 * place(hertz, rate):.1f}%">{label}</span>'
        for hertz, label in ((100, "100 Hz"), (1000, "1 kHz"), (10_000, "10 kHz"))
        if hertz < rate / 2
    )
    return (
        f'\n<figure><div class="view"><img src="{safe(name)}.png" alt="Spectrogram of {safe(title)}">{ticks}</div>'
        f"<figcaption>{safe(title)}<small>{safe(note)}</small></figcaption>"
        f'<audio controls preload="none" src="{safe(name)}.wav"></audio></figure>'
    )
