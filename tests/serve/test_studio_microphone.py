"""The microphone in a jam of the studio: what it gives reaches the service, and enters the context where it was heard."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the service needs the extra serve")
pytest.importorskip("playwright.sync_api", reason="needs the Python package playwright")

from duotone.flow.session import Session
from duotone.serve.models import Models
from flow_toys import PAIRED, stirred
from serving import Running, serving
from small_bands import SMALL_BANDS, random_bands
from studio_page import CHROMIUM, Shown, own_sound, saved_sound, shown_far_ahead

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a browser (Debian: apt install chromium)")
#: What the microphone gives belongs to what is heard, which is the look-ahead (8 chunks of 85 ms) and the way through the page behind what
#: is made: the context has to reach further back than that.
MODEL = stirred(PAIRED.model_copy(update={"context_chunks": 16}))
CODEC = random_bands(SMALL_BANDS.model_copy(update={"n_fft": 2048, "hop": 512}))
LIVE = "studio.live"


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with serving(Models({"bands": CODEC}, MODEL, "toy")) as found:
        yield found


@pytest.fixture
def jam(browser: Any, running: Running) -> Iterator[Shown]:
    """A jam that plays."""
    with shown_far_ahead(browser, running) as found:
        found.page.get_by_text("Jam along").click()
        found.page.click("#live-start")
        found.until(f"{LIVE}.state === 'playing' && {LIVE}.player.heard > 10_000")
        yield found


def session_of(running: Running) -> Session:
    """The only session of the service."""
    (socket,) = running.service.sockets
    return socket.live.desk.session


def counted(running: Running) -> tuple[int, int]:
    """Chunks of the microphone that the session has placed, and that came too late, by the service's own count."""
    session = session_of(running)
    return session.placed, session.late


def test_what_the_microphone_gives_stands_in_the_context(jam: Shown, running: Running) -> None:
    assert counted(running) == (0, 0)
    jam.page.locator("#live").focus()
    jam.page.keyboard.press("m")
    jam.until_told("Use headphones")
    assert jam.page.get_attribute("#live-mic", "aria-pressed") == "true"
    jam.until(
        "Number.parseInt(document.getElementById('live-input').textContent, 10) > 3"
    )  # of an event of the service
    placed, _ = counted(running)
    assert placed > 3
    made = session_of(running).made  # what is made from here on has heard the microphone
    jam.page.keyboard.press("m")
    jam.until(f"{LIVE}.along.capture === null")
    assert jam.page.get_attribute("#live-mic", "aria-pressed") == "false"
    jam.until(f"{LIVE}.player.heard > {made + 4 * CODEC.spec.chunk}")
    sound = saved_sound(jam)
    alone = own_sound(MODEL, CODEC, len(sound))
    first = int(np.flatnonzero(np.any(sound != alone, axis=1))[0])  # from there on the music answers
    assert CODEC.spec.chunk <= first < len(sound)
    assert np.array_equal(sound[:first], alone[:first])


def test_a_microphone_that_is_refused_is_told_and_the_jam_goes_on(jam: Shown, running: Running) -> None:
    jam.get(
        "void (navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('', 'NotAllowedError')))"
    )
    jam.page.click("#live-mic")
    jam.until_told("Allow it beside the address")
    assert jam.page.get_attribute("#live-mic", "aria-pressed") == "false"
    at = jam.get(f"{LIVE}.player.heard")
    jam.until(f"{LIVE}.player.heard > {at} + 5_000")
    assert counted(running) == (0, 0)
