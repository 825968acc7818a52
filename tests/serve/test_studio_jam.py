"""The studio's section "Continue and jam" in a browser: what is heard and saved, controls, prompts, the microphone, a lost connection."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the service needs the extra serve")
pytest.importorskip("playwright.sync_api", reason="needs the Python package playwright")

from duotone import flow
from duotone.audio.files import write
from duotone.audio.synth import synthesize
from duotone.serve.models import Models
from flow_toys import PAIRED, stirred
from serving import Running, serving
from small_bands import random_bands
from studio_page import CHROMIUM, Shown, own_sound, saved_sound, shown, shown_far_ahead, violations

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a browser (Debian: apt install chromium)")
MODEL, CODEC = stirred(PAIRED), random_bands()
LIVE = "studio.live"


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with serving(Models({"bands": CODEC}, MODEL, "toy")) as found:
        yield found


@pytest.fixture
def studio(browser: Any, running: Running) -> Iterator[Shown]:
    """The chunks of this codec last 11 ms."""
    with shown_far_ahead(browser, running) as found:
        yield found


def start(studio: Shown, samples: int = 10_000) -> None:
    """Click Start and wait until so many samples were heard of the sound that it begins, not of one that played before."""
    studio.get(
        f"""((live) => {{
            const {{ sound }} = Object.getPrototypeOf(live);
            window.begun = false;
            live.sound = function (came) {{ sound.call(this, came); window.begun ||= came.fresh; }};
        }})({LIVE})"""
    )
    studio.page.click("#live-start")
    studio.until("window.begun")
    heard(studio, samples)


def heard(studio: Shown, samples: float) -> None:
    studio.until(f"{LIVE}.state === 'playing' && {LIVE}.player.heard > {samples}")


def own(samples: int, **wishes: Any) -> np.ndarray:
    """What a session of the library plays with these models."""
    return own_sound(MODEL, CODEC, samples, **wishes)


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
    assert found["told"] == "heard" and found["at"] > 0
    studio.until(f"{LIVE}.player.heard >= {found['at']}")
    assert [mark["text"] for mark in studio.get(f"{LIVE}.tape.marks")] == ["temperature 0.95"]
    heard(studio, found["at"] + 10_000)
    sound = saved_sound(studio)
    assert len(sound) > found["at"] + 4_000  # what is heard falls back by the sound card's latency after an underrun
    assert np.array_equal(sound, own(len(sound), at=found["at"], temperature=value))
    assert not np.array_equal(sound, own(len(sound)))


def test_pause_keeps_the_place_and_stop_keeps_what_was_heard(studio: Shown) -> None:
    start(studio)
    studio.page.locator("#live").focus()
    studio.page.keyboard.press("Space")
    studio.until(f"{LIVE}.state === 'paused' && !{LIVE}.player.playing")
    studio.let_sound_run(f"{LIVE}.player.context")  # it may have waited for sound, and not have seen the pause yet
    at = studio.get(f"{LIVE}.player.played")
    assert "Paused" in studio.page.inner_text("#live-status")
    studio.let_sound_run(f"{LIVE}.player.context")
    assert studio.get(f"{LIVE}.player.played") == at
    studio.page.keyboard.press("Space")
    heard(studio, at + 10_000)
    studio.page.keyboard.press("Escape")
    studio.until(f"{LIVE}.state === 'idle'")
    sound = saved_sound(studio)
    assert len(sound) > at and np.array_equal(sound, own(len(sound)))
    assert studio.page.is_disabled("#live-pause") and studio.page.is_enabled("#live-start")


def test_stop_while_a_session_opens_is_heeded(studio: Shown) -> None:
    studio.get(
        """void ((context) => {
            const own = context.resume;
            context.resume = async function () { await new Promise((go) => { window.go = go; }); return own.call(this); };
        })(AudioContext.prototype)"""
    )
    studio.page.click("#live-start")
    studio.until(f"window.go !== undefined && {LIVE}.session.state === 'open'")
    studio.page.click("#live-stop")
    studio.until(f"{LIVE}.state === 'idle'")
    studio.get("void go()")
    studio.get("new Promise((done) => setTimeout(done))")
    assert studio.get(f"{LIVE}.state") == "idle" and studio.get(f"{LIVE}.session") is None
    assert studio.get("messages") == []


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
    sound = saved_sound(studio)
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
    start(studio)
    studio.page.get_by_text("More controls").click()
    studio.page.get_by_text("Add an oscillator").click()
    studio.page.set_viewport_size({"width": 360, "height": 740})
    assert studio.get("document.documentElement.scrollWidth") == 360
    studio.until(f"{LIVE}.tape.marks.some(({{ text }}) => text === 'oscillator on temperature')")
    for scheme in ("light", "dark"):
        studio.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        assert violations(studio, "#live") == [], scheme


def test_errors_of_controls_are_told_in_the_services_words(studio: Shown) -> None:
    start(studio)
    studio.page.get_by_text("More controls").click()
    studio.page.select_option("#live-solver", "average")
    studio.until_told("needs a model with spans")
    assert row(studio, "solver")["phase"] == "refused" and studio.page.input_value("#live-solver") == "euler"


KNOBS = """
    window.knobs = { onstatechange: null, inputs: new Map() };
    window.plug = (name) => { knobs.inputs.set(name, { name, onmidimessage: null }); knobs.onstatechange?.(); };
    window.turn = (name, ...data) => knobs.inputs.get(name).onmidimessage({ data: Uint8Array.from(data) });
    navigator.requestMIDIAccess = async () => knobs;
"""


def test_a_knob_is_bound_and_turns_a_control(browser: Any, running: Running) -> None:
    """A controller that is made up stands in for Web MIDI, which a browser without a sound system does not have."""
    with shown(browser, running.url + "/", prelude=KNOBS) as studio:
        studio.until(f"{LIVE} !== undefined")
        start(studio)
        studio.page.click("#live-midi")
        studio.until_told("No MIDI device is connected")
        studio.get("plug('Knobs')")  # one that comes later is heard too
        studio.page.click("#live-learn")
        studio.until_told("Touch a control first")
        studio.page.focus("#live-temperature")
        studio.page.click("#live-learn")
        studio.until_told("it will be bound to temperature")
        studio.get("turn('Knobs', 0x93, 60, 100)")  # a note is no knob
        assert row(studio, "temperature")["value"] == 1
        studio.get("turn('Knobs', 0xb2, 21, 127)")
        studio.until_told("Knob 21 (channel 3) turns temperature.")
        studio.until(f"{LIVE}.controls.rows.get('temperature').phase === 'heard'")
        assert row(studio, "temperature")["value"] == 2
        studio.get("turn('Knobs', 0xb2, 22, 0)")  # another knob, and the same on another channel
        studio.get("turn('Knobs', 0xb3, 21, 0)")
        assert row(studio, "temperature")["value"] == 2
        studio.get("turn('Knobs', 0xb2, 21, 0)")
        assert row(studio, "temperature")["value"] == 0
        studio.page.reload()  # what is bound is kept
        studio.until(f"{LIVE} !== undefined")
        studio.get("plug('Knobs')")
        studio.page.click("#live-midi")
        studio.until_told("MIDI: Knobs")
        studio.get("turn('Knobs', 0xb2, 21, 127)")
        assert row(studio, "temperature")["value"] == 2
        studio.get(
            "void (navigator.requestMIDIAccess = async () => { throw new DOMException('no', 'SecurityError'); })"
        )
        studio.page.click("#live-midi")
        studio.until_told("does not let this page use MIDI")
        studio.fine()


def test_little_motion_is_respected(studio: Shown) -> None:
    """Nothing is animated, and the tape moves twice a second instead of with every frame."""
    drawn = f"(() => {{ const draw = {LIVE}.tape.draw; window.drawn = 0; {LIVE}.tape.draw = function (...given) {{ window.drawn++; return draw.apply(this, given); }}; }})()"
    studio.page.emulate_media(reduced_motion="reduce")
    styles = """[...document.querySelectorAll("*")].map((each) => getComputedStyle(each))
        .filter(({ transitionDuration, animationName }) => animationName !== "none" || transitionDuration.split(", ").some((each) => parseFloat(each) > 0)).length"""
    assert studio.get(styles) == 0
    studio.get(drawn)
    start(studio)
    before, since = studio.get("[window.drawn, performance.now()]")
    heard(studio, studio.get(f"{LIVE}.player.heard") + 48_000)
    studio.until(f"window.drawn > {before}")
    drawings, now = studio.get("[window.drawn, performance.now()]")
    assert drawings - before <= 2 * (now - since) / 1000 + 1
    studio.page.emulate_media(reduced_motion="no-preference")
    assert studio.get(styles) > 0  # of the section "Source"


def test_a_prompt_that_is_too_long_is_told(browser: Any, tmp_path: Path) -> None:
    write(tmp_path / "long.wav", synthesize(3, 0.6))
    limits = {"prompt_seconds": 0.2}
    with (
        serving(Models({"bands": CODEC}, MODEL, "toy"), limits=limits) as running,
        shown(browser, running.url + "/") as studio,
    ):
        studio.page.set_input_files("#file", tmp_path / "long.wav")
        studio.until_made()
        studio.page.get_by_text("After the open sound").click()
        start(studio)
        assert "0.4 s before them are left out (prompt_seconds)" in studio.page.inner_text("#live-prompt-note")
        studio.page.get_by_text("From nothing", exact=True).click()
        start(studio)
        assert studio.page.is_hidden("#live-prompt-note")
        studio.fine()
