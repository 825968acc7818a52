"""The listening page in a browser: no errors, exact sound, switching while playing, spectrograms, blind tests, keys, widths."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from duotone.audio.waveform import Waveform
from duotone.evaluate.listening import RATE, Clip, Version
from duotone.evaluate.listening_page import About, page

playwright = pytest.importorskip("playwright.sync_api", reason="needs the Python package playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a browser (Debian: apt install chromium)")
TONES = (1_000, 2_000, 3_000)
WAIT_MS = 120_000  # for a machine that does other things


def tone(hertz: float) -> Waveform:
    time = torch.arange(2 * RATE, dtype=torch.float64) / RATE
    return Waveform(0.4 * torch.sin(2 * math.pi * hertz * time).float()[None], RATE)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    keys = ("original", "discrete", "continuous")
    versions = tuple(
        Version(key, "codec", key, "a tone", 100, tone(hertz), {}) for key, hertz in zip(keys, TONES, strict=True)
    )
    target = tmp_path_factory.mktemp("page") / "page.html"
    clips = [Clip("first", "tones", "", versions), Clip("second", "tones", "", versions[:2])]
    target.write_text(page(About("tiny", "00", 1, 2.6, ""), clips), encoding="utf-8")
    return target


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(
            executable_path=CHROMIUM, args=["--autoplay-policy=no-user-gesture-required", "--no-sandbox"]
        )
        yield found
        found.close()


@pytest.fixture
def opened(browser: Any, written: Path) -> Iterator[Any]:
    """The page, drawn; at the end nothing was fetched and no error was logged."""
    told: list[str] = []
    shown = browser.new_page(viewport={"width": 1_200, "height": 900})
    shown.set_default_timeout(WAIT_MS)
    shown.on("console", lambda message: told.append(f"{message.type}: {message.text}"))
    shown.on("pageerror", lambda error: told.append(str(error)))
    shown.on("request", lambda request: told.append(request.url) if request.url != written.as_uri() else None)
    shown.goto(written.as_uri())
    shown.wait_for_function("document.getElementById('stack').dataset.drawn === '0/near'")
    yield shown
    assert told == []
    shown.close()


@pytest.mark.long
def test_sound_is_decoded_to_the_sample_and_drawn_where_it_is(opened: Any) -> None:
    for i, hertz in enumerate(TONES):
        found = opened.evaluate(
            "async (i) => { const b = (await listening.buffers(0))[i]; return [b.sampleRate, b.length, [...b.getChannelData(0).slice(0, 500)]]; }",
            i,
        )
        assert found[:2] == [RATE, 2 * RATE]
        assert torch.tensor(found[2]).allclose(tone(hertz).samples[0, :500], atol=1 / 32_000)
        row = opened.evaluate(
            """async (i) => { const values = levels((await listening.buffers(0))[i], RANGES.near), at = 500 * ROWS;
                const column = values.slice(at, at + ROWS); return column.indexOf(Math.max(...column)) / ROWS; }""",
            i,
        )
        assert row * 5_000 == pytest.approx(hertz, abs=40)


def test_versions_switch_while_playing(opened: Any) -> None:
    opened.keyboard.press("Space")
    opened.wait_for_function("listening.player.playing && listening.player.position() > 0.1")
    since = opened.evaluate("listening.player.since")
    for key, heard in (("2", 1), ("3", 2), ("ArrowUp", 1), ("1", 0), ("9", 0)):
        opened.keyboard.press(key)
        opened.wait_for_function(f"listening.gains().every((g, i) => Math.abs(g - (i === {heard} ? 1 : 0)) < 0.01)")
    assert opened.evaluate("listening.player.since") == since  # nothing was started anew
    assert opened.get_by_role("button", name="Pause").count() == 1
    opened.keyboard.press(".")
    opened.wait_for_function("listening.state.clip === 1 && listening.player.voices.length === 2")
    opened.keyboard.press("Space")
    assert opened.evaluate("listening.player.playing") is False
    opened.keyboard.press("ArrowRight")
    assert opened.evaluate("listening.player.position()") > 0.9


def test_blind_answers_are_counted(opened: Any) -> None:
    opened.select_option("#second", label="continuous")
    opened.keyboard.press("b")
    assert opened.is_hidden("#versions-section")
    for number in range(4):  # always the discrete one, wherever it is
        letter = opened.evaluate("listening.trial().order.indexOf(1)")
        opened.keyboard.press(str(letter + 1))
        opened.keyboard.press("Enter") if number % 2 else opened.click(f"#answer-{letter}")
    opened.keyboard.press("3")
    opened.keyboard.press("Enter")  # the reference is no answer
    assert "discrete 4, continuous 0" in opened.inner_text("#tally") and "0.125" in opened.inner_text("#tally")
    opened.keyboard.press("b")
    assert opened.is_visible("#versions-section")
    opened.get_by_text("Which one is X?").click()
    opened.click("#begin")
    for right in (True, True, False):
        x = opened.evaluate("listening.trial().x")
        opened.click(f"#answer-{x if right else 1 - x}")
    assert "2 of 3 right" in opened.inner_text("#tally") and "0.500" in opened.inner_text("#tally")
    opened.click("#reset")
    assert opened.is_hidden("#tally") and opened.evaluate("listening.tally.size") == 0


@pytest.mark.long
def test_a_drag_repeats_a_part(opened: Any) -> None:
    box = opened.locator("#view-1").bounding_box()
    opened.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 10)
    opened.mouse.down()
    opened.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 10, steps=3)
    opened.mouse.up()
    assert opened.evaluate("listening.state.region") == pytest.approx([0.5, 1.0], abs=0.01)
    assert opened.evaluate("[listening.state.version, listening.player.position()]") == pytest.approx(
        [1, 0.5], abs=0.01
    )
    opened.keyboard.press("Escape")
    assert opened.evaluate("listening.state.region") is None


def test_phones_darkness_and_the_range(opened: Any) -> None:
    opened.set_viewport_size({"width": 360, "height": 740})
    assert opened.evaluate("document.documentElement.scrollWidth") == 360
    colour = "getComputedStyle(document.body).backgroundColor"
    light = opened.evaluate(colour)
    opened.emulate_media(color_scheme="dark")
    dark = opened.evaluate(colour)
    assert dark != light
    opened.keyboard.press("t")
    assert opened.evaluate(colour) == light
    opened.keyboard.press("f")
    opened.wait_for_function("document.getElementById('stack').dataset.drawn === '0/full'")
    opened.click("#begin")
    assert opened.evaluate("document.documentElement.scrollWidth") == 360
