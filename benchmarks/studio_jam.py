"""A jam in the page of `duotone serve`, in a real browser without a sound card, whose thread of sound runs by the clock."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGS = ("--no-sandbox", "--autoplay-policy=no-user-gesture-required")
PATIENCE = 60.0  # seconds, beyond those that are played, until a jam counts as stuck
POLL_MS = 500
SETTLED = 2.0  # seconds heard, from which on slack is counted: at the beginning the look-ahead is still empty

#: What the page shows of the jam: seconds heard, waits of its player, samples that did not come, the least slack of the last pieces.
LOOK = """(() => { const { player, rate, slacks } = studio.live;
    return { seconds: player.heard / rate, underruns: player.underruns, lost: player.lost, least: Math.min(...slacks) }; })()"""


def browser_path() -> str:
    """The browser. Raises `RuntimeError` where there is none."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        raise RuntimeError(f"None of {', '.join(NAMES)} was found. Install one (Debian: apt install chromium).")
    return found


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """This thread, and the processes that it starts in the block, run on one core (Linux)."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def played(url: str, seconds: float) -> dict[str, Any]:
    """Start a jam in the page and let it play. Raises `RuntimeError` where it gets stuck or the page logs an error."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=browser_path(), args=list(ARGS))
        page = browser.new_page()
        problems: list[str] = []
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(url)
        _until(page, "window.studio?.live !== undefined")
        page.get_by_text("Jam along").click()
        page.click("#live-start")
        _until(page, "studio.live.state === 'playing' && studio.live.player.playing")
        found = _watched(page, seconds)
        health = page.evaluate("studio.live.session.command({ type: 'health' })")
        version = browser.version
        browser.close()
    if problems:
        raise RuntimeError(f"The page logged: {'; '.join(problems)}")
    return {**found, "late": health["underruns"], "browser": version}


def _until(page: Any, expression: str) -> None:
    end = time.monotonic() + PATIENCE
    while not page.evaluate(expression):
        if time.monotonic() > end:
            raise RuntimeError(f"The page did not get to {expression}: {_told(page)}")
        page.wait_for_timeout(POLL_MS / 10)


def _watched(page: Any, seconds: float) -> dict[str, Any]:
    """What the page shows when so many seconds were heard, with the least slack of all pieces."""
    end, least = time.monotonic() + seconds + PATIENCE, float("inf")
    while True:
        look: dict[str, Any] = page.evaluate(LOOK)
        if look["seconds"] >= SETTLED:
            least = min(least, look["least"])
        if look["seconds"] >= seconds:
            return {**look, "least": least}
        if time.monotonic() > end:
            raise RuntimeError(
                f"Only {look['seconds']:.1f} of {seconds:g} s were heard: {page.inner_text('#messages')}"
            )
        page.wait_for_timeout(POLL_MS)


def _told(page: Any) -> str:
    """What the page says, such as that the service measured too little speed to take the session."""
    return " ".join(page.inner_text(name) for name in ("#messages", "#live-status"))
