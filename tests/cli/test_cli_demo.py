"""The demo: everything it promises lies in its folder, its page is sound HTML, its pictures are pictures."""

from __future__ import annotations

import dataclasses
import json
import struct
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from duotone.audio.files import read, write
from duotone.audio.waveform import Waveform
from duotone.cli import demo
from duotone.cli.demo_page import Piece, Take, page
from duotone.codec.codicodec import CoDiCodec
from duotone.codec.container import read_duo
from duotone.evaluate.picture import PANEL, place, png, spectrogram

WAYS = [
    f"{face}-{strategy}" for face in ("latents", "tokens") for strategy in ("parallel", "autoregressive", "wavefront")
]


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value for key, value in attrs if key == "src" and value]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def _decoded(data: bytes) -> np.ndarray:
    """Pixels of a PNG of filter 0, checking every checksum."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, parts = 8, {}
    while at < len(data):
        (size,), kind = struct.unpack(">I", data[at : at + 4]), data[at + 4 : at + 8]
        body = data[at + 8 : at + 8 + size]
        assert struct.unpack(">I", data[at + 8 + size : at + 12 + size])[0] == zlib.crc32(kind + body)
        parts[kind], at = body, at + 12 + size
    width, height = struct.unpack(">II", parts[b"IHDR"][:8])
    lines = np.frombuffer(zlib.decompress(parts[b"IDAT"]), np.uint8).reshape(height, 1 + 3 * width)
    assert not lines[:, 0].any() and b"IEND" in parts
    return lines[:, 1:].reshape(height, width, 3)


def test_demo_fills_its_folder_and_can_run_again(here: Path, duotone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "LIMIT_SECONDS", 0.04)
    result = duotone("demo", "a.wav", "-o", "out")
    assert result.exit_code == 0 and "takes the first" in result.stderr
    assert "latents, wavefront" in result.stdout and "same samples" in result.stdout
    assert "Encoded in float32: blocks of any size" in result.stdout
    assert all(len(line) <= 80 for line in result.stdout.splitlines())
    out = Path("out")
    assert read(out / "original.wav").length == 1_920
    for way in WAYS:
        assert read(out / f"{way}.wav").length == 1_920
    assert len(read_duo(out / "tokens.duo")) == len(read_duo(out / "latents.duo"))
    links = _Links()
    links.feed((out / "index.html").read_text(encoding="utf-8"))
    assert not links.open and len(links.sources) == 2 * 5 + 1
    assert all((out / source).is_file() for source in links.sources)
    height, width, _ = _decoded((out / "spectrograms.png").read_bytes()).shape
    assert height == PANEL[0] and width > 5 * PANEL[1]
    figures = json.loads((out / "metrics.json").read_text())
    assert [take["name"] for take in figures["takes"]] == WAYS and figures["wavefront_gap"] < 1e-3
    assert figures["takes"][-1]["bytes"] == (out / "tokens.duo").stat().st_size
    assert duotone("demo", "a.wav", "-o", "out", "--json").exit_code == 0


def test_demo_leaves_other_folders_alone(here: Path, duotone: Any) -> None:
    result = duotone("demo", "a.wav", "-o", str(here))
    assert result.exit_code == 2 and "--force" in result.stderr
    assert duotone("demo", "a.wav", "-o", "a.wav").exit_code == 2
    assert duotone("demo", "absent.wav", "-o", "new").exit_code == 3 and not Path("new").exists()
    Path("mine").mkdir()
    Path("mine/metrics.json").write_text('{"mine": 1}')
    assert duotone("demo", "a.wav", "-o", "mine").exit_code == 2


def test_a_demo_that_was_stopped_can_run_again(here: Path, duotone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(demo, "_draw", stopped)
        assert duotone("demo", "a.wav", "-o", "out").exit_code == 130
    assert Path("out/tokens.duo").is_file() and not Path("out/index.html").exists()
    assert duotone("demo", "a.wav", "-o", "out").exit_code == 0


def test_what_is_said_of_repeating_fits_the_number_formats() -> None:
    piece = Piece("a", 1.0, 48_000, 2, "tiny", "00", 1, "float32", "bfloat16", "", 1.0)
    told = demo._repeatable(piece, True, 0.001)
    assert "a few in ten thousand" in told and "this machine alone" in told and "60 dB" in told
    exact = demo._repeatable(dataclasses.replace(piece, decoded_in="float32"), True, 0.0)
    assert "Decoded in float32" in exact and "bit for bit" in exact and "alone" not in exact
    told = demo._repeatable(dataclasses.replace(piece, encoded_in="bfloat16"), False, None)
    assert "depend on the machine" in told and "decoding again gives" in told and "Wavefront" not in told


def test_demo_without_a_bundled_piece_says_so(here: Path, duotone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "files", lambda package: here)
    result = duotone("demo", "-o", "new")
    assert result.exit_code == 3 and "duotone demo FILE" in result.stderr


def test_a_wavefront_that_differs_is_reported(here: Path, duotone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    decode = CoDiCodec.decode

    def half(self: CoDiCodec, value: Any, strategy: str | None = None, **options: Any) -> Waveform:
        wave = decode(self, value, strategy, **options)
        return Waveform(wave.samples / 2, wave.rate) if strategy == "wavefront" else wave

    monkeypatch.setattr(CoDiCodec, "decode", half)
    result = duotone("demo", "a.wav", "-o", "out")
    assert result.exit_code == 1 and "report it" in result.stderr


def test_silence_and_one_sample_pass(here: Path, duotone: Any) -> None:
    write("silence.wav", Waveform(torch.zeros(1, 600), 44_100))
    write("tick.wav", Waveform(torch.full((1, 1), 0.5), 48_000))
    for name in ("silence", "tick"):
        assert duotone("demo", f"{name}.wav", "-o", name).exit_code == 0
        assert "–" in Path(name, "index.html").read_text(encoding="utf-8")


def test_page_escapes_what_comes_from_outside() -> None:
    piece = Piece("<b>\udcff&.wav", 1.0, 8_000, 1, '"x"<i>', "00ff", 1_000_000, "float32", "bfloat16", "<script>", 3.0)
    text = page(piece, [Take("tokens-parallel", "tokens", "parallel", 10, 0.1, 2.0, {"si_sdr": None})], "equal & so")
    text.encode("utf-8")
    assert "<b>" not in text and "<script>" not in text and "<i>tone" in text and '"x"<i>' not in text
    assert "&lt;b&gt;?&amp;.wav" in text and "equal &amp; so" in text and "10 kHz" not in text


def test_spectrogram_shows_a_tone_where_it_is() -> None:
    time = torch.arange(48_000) / 48_000
    pixels = spectrogram(Waveform(0.5 * torch.sin(2 * torch.pi * 1_000 * time)[None], 48_000)).astype(int)
    assert pixels.shape == (*PANEL, 3)
    loudest = pixels.sum(2)[:, 50:-50].mean(1).argmax()
    assert abs(loudest - (1 - place(1_000, 48_000)) * PANEL[0]) < 3


def test_png_keeps_every_pixel() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    assert np.array_equal(_decoded(png(pixels)), pixels)
