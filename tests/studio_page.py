"""The studio in a browser, for tests: Chromium without a sound card and with a microphone that is made up, and what a page logged."""

from __future__ import annotations

import io
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from duotone import flow
from duotone.audio.files import read
from duotone.audio.wav_stream import pcm
from duotone.codec.contract import Codec
from duotone.flow.model import FlowModel

if TYPE_CHECKING:
    from serving import Running  # needs the extra serve

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGS = (
    "--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
)  # fmt: skip
WAIT_S = 240  # for a machine that does other things
#: Keeps every message of the page, for some go away by themselves: before a slow machine has looked, perhaps.
KEEP_MESSAGES = """document.addEventListener("readystatechange", () => {
    const host = document.getElementById("messages");
    if (document.readyState !== "interactive" || !host) return;
    window.messages = [];
    window.messagesRead = 0;
    new MutationObserver((changes) => {
        for (const { addedNodes } of changes) for (const each of addedNodes) messages.push(each.dataset.message);
    }).observe(host, { childList: true });
})"""


class Shown:
    """A page of the studio, and every warning and error that it logged."""

    def __init__(self, page: Any, url: str) -> None:
        self.page, self.url = page, url
        self.told: list[str] = []
        self.asked: list[str] = []  #: addresses of requests
        page.set_default_timeout(WAIT_S * 1000)
        page.on("console", lambda message: self.told.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.told.append(f"thrown: {error}"))
        page.on("request", lambda request: self.asked.append(request.url))
        page.add_init_script(KEEP_MESSAGES)
        page.goto(url)

    def get(self, expression: str) -> Any:
        """The value of an expression; `studio` is what the page has for checks."""
        return self.page.evaluate(expression)

    def until(self, expression: str) -> Any:
        """Wait for an expression to be true, and return it. (Playwright's own way evaluates text in the page, which its policy forbids.)"""
        end = time.monotonic() + WAIT_S
        while not (found := self.get(expression)):
            assert time.monotonic() < end, (expression, self.get("window.messages"), self.told)
            self.page.wait_for_timeout(50)
        return found

    def until_told(self, words: str) -> None:
        """Wait for a message with these words that came after the one that was waited for last, whether it is still there or not."""
        wanted = json.dumps(words)
        self.until(f"""((at) => at >= 0 && (window.messagesRead = at + 1))(
            messages.findIndex((each, i) => i >= messagesRead && each.includes({wanted})))""")

    def until_logged(self, words: str) -> None:
        """Wait for a line of the browser's console, and forget it."""
        end = time.monotonic() + WAIT_S
        while not (found := [line for line in self.told if words in line]):
            assert time.monotonic() < end, (words, self.told)
            self.page.wait_for_timeout(50)
        self.told.remove(found[0])

    def let_sound_run(self, clock: str, seconds: float = 0.3) -> None:
        """Wait until the thread of sound has worked for so long, by its own clock: an expression for its AudioContext."""
        since = self.get(f"{clock}.currentTime")
        self.until(f"{clock}.currentTime > {since + seconds}")

    def until_made(self) -> None:
        """Wait until everything that a sound is compared with was made, measured and drawn."""
        self.until("studio.project.versions.length > 0 && studio.project.versions.every((v) => v.buffer)")
        self.until(
            "!studio.project.find('original') || studio.project.versions.slice(1).every((v) => v.distance !== null)"
        )
        self.until(
            "document.getElementById('stack').dataset.drawn && document.getElementById('pictures').dataset.drawn"
        )

    def fine(self) -> None:
        """Nothing was logged, and nothing was asked of another host."""
        assert self.told == [], self.told
        assert all(url.startswith((self.url, "blob:", "data:")) for url in self.asked), self.asked


@contextmanager
def browsing() -> Iterator[Any]:
    """A browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=list(ARGS))
        yield found
        found.close()


@contextmanager
def shown(
    browser: Any, url: str, width: int = 1440, height: int = 1000, scheme: str = "light", prelude: str | None = None
) -> Iterator[Shown]:
    """The studio of a service in a fresh profile, connected; `prelude` runs before the page's own scripts."""
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    if prelude is not None:
        context.add_init_script(prelude)
    found = Shown(context.new_page(), url)
    found.until("'ready' in document.body.dataset || document.getElementById('ask').open")
    yield found
    context.close()


@contextmanager
def shown_until_left(browser: Any, running: Running) -> Iterator[Shown]:
    """The studio of a service; in the end nothing was logged, and no session is left."""
    with shown(browser, running.url + "/") as found:
        yield found
        found.fine()
    while running.service.sockets:
        running.thread.join(0.01)
    assert len(running.service.device.scheduler) == 0


@contextmanager
def shown_far_ahead(browser: Any, running: Running) -> Iterator[Shown]:
    """The same with the largest look-ahead, for codecs whose chunks are short."""
    with shown_until_left(browser, running) as found:
        found.until("studio.live !== undefined")
        found.page.select_option("#live-lookahead", "8")
        yield found


def saved_sound(found: Shown) -> np.ndarray:
    """What "Save what was heard" gives, `[T, 2]`."""
    with found.page.expect_download() as download:
        found.page.click("#live-save")
    data = Path(download.value.path()).read_bytes()
    assert data[:4] == b"RIFF" and read(io.BytesIO(data)).rate == 48_000
    return np.frombuffer(data[44:], "<i2").reshape(-1, 2)


def own_sound(
    model: FlowModel, codec: Codec, samples: int, seed: int = 0, at: int | None = None, **changes: Any
) -> np.ndarray:
    """What a session of the library plays, `[T, 2]`; changes are made before the chunk that begins at sample `at`."""
    found: list[np.ndarray] = []
    with flow.session(model, codec, seed=seed) as session:
        while session.taken < samples:
            if session.made == at:
                session.set(**changes)
            session.make()
            wave = session.take()
            assert wave is not None
            found.append(pcm(wave.numpy()).T)
    return np.concatenate(found)[:samples]


def violations(found: Shown, part: str = "html") -> list[str]:
    """What axe-core finds, of the rules of WCAG 2 A and AA and of best practice, in the part of the page that a selector names."""
    from axe_playwright_python.base import AXE_FILE_PATH

    source = Path(AXE_FILE_PATH).read_text(encoding="utf-8")
    found.get(f"{source}; 0")
    told = found.get(f"axe.run('{part}', {{ resultTypes: ['violations'] }}).then(({{ violations }}) => violations)")
    return [f"{each['id']}: {node['html']} {node['failureSummary']}" for each in told for node in each["nodes"]]
