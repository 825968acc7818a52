"""The studio's section "Continue and jam" in a browser: what is heard and saved, controls, prompts, the microphone, a lost connection."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the service needs the extra serve")
pytest.importorskip("playwright.sync_api", reason="needs the Python package playwright")

from duotone import flow
from duotone.audio.files import read, write
from duotone.audio.synth import synthesize
from duotone.audio.wav_stream import pcm
from duotone.serve.models import Models
from flow_toys import PAIRED, stirred
from serving import Running, serving
from small_bands import random_bands
from studio_page import CHROMIUM, Shown, shown

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a browser (Debian: apt install chromium)")
MODEL, CODEC = stirred(PAIRED), random_bands()
LIVE = "studio.live"


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with serving(Models({"bands": CODEC}, MODEL, "toy")) as found:
        yield found


@pytest.fixture
def studio(browser: Any, running: Running) -> Iterator[Shown]:
    """The studio with the largest look-ahead, for the chunks of this codec last 11 ms; nothing may be logged, nobody is left after it."""
    with shown(browser, running.url + "/") as found:
        found.until(f"{LIVE} !== undefined")
        found.page.select_option("#live-lookahead", "8")
        yield found
        found.fine()
    while running.service.sockets:
        running.thread.join(0.01)
    assert len(running.service.device.scheduler) == 0


def start(studio: Shown, samples: int = 10_000) -> None:
    studio.page.click("#live-start")
    heard(studio, samples)


def heard(studio: Shown, samples: float) -> None:
    studio.until(f"{LIVE}.state === 'playing' && {LIVE}.player.heard > {samples}")


def saved(studio: Shown) -> np.ndarray:
    """What the button saves, `[T, 2]`."""
    with studio.page.expect_download() as found:
        studio.page.click("#live-save")
    data = Path(found.value.path()).read_bytes()
    assert data[:4] == b"RIFF" and read(io.BytesIO(data)).rate == 48_000
    return np.frombuffer(data[44:], "<i2").reshape(-1, 2)


def own(samples: int, seed: int = 0, at: int | None = None, **changes: Any) -> np.ndarray:
    """What a session of the library plays; changes are made before the chunk that begins at sample `at`."""
    found: list[np.ndarray] = []
    with flow.session(MODEL, CODEC, seed=seed) as session:
        while session.taken < samples:
            if session.made == at:
                session.set(**changes)
            session.make()
            wave = session.take()
            assert wave is not None
            found.append(pcm(wave.numpy()).T)
    return np.concatenate(found)[:samples]


def row(studio: Shown, name: str) -> dict[str, Any]:
    found: dict[str, Any] = studio.get(
        f"(({{ phase, at, value, when }}) => ({{ phase, at, value, told: when.textContent }}))({LIVE}.controls.rows.get('{name}'))"
    )
    return found


def test_a_change_is_shown_as_heard_where_it_is_heard(studio: Shown) -> None:
    start(studio)
    studio.page.locator("#live").focus()
    assert row(studio, "temperature")["phase"] == "rest"
    studio.page.keyboard.press("Shift+T")
    value = studio.get(f"{LIVE}.controls.rows.get('temperature').value")
    assert value == pytest.approx(0.95)
    studio.until(f"{LIVE}.controls.rows.get('temperature').phase === 'heard'")
    found = row(studio, "temperature")
    assert found["told"] == "heard" and studio.get(f"{LIVE}.player.heard") >= found["at"] > 0
    assert [mark["text"] for mark in studio.get(f"{LIVE}.tape.marks")] == ["temperature 0.95"]
    heard(studio, found["at"] + 5_000)
    sound = saved(studio)
    assert len(sound) > found["at"] + 4_000
    assert np.array_equal(sound, own(len(sound), at=found["at"], temperature=value))
    assert not np.array_equal(sound, own(len(sound)))


def test_pause_keeps_the_place_and_stop_keeps_what_was_heard(studio: Shown) -> None:
    start(studio)
    studio.page.locator("#live").focus()
    studio.page.keyboard.press("Space")
    studio.until(f"{LIVE}.state === 'paused' && !{LIVE}.player.playing")
    at = studio.get(f"{LIVE}.player.played")
    assert "Paused" in studio.page.inner_text("#live-status")
    studio.page.wait_for_timeout(300)
    assert studio.get(f"{LIVE}.player.played") == at
    studio.page.keyboard.press("Space")
    heard(studio, at + 3_000)
    studio.page.keyboard.press("Escape")
    studio.until(f"{LIVE}.state === 'idle'")
    sound = saved(studio)
    assert len(sound) > at and np.array_equal(sound, own(len(sound)))
    assert studio.page.is_disabled("#live-pause") and studio.page.is_enabled("#live-start")


def test_it_goes_on_from_the_open_sound_and_takes_it_again(studio: Shown, tmp_path: Path) -> None:
    write(tmp_path / "song.wav", synthesize(3, 0.3))
    assert studio.page.is_disabled("#live input[value=wave]")
    studio.page.set_input_files("#file", tmp_path / "song.wav")
    studio.until_made()
    studio.page.get_by_text("After the open sound").click()
    start(studio)
    assert studio.get(f"{LIVE}.promptChunks") >= 20
    first = studio.get("document.getElementById('live-seed').value")
    studio.page.click("#live-again")
    studio.until(f"document.getElementById('live-seed').value !== '{first}' && {LIVE}.heard.before.length > 0")
    heard(studio, 8_000)
    studio.page.click("#live-reanchor")
    studio.page.click("#live-reseed")
    studio.until(f"{LIVE}.tape.marks.length === 2")
    texts = [mark["text"] for mark in studio.get(f"{LIVE}.tape.marks")]
    assert texts[0] == "back to the prompt" and texts[1] == f"seed {studio.page.input_value('#live-seed')}"
    studio.page.get_by_text("After the open .duo").click()
    start(studio)
    assert studio.get(f"{LIVE}.promptChunks") >= 20


def test_a_lost_connection_is_told_and_the_session_goes_on(studio: Shown) -> None:
    start(studio)
    studio.get(
        f"""void {LIVE}.session.addEventListener("state", ({{ detail }}) => {{
            if (detail.state !== "waiting") return;
            window.told = document.getElementById("live-status").textContent;
            {LIVE}.controls.change("gain", 0.5); // waits for the service
        }})"""
    )
    studio.get(f"{LIVE}.session.socket.close(3001)")
    studio.until_told("there again")
    assert "connection was lost" in studio.get("told")
    studio.until(f"{LIVE}.state === 'playing' && {LIVE}.controls.rows.get('gain').phase === 'heard'")
    at = row(studio, "gain")["at"]
    heard(studio, at + 2_000)
    sound = saved(studio)
    assert np.array_equal(sound, own(len(sound), at=at, gain=0.5))


def test_a_session_is_saved_and_opened(studio: Shown, tmp_path: Path) -> None:
    start(studio)
    with studio.page.expect_download() as found:
        studio.page.click("#live-save-state")
    path = tmp_path / found.value.suggested_filename
    found.value.save_as(path)
    with flow.resume(MODEL, CODEC, path.read_bytes()) as session:
        taken = session.taken
    studio.page.click("#live-stop")
    studio.page.set_input_files("#live input[type=file]", path)
    studio.until(f"{LIVE}.state === 'playing' && {LIVE}.player.heard > {taken} + 5000")
    assert studio.get(f"{LIVE}.tape.numbers.some((n) => n >= 0)")


def test_it_is_read_by_keyboard_on_a_phone_and_by_screen_readers(studio: Shown) -> None:
    pytest.importorskip("axe_playwright_python", reason="needs the Python package axe-playwright-python")
    from axe_playwright_python.base import AXE_FILE_PATH

    start(studio)
    studio.page.get_by_text("More controls").click()
    studio.page.get_by_text("Add an oscillator").click()
    studio.page.set_viewport_size({"width": 360, "height": 740})
    assert studio.get("document.documentElement.scrollWidth") == 360
    studio.until(f"{LIVE}.tape.marks.some(({{ text }}) => text === 'oscillator on temperature')")
    studio.get(f"{Path(AXE_FILE_PATH).read_text(encoding='utf-8')}; 0")
    for scheme in ("light", "dark"):
        studio.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        found = studio.get("axe.run('#live', { resultTypes: ['violations'] }).then(({ violations }) => violations)")
        assert [f"{each['id']}: {node['html']}" for each in found for node in each["nodes"]] == [], scheme


def test_errors_of_controls_are_told_in_the_services_words(studio: Shown) -> None:
    start(studio)
    studio.page.get_by_text("More controls").click()
    studio.page.select_option("#live-solver", "average")
    studio.until_told("needs a model with spans")
    assert row(studio, "solver")["phase"] == "refused" and studio.page.input_value("#live-solver") == "euler"
