"""The studio in a browser: open, encode, switch, zoom, blind tests, save, open again, tokens, a service that is gone, access, pictures."""

from __future__ import annotations

import base64
import contextlib
import io
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("fastapi", reason="the service needs the extra serve")
pytest.importorskip("playwright.sync_api", reason="needs the Python package playwright")

from duotone.audio.files import read, write
from duotone.audio.waveform import Waveform
from duotone.codec.codicodec import CoDiCodec
from duotone.codec.container import read_duo
from duotone.evaluate.loudness import matched
from duotone.hub import load
from duotone.serve.models import Models
from serving import Running, serving
from small_bands import random_bands
from studio_page import CHROMIUM, Shown, shown, violations

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a browser (Debian: apt install chromium)")
RATE, SECONDS, HERTZ = 48_000, 0.8, 1_000
TAKEN = bool(os.environ.get("DUOTONE_PICTURES"))  # whether pictures are taken, and not only compared
PICTURES = Path(__file__).resolve().parents[2] / "docs" / "pictures"


@pytest.fixture(scope="module")
def song(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tone in stereo that fades in, so that no two parts of it are alike."""
    time = torch.arange(round(SECONDS * RATE), dtype=torch.float64) / RATE
    tone = torch.sin(2 * math.pi * HERTZ * time) * time / SECONDS
    path = tmp_path_factory.mktemp("song") / "song.wav"
    write(path, Waveform(torch.stack([0.5 * tone, 0.3 * tone]).float(), RATE))
    return path


@pytest.fixture(scope="module")
def short(song: Path) -> Path:
    """The end of it, where a test needs some sound and no time passes in it."""
    wave = read(song)
    path = song.with_name("short.wav")
    write(path, Waveform(wave.samples[:, -round(0.3 * RATE) :].contiguous(), RATE))
    return path


@pytest.fixture(scope="module")
def small(codec: CoDiCodec) -> Iterator[Running]:
    with serving(codec) as found:
        yield found


@pytest.fixture
def empty(browser: Any, small: Running) -> Iterator[Shown]:
    with shown(browser, small.url + "/") as found:
        yield found
        found.fine()


@pytest.fixture(scope="module")
def kept(browser: Any, small: Running, song: Path) -> Iterator[Shown]:
    """The studio with the song, made once."""
    with shown(browser, small.url + "/") as found:
        found.page.set_input_files("#file", song)
        found.until_made()
        yield found


@pytest.fixture
def studio(kept: Shown) -> Iterator[Shown]:
    """The studio with the song, as after it was opened; nothing may be logged."""
    kept.get("studio.player.playing && document.getElementById('play').click()")
    kept.get("studio.blind.trial && studio.blind.end()")
    kept.get("studio.timeline.all()")
    kept.page.keyboard.press("Escape")
    kept.page.keyboard.press("1")
    yield kept
    kept.fine()


def samples(shown: Shown, key: str) -> torch.Tensor:
    """What a version is played from, `[C, T]`."""
    found = shown.get(f"""(() => {{ const buffer = studio.project.find("{key}").buffer;
        return Array.from({{ length: buffer.numberOfChannels }}, (_, c) => {{
          const bytes = new Uint8Array(buffer.getChannelData(c).buffer), parts = [];
          for (let i = 0; i < bytes.length; i += 8192) parts.push(String.fromCharCode(...bytes.subarray(i, i + 8192)));
          return btoa(parts.join("")); }}); }})()""")
    return torch.stack([torch.frombuffer(bytearray(base64.b64decode(each)), dtype=torch.float32) for each in found])


def test_versions_are_what_the_library_makes(studio: Shown, codec: CoDiCodec, song: Path) -> None:
    wave = read(song)
    latents = codec.encode(wave)
    own = {
        "original": wave,
        "tokens": codec.decode(latents.codes(), "wavefront"),
        "latents": codec.decode(latents, "wavefront"),
    }
    heard = {key: samples(studio, key) for key in own}
    for key, expected in own.items():
        assert heard[key].shape == expected.samples.shape
        assert (heard[key] - expected.samples.clamp(-1, 1)).abs().max() < 2e-3, key
    keys = studio.get("studio.project.versions.map((v) => v.key)")
    waves = [Waveform(samples(studio, key), RATE) for key in keys]
    gains = [20 * math.log10(gain) for gain in studio.get("studio.project.versions.map((v) => v.gain)")]
    assert gains == pytest.approx(matched(waves)[1], abs=0.05)
    assert ("opus-nearest" in keys) is studio.get("studio.project.models.opus")


def test_versions_switch_while_playing(studio: Shown) -> None:
    studio.page.keyboard.press("Space")
    studio.until("studio.player.playing && studio.player.position() > 0.05")
    since = studio.get("studio.player.since")
    for key, heard in (("2", 1), ("3", 2), ("ArrowUp", 1), ("1", 0), ("9", 0)):
        studio.page.keyboard.press(key)
        studio.until(
            f"studio.player.voices.every(({{ gain }}, i) => Math.abs(gain.gain.value - (i === {heard} ? studio.project.versions[i].gain : 0)) < 0.01)"
        )
    assert studio.get("studio.player.since") == since  # nothing was started anew
    studio.page.get_by_role("button", name="Pause").click()
    assert studio.get("studio.player.playing") is False
    studio.page.keyboard.press("ArrowRight")
    assert studio.get("studio.player.position()") > 0.7


def test_a_drag_repeats_a_part_and_a_click_goes_there(studio: Shown) -> None:
    box = studio.page.locator("#view-tokens").bounding_box()
    studio.page.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 20)
    studio.page.mouse.down()
    studio.page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 20, steps=4)
    studio.page.mouse.up()
    assert studio.get("studio.state.region") == pytest.approx([0.25 * SECONDS, 0.5 * SECONDS], abs=0.02)
    assert studio.get("studio.state.key") == "tokens"
    studio.page.mouse.click(box["x"] + 0.8 * box["width"], box["y"] + 20)
    assert studio.get("studio.state.region") is None
    assert studio.get("studio.player.position()") == pytest.approx(0.8 * SECONDS, abs=0.02)


def brightest(studio: Shown) -> list[float]:
    """Heights of the brightest pixel of the original's picture, from 0 below to 1 above, in ten columns."""
    return studio.get("""(() => { const shown = document.getElementById("view-original"), { width, height } = shown, found = [];
        const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
        context.drawImage(shown, 0, 0);
        for (let i = 0; i < 10; i++) {
          const { data } = context.getImageData(Math.floor((i + 0.5) / 10 * width), 0, 1, height);
          let best = 0;
          for (let y = 0; y < height; y++) if (data[4 * y] + data[4 * y + 1] > data[4 * best] + data[4 * best + 1]) best = y;
          found.push(1 - (best + 0.5) / height);
        }
        return found; })()""")


def test_spectrograms_zoom_and_show_where_the_tone_is(studio: Shown) -> None:
    studio.page.keyboard.press("f")
    studio.until("document.getElementById('stack').dataset.drawn.startsWith('near/0.000/0.800')")
    assert [5_000 * height for height in brightest(studio)[2:-1]] == pytest.approx([HERTZ] * 7, abs=40)
    studio.get("studio.timeline.show(0.3, 0.6)")
    studio.until("document.getElementById('stack').dataset.drawn === 'near/0.300/0.600'")
    assert [5_000 * height for height in brightest(studio)] == pytest.approx([HERTZ] * 10, abs=40)
    studio.page.keyboard.press("+")
    assert studio.get("studio.timeline.span") == pytest.approx(0.15)
    studio.page.focus("#overview")
    studio.page.keyboard.press("End")
    assert studio.get("studio.timeline.to") == pytest.approx(SECONDS)
    studio.page.keyboard.press("0")
    assert studio.get("[studio.timeline.from, studio.timeline.to]") == pytest.approx([0, SECONDS])
    studio.page.get_by_text("Waveform", exact=True).click()
    studio.until("document.getElementById('stack').dataset.drawn.startsWith('wave/')")
    studio.page.keyboard.press("f")
    studio.until("document.getElementById('stack').dataset.drawn.startsWith('full/')")


def test_blind_answers_are_counted(studio: Shown) -> None:
    page = studio.page
    page.select_option("#first", label="small, tokens")
    page.select_option("#second", label="small, latents")
    page.keyboard.press("b")
    assert page.is_hidden("#stack") and page.is_hidden("#bits")
    for number in range(4):  # always the tokens, wherever they are
        letter = studio.get("studio.blind.trial.order.indexOf(1)")
        page.keyboard.press(str(letter + 1))
        page.keyboard.press("Enter") if number % 2 else page.click(f"#answer-{letter}")
    page.keyboard.press("3")
    page.keyboard.press("Enter")  # the reference is no answer
    assert "small, tokens 4, small, latents 0" in page.inner_text("#tally") and "0.125" in page.inner_text("#tally")
    page.keyboard.press("b")
    assert page.is_visible("#stack")
    page.get_by_text("Which one is X?").click()
    page.click("#begin")
    for right in (True, True, False):
        x = studio.get("studio.blind.trial.x")
        page.click(f"#answer-{x if right else 1 - x}")
    assert "2 of 3 right" in page.inner_text("#tally") and "0.500" in page.inner_text("#tally")
    page.click("#end")
    page.click("#reset")
    assert page.is_hidden("#tally")


def test_pictures_tell_single_values(studio: Shown, codec: CoDiCodec, song: Path) -> None:
    latents = codec.encode(read(song))
    codes = latents.codes().indices[0]
    studio.page.focus("#picture-tokens .view")
    studio.page.keyboard.press("ArrowRight")
    assert f"chunk 1, token 1: {codes[0]}," in studio.page.inner_text("#readout-tokens")
    studio.page.keyboard.press("ArrowDown")
    assert f"token 2: {codes[1]}," in studio.page.inner_text("#readout-tokens")
    studio.page.focus("#picture-latents .view")
    studio.page.keyboard.press("ArrowRight")
    size = latents.values[0].numel()
    rows = next(count for count in range(min(64, size), 0, -1) if size % count == 0)
    value = float(latents.channels(rows)[0, 0, 0])
    assert f"value 1: {value:.2f}" in studio.page.inner_text("#readout-latents")


def test_options_are_those_of_the_codec(studio: Shown, codec: CoDiCodec, song: Path) -> None:
    studio.page.click("#decoding summary")
    choices = studio.page.locator("#option-strategy option").all_inner_texts()
    assert choices == ["default", *(name for name in codec.spec.strategies if name != "live")]
    studio.page.select_option("#option-strategy", "autoregressive")
    studio.page.fill("#option-steps", "2")
    studio.page.fill("#option-seed", "5")
    before = studio.get("studio.project.find('tokens').made")
    studio.page.click("#again")
    studio.until(f"studio.project.find('tokens').made > {before} && studio.project.find('latents').made > {before}")
    expected = codec.decode(codec.encode(read(song)).codes(), "autoregressive", seed=5, steps=2)
    assert (samples(studio, "tokens") - expected.samples.clamp(-1, 1)).abs().max() < 2e-3
    studio.page.fill("#option-steps", "100000")
    studio.page.click("#again")
    studio.until_told("steps")
    studio.until_logged("error: Failed to load resource")  # the status 400
    studio.page.fill("#option-steps", "")
    studio.page.click("#messages button")


def test_a_duo_is_saved_and_opened_again(studio: Shown, empty: Shown, codec: CoDiCodec, song: Path) -> None:
    latents = codec.encode(read(song))
    for face, own in (("tokens", latents.codes()), ("latents", latents)):
        with studio.page.expect_download() as found:
            studio.page.get_by_role("button", name=f"Save the {face}").click()
        assert found.value.suggested_filename == f"song.{face}.duo"
        data = Path(found.value.path()).read_bytes()
        value = read_duo(io.BytesIO(data))
        assert value.source == own.source and (face == "latents" or value == own)
        empty.page.set_input_files(
            "#file", {"name": f"song.{face}.duo", "mimeType": "application/x-duotone", "buffer": data}
        )
        empty.until(f"studio.project.name === 'song.{face}.duo'")
        empty.until_made()
        assert empty.get("studio.project.versions.map((v) => v.key)") == [face]
        assert empty.page.is_hidden("#blind") and empty.get("studio.context.currentDuo().size") == len(data)
        assert empty.page.locator("#pictures .picture").count() == 2
    with studio.page.expect_download() as found:
        studio.page.get_by_role("button", name="Save what is heard").click()
    assert read(io.BytesIO(Path(found.value.path()).read_bytes())).length == round(SECONDS * RATE)


def test_a_drop_and_the_keyboard_open_sounds(empty: Shown, short: Path) -> None:
    data = list(short.read_bytes())
    empty.page.evaluate(
        """(data) => { const transfer = new DataTransfer();
        transfer.items.add(new File([new Uint8Array(data)], "dropped.wav"));
        document.getElementById("drop").dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true })); }""",
        data,
    )
    empty.until("studio.project.name === 'dropped.wav'")
    empty.until_made()
    reached = set()
    for _ in range(60):
        empty.page.keyboard.press("Tab")
        reached.add(empty.get("document.activeElement.id || document.activeElement.textContent"))
    for control in (
        "theme",
        "another",
        "overview",
        "zoom-in",
        "zoom-out",
        "first",
        "second",
        "begin",
        "play",
        "seek",
        "loop",
        "Save the tokens (.duo)",
    ):
        assert control in reached, control
    empty.page.focus("#another")
    empty.page.keyboard.press("Enter")
    empty.page.focus("#clips button")
    empty.page.keyboard.press("Enter")
    empty.until("studio.project.name === 'Guitar and tabla' && studio.project.find('original').buffer !== null")


def test_a_long_sound_is_taken_in_parts(browser: Any, short: Path) -> None:
    with (
        serving(random_bands(), limits={"compared_seconds": 0.2, "upload_bytes": 400_000}) as running,
        shown(browser, running.url + "/") as found,
    ):
        found.page.set_input_files("#file", short)
        found.until_made()
        found.until_told("lasts 0.3 s. This page works on 0.2 s of it at a time (compared_seconds)")
        assert found.get("studio.project.seconds") == pytest.approx(0.2)
        found.page.fill("#part", "0.2")
        found.page.press("#part", "Enter")
        found.until("studio.project.start === 0.2")
        found.until_made()
        assert found.get("studio.project.seconds") == pytest.approx(0.1)
        assert (samples(found, "original") - read(short).samples[:, round(0.2 * RATE) :]).abs().max() < 1e-4
        found.page.set_input_files("#file", {"name": "large.wav", "mimeType": "audio/wav", "buffer": bytes(400_001)})
        found.until_told("this service takes at most 0.4 MiB (upload_bytes)")
        found.fine()
        found.page.set_input_files(
            "#file", {"name": "words.wav", "mimeType": "audio/wav", "buffer": b"no sound at all"}
        )
        found.until_told("is not a sound file")


def test_a_token_is_asked_for_and_kept(browser: Any, short: Path) -> None:
    secret = "a token of these tests"
    with serving(random_bands(), tokens=[secret]) as running, shown(browser, running.url + "/") as found:
        found.until("document.getElementById('ask').open")
        found.page.fill("#token", "a wrong token, though long")
        found.page.keyboard.press("Enter")
        found.until("document.getElementById('ask-told').textContent.includes('a wrong token')")
        found.page.fill("#token", secret)
        found.page.keyboard.press("Enter")
        found.until("'ready' in document.body.dataset")
        found.page.set_input_files("#file", short)
        found.until_made()
        found.page.reload()
        found.until("'ready' in document.body.dataset")
        assert not found.get("document.getElementById('ask').open") and found.get("studio.context.token") == secret
        for _ in range(2):
            found.until_logged("401")
        found.fine()


def test_a_service_that_is_gone_is_told_and_found_again(browser: Any, short: Path) -> None:
    with contextlib.ExitStack() as stack:
        with serving(random_bands()) as running:
            found = stack.enter_context(shown(browser, running.url + "/"))
            found.page.set_input_files("#file", short)
            found.until_made()
        found.until("document.getElementById('server').dataset.state === 'gone'")
        found.until_told("What is open here stays")
        found.page.keyboard.press("Space")  # what is open still plays
        found.until("studio.player.playing && studio.player.position() > 0.05")
        found.page.set_input_files("#file", short)
        found.until_told("The service does not answer.")
        stack.enter_context(serving(random_bands(), port=running.port))
        found.until("document.getElementById('server').dataset.state === 'ready'")
        found.until_told("The service is back.")
        made = found.get("studio.project.versions.at(-1).made")
        found.page.set_input_files("#file", short)
        found.until(f"studio.project.versions.at(-1).made > {made}")
        assert all("ERR_" in line or "503" in line for line in found.told), found.told  # 503: it starts


def test_opus_that_is_missing_is_told(
    browser: Any, short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with serving(random_bands()) as running, shown(browser, running.url + "/") as found:
        found.page.set_input_files("#file", short)
        found.until_made()
        assert found.get("studio.project.versions.map((v) => v.key)") == ["original", "tokens", "latents"]
        assert "apt install opus-tools" in found.page.inner_text("#opus-missing")
        found.fine()


def test_everybody_can_use_it(browser: Any, small: Running, short: Path) -> None:
    pytest.importorskip("axe_playwright_python", reason="needs the Python package axe-playwright-python")
    with shown(browser, small.url + "/") as found:
        assert violations(found) == []
        found.page.set_input_files("#file", short)
        found.until_made()
        found.page.click("#decoding summary")
        found.page.click("#help summary")
        found.get("studio.context.say('A message.', 'warning')")
        for scheme in ("light", "dark"):
            found.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            assert violations(found) == [], scheme
        found.page.keyboard.press("b")
        assert violations(found) == []
        found.get("document.getElementById('ask').showModal()")
        assert violations(found) == []


#: Width, height (None: the whole page), scheme.
PICTURED = {"wide": (1440, 1120, "light"), "dark": (1440, None, "dark"), "narrow": (360, 1500, "light")}


@pytest.fixture(scope="module")
def pictured(browser: Any) -> Iterator[Shown]:
    """What `duotone serve` serves by default, with a clip of ours."""
    models = Models({"tiny": load("tiny")}, load("flow-tiny"), "flow-tiny")
    scheduling = {"share": 100}  # takes a jam also where other work leaves it little of the machine
    with serving(models, scheduling=scheduling) as running, shown(browser, running.url + "/", 360, 740) as found:
        assert found.get("document.documentElement.scrollWidth") == 360
        found.page.get_by_role("button", name="Composed piece").click()
        found.until_made()
        found.page.keyboard.press("2")
        found.get("studio.player.offset = 2.6")
        yield found
        found.fine()


@pytest.mark.parametrize("name", list(PICTURED))
def test_pictures_of_the_page_are_current(pictured: Shown, name: str) -> None:
    """The pictures of the documentation look as the page does. `make pictures` takes them, by this test and the next."""
    width, height, scheme = PICTURED[name]
    pictured.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    pictured.page.set_viewport_size({"width": width, "height": height or 800})
    tall = pictured.get("document.documentElement.scrollHeight")
    pictured.page.set_viewport_size({"width": width, "height": height or tall})
    pictured.get("(scrollTo(0, 0), studio.timeline.all())")
    pictured.until("document.getElementById('stack').dataset.drawn")
    assert pictured.get("document.documentElement.scrollWidth") == width  # nothing is cut off
    current(pictured.page.screenshot(), name)


@pytest.fixture(scope="module")
def jamming(pictured: Shown) -> Shown:
    """The same page with a jam that has gone on for as long as its tape shows, and was changed three times."""
    page = pictured.page
    page.set_viewport_size({"width": 1440, "height": 1100})
    page.get_by_text("Jam along").click()
    page.get_by_text("After the open sound").click()
    page.select_option("#live-lookahead", "4")
    page.click("#live-start")
    page.locator("#live").focus()
    for at, key in ((1, "m"), (2, "Shift+T"), (4, "g"), (6.5, "p")):
        played(pictured, at)
        page.keyboard.press(key)
    pictured.until("studio.live.tape.marks.length === 3")
    played(
        pictured, max(10.5, pictured.get("Math.max(...studio.live.tape.marks.map(({ place }) => place)) / 48000") + 1)
    )
    return pictured


def played(shown: Shown, seconds: float) -> None:
    """Let a session play until so many seconds were heard; on a slow machine it pauses before its sound runs out."""
    shown.until("studio.live.state === 'playing'")
    while shown.get("studio.live.player.heard / studio.live.rate") < seconds:
        if shown.get("studio.live.player.ahead") < 1.2:
            shown.get("studio.live.pause(true)")
            resumed(shown)
        shown.page.wait_for_timeout(100)


def resumed(shown: Shown) -> None:
    """Go on with a session that is paused, when its look-ahead of 2.7 s is nearly full."""
    shown.until("studio.live.player.ahead > 2.2")
    shown.get("studio.live.pause(false)")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pictures_of_a_jam_are_current(jamming: Shown, scheme: str) -> None:
    page = jamming.page
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    jamming.get("document.querySelectorAll('#messages button').forEach((each) => each.click())")
    jamming.get("(scrollTo(0, 0), document.activeElement.blur())")
    box = page.locator("#live").bounding_box()
    assert box is not None
    resumed(jamming)
    page.wait_for_timeout(700)  # until the tape is drawn in the colours of the scheme, and its levels rise
    shot = page.screenshot(
        full_page=True, clip={**box, "x": 0, "width": 1440, "y": box["y"] - 24, "height": box["height"] + 48}
    )
    jamming.get("studio.live.pause(true)")
    if TAKEN:  # the figure in a picture that is shown
        assert jamming.get("studio.live.player.underruns") == 0
    current(shot, "jam" if scheme == "light" else "jam-dark")


def current(png: bytes, name: str) -> None:
    """Compare a picture with that of the documentation, or put it there (`make pictures`)."""
    image = pytest.importorskip("PIL.Image", reason="needs Pillow")
    shot = image.open(io.BytesIO(png)).convert("RGB")
    target = PICTURES / f"studio-{name}.webp"
    if TAKEN:
        shot.save(target, quality=70, method=6)
    thumbs = [each.resize((32, 32)).tobytes() for each in (image.open(target).convert("RGB"), shot)]
    difference = sum(abs(a - b) for a, b in zip(*thumbs, strict=True)) / len(thumbs[0])
    assert difference < 12, "The page has changed: make pictures, and look at docs/pictures/studio-*.webp"
    assert sum(path.stat().st_size for path in PICTURES.glob("studio-*")) < 600_000
