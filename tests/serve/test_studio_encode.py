"""The studio encodes the microphone live: the .duo that grows, what is shown of it, its end, and what is missing."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the service needs the extra serve")
pytest.importorskip("playwright.sync_api", reason="needs the Python package playwright")

from duotone.audio.files import read
from duotone.audio.waveform import Waveform
from duotone.codec.container import DuoReader, read_duo
from duotone.codec.values import Codes
from serving import Running, serving
from small_bands import random_bands
from studio_page import CHROMIUM, Shown, shown, shown_until_left, violations

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a browser (Debian: apt install chromium)")
CODEC = random_bands()
GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "duo"
WORK = "studio.encoding.work"
RUNNING = "document.body.dataset.encoding === 'running'"


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with serving(CODEC) as found:
        yield found


@pytest.fixture
def studio(browser: Any, running: Running) -> Iterator[Shown]:
    with shown_until_left(browser, running) as found:
        yield found


BYTES = """async (blob) => { const bytes = new Uint8Array(await blob.arrayBuffer()), parts = [];
    for (let i = 0; i < bytes.length; i += 8192) parts.push(String.fromCharCode(...bytes.subarray(i, i + 8192)));
    return btoa(parts.join("")); }"""


def content(studio: Shown, blob: str) -> bytes:
    """What is in a Blob of the page."""
    return base64.b64decode(studio.get(f"({BYTES})({blob})"))


def heard(studio: Shown) -> Waveform:
    """What the microphone gave, of which the service was sent the first part."""
    wave = read(io.BytesIO(content(studio, f"{WORK}.wav()")))
    return Waveform(wave.samples[:, : studio.get(f"{WORK}.sent")].contiguous(), wave.rate)


def test_the_microphone_becomes_a_duo_while_it_records(studio: Shown) -> None:
    studio.page.get_by_role("button", name="Encode live").click()
    tokens = "Number(document.getElementById('encoding-count').textContent.replaceAll(',', ''))"
    studio.until(f"{RUNNING} && {tokens} >= {20 * CODEC.spec.steps}")
    first = studio.get(f"[{WORK}.bytes, {WORK}.tokens, {WORK}.seconds]")
    names = ["bytes", "count", "rate", "time"]
    told = studio.get(
        f"Object.fromEntries({names}.map((n) => [n, document.getElementById(`encoding-${{n}}`).textContent]))"
    )
    assert re.fullmatch(r"[\d,]+ B", told["bytes"]) and re.fullmatch(r"\d+:\d\d(\.\d)?", told["time"]), told
    assert int(told["count"].replace(",", "")) >= 20 * CODEC.spec.steps, told
    assert 0.5 < float(told["rate"].split()[0]) / (CODEC.spec.bit_rate / 1000) < 2, told
    assert studio.page.is_hidden("#drop") and studio.page.is_disabled("#record")
    grown = f"{WORK}.bytes > {first[0]} && {WORK}.tokens > {first[1]} && {WORK}.seconds > {first[2]} + 0.5"
    studio.until(grown)  # what is sent comes back encoded later
    studio.until("document.getElementById('encoding-tokens').width > 300")
    studio.page.get_by_role("button", name="Stop and open").click()
    studio.until("studio.project.name === 'live.duo'")
    studio.until_made()
    assert studio.page.is_hidden("#encoding") and studio.page.is_visible("#loaded")
    assert studio.get("studio.project.versions.map((v) => v.key)") == ["tokens"]
    value = read_duo(io.BytesIO(content(studio, "studio.context.currentDuo()")))
    wave = heard(studio)
    assert wave.rate in (44_100, 48_000) and float(wave.samples.abs().max()) > 0.01  # the browser's microphone beeps
    own = CODEC.encode(wave).codes()
    assert isinstance(value, Codes) and value.source == own.source and value.indices.shape == own.indices.shape
    assert (value.indices == own.indices).float().mean() > 0.99  # rounding of a sound that was resampled in pieces
    in_file = value.numpy().reshape(-1, len(value), CODEC.spec.steps).transpose(1, 2, 0).reshape(len(value), -1)
    assert np.array_equal(np.array(studio.get(f"{WORK}.chunks")), in_file)  # what was shown


def test_the_key_begins_and_ends_it_at_the_width_of_a_phone(studio: Shown) -> None:
    pytest.importorskip("axe_playwright_python", reason="needs the Python package axe-playwright-python")
    studio.page.set_viewport_size({"width": 360, "height": 740})
    studio.page.keyboard.press("e")
    studio.until(f"{RUNNING} && {WORK}.tokens > 0")
    assert studio.get("document.activeElement.id") == "encoding-stop"
    assert studio.get("document.documentElement.scrollWidth") == 360
    for scheme in ("light", "dark"):
        studio.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        assert violations(studio) == [], scheme
    studio.page.keyboard.press("e")
    studio.until("studio.project.name === 'live.duo'")
    studio.until_made()


def test_a_recording_is_opened_and_its_level_is_shown(browser: Any, running: Running) -> None:
    with shown(browser, running.url + "/") as studio:
        studio.page.click("#record")
        studio.until("Number(document.getElementById('record-level').getAttribute('aria-valuenow')) > 10")  # a beep
        assert studio.page.is_disabled("#encode-live") and studio.page.text_content("#record-text") == "Stop"
        studio.page.click("#record")
        studio.until("studio.project.name === 'recording.wav' && studio.project.versions[0].buffer !== null")
        assert studio.page.is_enabled("#encode-live") and studio.page.text_content("#record-text") == "Record"
        assert studio.get("studio.project.seconds > 0")
        studio.fine()


def test_what_is_discarded_leaves_nothing(studio: Shown, running: Running) -> None:
    studio.page.keyboard.press("e")
    studio.until(f"{RUNNING} && {WORK}.tokens > 0")
    studio.page.get_by_role("button", name="Discard").click()
    assert studio.page.is_hidden("#encoding") and studio.page.is_visible("#drop")
    studio.until(f"{WORK}.session.state === 'closed'")
    assert studio.get(f"{WORK}.capture.stream.getTracks().every((track) => track.readyState === 'ended')")
    assert studio.get("studio.project.name") == ""


SLOW_MICROPHONE = """void ((devices) => {
    const own = devices.getUserMedia.bind(devices);
    devices.getUserMedia = (wish) => new Promise((resolve) => { window.allow = () => resolve(own(wish)); });
})(navigator.mediaDevices)"""


def test_what_is_discarded_while_it_opens_never_begins(studio: Shown) -> None:
    studio.get(SLOW_MICROPHONE)
    studio.page.keyboard.press("e")
    studio.until("window.allow !== undefined")
    studio.page.get_by_role("button", name="Discard").click()
    studio.get("allow()")
    studio.until(f"{WORK}.capture.context && {WORK}.capture.context.state === 'closed'")
    assert studio.get(f"{WORK}.capture.stream.getTracks().every((track) => track.readyState === 'ended')")
    assert studio.get("document.body.dataset.encoding") == "off" and studio.get(f"{WORK}.session === undefined")


def test_a_missing_microphone_is_told(studio: Shown) -> None:
    refuse = "void (navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('', 'NotFoundError')))"
    studio.get(refuse)
    studio.page.keyboard.press("e")
    studio.until_told("No microphone was found")
    assert studio.page.is_hidden("#encoding") and studio.page.is_enabled("#encode-live")


def test_a_limit_of_the_service_ends_the_recording_and_keeps_it(browser: Any) -> None:
    limits = {"decoded_seconds": 1.0, "compared_seconds": 0.5}
    with serving(CODEC, limits=limits) as running, shown(browser, running.url + "/") as found:
        found.page.keyboard.press("e")
        found.until_told("takes at most 1 s in a session (decoded_seconds)")
        found.page.get_by_text("this page decodes at most 0.5 s (compared_seconds)").wait_for()
        with found.page.expect_download() as saved:
            found.page.get_by_role("button", name="Save the .duo").click()
        value = read_duo(saved.value.path())
        assert value.source.samples == value.source.rate  # a second, to the sample
        found.page.click("#encoding-close")
        assert found.page.is_hidden("#encoding") and found.page.is_enabled("#encode-live")
        found.fine()


def test_a_service_that_goes_away_does_not_take_the_recording_along(browser: Any) -> None:
    with serving(CODEC) as running:
        context = browser.new_context()
        found = Shown(context.new_page(), running.url + "/")
        found.until("'ready' in document.body.dataset")
        found.page.keyboard.press("e")
        found.until(f"{RUNNING} && {WORK}.seconds > 0.5")
    found.page.get_by_text("Live encoding ended early").wait_for()
    with found.page.expect_download() as saved:
        found.page.get_by_role("button", name="Save the recording").click()
    assert read(saved.value.path()).seconds > 0.5
    found.page.click("#encoding-close")
    found.page.keyboard.press("e")  # nobody is there
    found.page.locator("#messages").get_by_text("Is duotone serve running?").wait_for()
    assert found.get(f"{WORK}.capture.stream.getTracks().every((track) => track.readyState === 'ended')")
    context.close()


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("version-2-*.duo")), ids=lambda path: path.stem)
def test_a_duo_is_read_as_it_arrives(studio: Shown, path: Path) -> None:
    """The files that readers in other languages are tested with, in parts of 1 to 50 bytes."""
    with DuoReader(path) as reader:
        header, own = reader.header, list(reader.records())
    script = """async ([spec, kind, channels, bytes]) => {
        const { DuoFeed } = await import("/studio/duo.js"), feed = new DuoFeed(spec, kind, channels), found = [];
        for (let at = 0, size = 1; at < bytes.length; at += size, size = (size * 7) % 50 + 1) found.push(...feed.push(Uint8Array.from(bytes.slice(at, at + size))));
        return { chunks: feed.chunks, ended: feed.ended, records: feed.records, codes: found.map((chunk) => chunk.map(String)) };
    }"""
    data = path.read_bytes()
    found = studio.page.evaluate(script, [header.spec.to_dict(), header.kind, header.source.channels, list(data)])
    assert found["ended"] and found["chunks"] == sum(map(len, own))
    assert found["records"] == len(data) - len(header.to_bytes()) - 29
    if header.kind == "tokens":
        wanted = [chunk.ravel().tolist() for record in own for chunk in record.values]
        assert [list(map(int, chunk)) for chunk in found["codes"]] == wanted
    else:
        assert found["codes"] == []
