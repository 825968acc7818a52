"""The listening page: versions that are aligned and equally loud, and one file that holds all of them and fetches nothing."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from importlib.resources import files

import numpy as np
import pytest
import soundfile
import torch

from duotone.audio.synth import synthesize
from duotone.audio.waveform import Waveform
from duotone.codec.codicodec import CoDiCodec
from duotone.errors import AudioError
from duotone.evaluate import opus
from duotone.evaluate.listening import RATE, Clip, Version, compare_clip
from duotone.evaluate.listening_page import MARK, About, flac, page
from duotone.evaluate.loudness import loudness

needs_opus = pytest.mark.skipif(bool(opus.missing_programs()), reason="needs the Debian package opus-tools")


class Parsed(HTMLParser):
    """Elements by tag with their attributes, and the text of scripts by id; every element must be closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "input", "path"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[self.elements[-1][1].get("id") or "script"] = data


def version(key: str, samples: torch.Tensor, title: str = "") -> Version:
    return Version(
        key, "original" if key == "original" else "codec", title or key, "made up", 100, Waveform(samples, RATE), {}
    )


def short_page(title: str = "noise", **about: str) -> str:
    generator = torch.Generator().manual_seed(0)
    made = [version(key, 0.1 * torch.randn(2, 4_800, generator=generator)) for key in ("original", "discrete")]
    words = {"codec": "tiny", "fingerprint": "00ff", "provenance": "", **about}
    return page(About(parameters=1_000_000, kbit_per_second=2.6, **words), [Clip(title, "", "", tuple(made))] * 2)


@needs_opus
def test_versions_are_aligned_equally_loud_and_of_real_size(codec: CoDiCodec) -> None:
    wave = synthesize(3, 1.0).resample(44_100)
    clip = compare_clip(codec, wave, "a")
    assert [v.key for v in clip.versions] == ["original", "discrete", "continuous", "opus-nearest", "opus-12k"]
    assert {(v.wave.rate, v.wave.length, v.wave.channels) for v in clip.versions} == {(48_000, 48_000, 2)}
    levels = [loudness(v.wave) for v in clip.versions]
    assert max(levels) - min(levels) < 0.05
    original, discrete, continuous, nearest, larger = clip.versions
    assert original.file_bytes == 44_100 * 4 and not original.metrics
    assert discrete.file_bytes < continuous.file_bytes < original.file_bytes
    assert nearest.file_bytes < larger.file_bytes and nearest.wave.samples.any()
    assert all(v.metrics["log_mel"] > 0 for v in clip.versions[1:])


def test_a_recording_of_no_samples_is_refused(codec: CoDiCodec) -> None:
    with pytest.raises(AudioError, match="zero samples"):
        compare_clip(codec, Waveform(torch.zeros(1, 0), 48_000), "nothing")


def test_sound_is_embedded_to_the_sample() -> None:
    samples = torch.rand(2, 5_000, generator=torch.Generator().manual_seed(1)) * 1.9 - 0.95
    back, rate = soundfile.read(io.BytesIO(flac(Waveform(samples, RATE))), always_2d=True)
    assert rate == RATE and back.shape == (5_000, 2) and np.abs(back.T - samples.numpy()).max() <= 1 / 32_768
    back, _ = soundfile.read(io.BytesIO(flac(Waveform(samples[:1].repeat(2, 1), RATE))), always_2d=True)
    assert back.shape == (5_000, 1)


def test_the_page_is_one_file_that_holds_every_version() -> None:
    text = short_page()
    parsed = Parsed(text)
    assert MARK in text and "{{" not in text
    for tag, attributes in parsed.elements:
        assert not {"src", "href", "srcset", "action"} & set(attributes), (tag, attributes)
    assert not re.search(r"https?://|@import|url\(|fetch\(|XMLHttpRequest|import\(", text)
    data = json.loads(parsed.scripts["data"])
    assert [clip["title"] for clip in data["clips"]] == ["noise", "noise"]
    for clip in data["clips"]:
        for sound in (each["sound"] for each in clip["versions"]):
            assert base64.b64decode(parsed.scripts[sound], validate=True)[:4] == b"fLaC"
    named = {a["id"] for _, a in parsed.elements if a.get("id")}
    asked = set(re.findall(r"\$\(\"([\w-]+)\"\)", parsed.scripts["script"]))
    section = (files("duotone.evaluate") / "assets" / "continued.html").read_text(encoding="utf-8")
    named |= set(re.findall(r'id="([\w-]+)"', section))  # asked for where there is a continuation
    assert asked and asked <= named  # every element that the script asks for by a plain name
    for tag, attributes in parsed.elements:
        if attributes.get("role") in ("radiogroup", "group", "img"):
            assert attributes.get("aria-label"), (tag, attributes)


def test_what_comes_from_outside_is_escaped() -> None:
    text = short_page("</script><b>\udcff&", codec='"x"<i>', provenance="<script>alert(1)</script>")
    text.encode("utf-8")
    parsed = Parsed(text)
    assert (
        [tag for tag, _ in parsed.elements].count("script") == 2 + 4 and "<i>alert" not in text and '"x"<i>' not in text
    )
    assert json.loads(parsed.scripts["data"])["clips"][0]["title"].startswith("</script><b>")


def test_the_page_says_where_opus_is_missing() -> None:
    assert "Opus is missing on this page" in short_page()
