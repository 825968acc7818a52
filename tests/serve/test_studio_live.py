"""The studio's live modules in a browser: frames, ring, resampler, recorder, sessions that are lost and go on."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("fastapi", reason="the service needs the extra serve")
pytest.importorskip("playwright.sync_api", reason="needs the Python package playwright")

from duotone import flow
from duotone.audio.files import read
from duotone.audio.synth import synthesize
from duotone.audio.wav_stream import pcm
from duotone.audio.waveform import Waveform
from duotone.codec.container import read_duo, write_duo
from duotone.serve import frames
from duotone.serve.frames import What
from duotone.serve.models import Models
from flow_toys import PAIRED, stirred
from serving import Running, serving
from small_bands import random_bands
from studio_page import CHROMIUM, Shown, own_sound

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a browser (Debian: apt install chromium)")
MODEL, CODEC = stirred(PAIRED), random_bands()
CHUNK = 512
FADE = 240


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with serving(Models({"bands": CODEC}, MODEL, "toy")) as found:
        yield found


@pytest.fixture
def bare(browser: Any, running: Running) -> Iterator[Shown]:
    """A page of the service without a script: modules are imported by the tests. Nothing may be logged."""
    context = browser.new_context()
    context.route("**/favicon.ico", lambda route: route.fulfill(status=204))  # a page without a head asks for it
    found = Shown(context.new_page(), running.url + "/studio/icon.svg")
    assert found.get("crossOriginIsolated")
    yield found
    context.close()
    assert found.told == [], found.told


PRELUDE = """
    const live = (name) => import(`/studio/live/${name}.js`);
    const packed = (array) => {
      const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
      let text = "";
      for (let at = 0; at < bytes.length; at += 8192) text += String.fromCharCode(...bytes.subarray(at, at + 8192));
      return { type: { Float32Array: "<f4", Int16Array: "<i2", Uint8Array: "u1" }[array.constructor.name], base64: btoa(text) };
    };
    const joined = (Type, parts) => {
      const all = new Type(parts.reduce((sum, part) => sum + part.length, 0));
      let at = 0;
      for (const part of parts) { all.set(part, at); at += part.length; }
      return all;
    };
    const until = async (true_) => { while (!true_()) await new Promise((resolve) => setTimeout(resolve, 5)); };
"""


def run(bare: Shown, script: str, argument: Any = None) -> Any:
    """What an async function of the page returns; `live(name)` imports a module."""
    found = bare.page.evaluate(f"async (given) => {{ {PRELUDE} {script} }}", argument)
    return unpacked(found)


def unpacked(value: Any) -> Any:
    """Arrays come as base64, for lists of numbers take seconds."""
    if isinstance(value, dict) and "type" in value and "base64" in value:
        return np.frombuffer(base64.b64decode(value["base64"]), value["type"])
    if isinstance(value, dict):
        return {key: unpacked(each) for key, each in value.items()}
    return [unpacked(each) for each in value] if isinstance(value, list) else value


# --- frames

JS_FRAMES = """
    const f = await live("frames");
    const bytes = (b) => [...b];
    const samples = Int16Array.from(given.samples);
    return {
      audio: bytes(f.audio(2 ** 40 + 3, samples)), metadata: bytes(f.metadata(2, true, Uint8Array.from([1, 2, 255]))),
      ping: bytes(f.ping(123456789012, Uint8Array.from([9, 8]))), control: bytes(f.control({ type: "stop", id: "ä" })),
      handshake: bytes(f.handshake({ kind: "jam", token: null })), failure: bytes(f.failure({ message: "no" })),
      pieces: [...f.pieces(7, samples, 100)].map(bytes), parts: [...f.parts(3, new Uint8Array(70000))].map((p) => [p.length, p[1], p[2]]),
    };
"""


def test_frames_are_those_of_python(bare: Shown) -> None:
    samples = np.arange(-9, 9, dtype=np.int16).reshape(-1, 2) * 3_000
    own = run(bare, JS_FRAMES, {"samples": samples.ravel().tolist()})
    assert bytes(own["audio"]) == frames.Audio(2**40 + 3, samples).to_bytes()
    assert bytes(own["metadata"]) == frames.Metadata(What.state, True, b"\x01\x02\xff").to_bytes()
    assert bytes(own["ping"]) == frames.Ping(123456789012, b"\x09\x08").to_bytes()
    assert bytes(own["control"]) == frames.Control('{"type":"stop","id":"ä"}').to_bytes()
    assert frames.parse(bytes(own["handshake"])) == frames.Handshake({"kind": "jam", "token": None})
    assert frames.parse(bytes(own["failure"])) == frames.Failure({"message": "no"})
    assert [bytes(each) for each in own["pieces"]] == [each.to_bytes() for each in frames.pieces(7, samples, 100)]
    expected = [(3 + len(each.data), each.what, each.last) for each in frames.parts(What.prompt, bytes(70_000))]
    assert [tuple(each) for each in own["parts"]] == expected


def test_frames_of_python_are_read(bare: Shown) -> None:
    samples = np.array([[1, -2], [32767, -32768]], np.int16)
    sent = [
        frames.Handshake({"kind": "jam"}), frames.Audio(2**40, samples), frames.Control('{"type": "ack", "sample": 3}'),
        frames.Metadata(What.duo, False, b"abc"), frames.Failure({"message": "ö"}), frames.Ping(5, b"12345678"),
    ]  # fmt: skip
    wrong = [
        b"",
        b"\x00",
        b"\x07abc",
        b"\x02short",
        b"\x02" + bytes(9),
        b"\x03[1]",
        b"\x03\xff",
        b"\x04\x09\x00",
        b"\x06" + bytes(80),
    ]
    script = """
        const { parse } = await live("frames");
        const plain = (value) => ArrayBuffer.isView(value) ? [...value] : value;
        const read = (bytes) => { try { return Object.fromEntries(Object.entries(parse(Uint8Array.from(bytes).buffer)).map(([k, v]) => [k, plain(v)])); }
                                  catch (error) { return error.constructor.name; } };
        return given.map(read);
    """
    found = run(bare, script, [list(each.to_bytes()) for each in sent] + [list(each) for each in wrong])
    assert found[: len(sent)] == [
        {"type": "handshake", "version": 1, "document": {"kind": "jam"}},
        {"type": "audio", "place": 2**40, "samples": samples.ravel().tolist()},
        {"type": "control", "event": {"type": "ack", "sample": 3}},
        {"type": "metadata", "what": 1, "last": False, "data": list(b"abc")},
        {"type": "error", "document": {"message": "ö"}},
        {"type": "ping", "samples": 5, "echo": list(b"12345678")},
    ]
    assert found[len(sent) :] == ["FrameError"] * len(wrong)


# --- the ring and its reader

READER = """
    const { Ring, Reader, START, REFILL, ENDED, PAUSED, UNDERRUNS, STATE, READ } = await live("ring");
    const ring = new Ring(new SharedArrayBuffer(Ring.bytes(2048))), reader = new Reader(ring), heard = [];
    ring.set(START, 300); ring.set(REFILL, 900);
    let next = 0;
    const write = (count) => { const s = new Float32Array(2 * count); for (let i = 0; i < count; i++) { s[2 * i] = 0.5; s[2 * i + 1] = ((next + i) % 1000) / 1000; } const n = ring.write(s); next += n; return n; };
    const pull = (blocks) => { for (let b = 0; b < blocks; b++) { const l = new Float32Array(128), r = new Float32Array(128); reader.pull(l, r); heard.push(Float32Array.from({ length: 256 }, (_, i) => (i % 2 ? r : l)[i >> 1])); } };
    const sound = () => packed(joined(Float32Array, heard));
"""


def test_the_ring_gives_every_sample_once_around_its_end(bare: Shown) -> None:
    script = (
        READER
        + """
        const taken = [];
        write(1000);
        for (let i = 0; i < 60; i++) { pull(3); write(384); taken.push(ring.filled); }
        return { heard: sound(), taken, underruns: ring.get(UNDERRUNS), room: write(5000), full: ring.room };
    """
    )
    found = run(bare, script)
    heard = found["heard"].reshape(-1, 2)
    assert len(heard) == 60 * 384 and found["underruns"] == 0 and set(found["taken"]) == {1000}
    assert np.allclose(heard[FADE:, 0], 0.5) and np.allclose(heard[FADE:, 1], np.arange(FADE, len(heard)) % 1000 / 1000)
    assert np.allclose(heard[:FADE, 0], 0.5 * np.arange(1, FADE + 1) / FADE)  # begins without a click
    assert (found["room"], found["full"]) == (1048, 0)  # no more than there is room for


def test_an_underrun_fades_and_waits_for_more_than_the_start(bare: Shown) -> None:
    script = (
        READER
        + """
        write(299); pull(1); const early = heard[0].every((x) => x === 0);
        write(401); pull(8); const after = [ring.get(UNDERRUNS), ring.get(STATE), ring.filled];
        write(800); pull(2); const waiting = ring.filled;
        write(100); pull(3);
        return { heard: sound(), early, after, waiting, underruns: ring.get(UNDERRUNS), read: ring.get(READ) };
    """
    )
    found = run(bare, script)
    left = found["heard"].reshape(-1, 2)[:, 0]
    assert found["early"] and found["after"] == [1, 0, 0] and found["waiting"] == 800 and found["underruns"] == 1
    assert np.abs(np.diff(left)).max() <= 0.5 / FADE + 1e-6  # nowhere a click
    played = left[128:]
    assert np.allclose(played[FADE : 700 - FADE], 0.5) and np.all(played[701 : 701 + 2 * 128] == 0)
    assert found["read"] == 700 + 3 * 128


def test_what_comes_in_time_undoes_a_fade_and_is_no_underrun(bare: Shown) -> None:
    script = (
        READER + "write(500); pull(3); write(800); pull(4); return { heard: sound(), underruns: ring.get(UNDERRUNS) };"
    )
    found = run(bare, script)
    heard = found["heard"].reshape(-1, 2)
    assert found["underruns"] == 0 and np.abs(np.diff(heard[:, 0])).max() <= 0.5 / FADE + 1e-6
    assert heard[450, 0] < 0.5 and heard[-1, 0] == pytest.approx(0.5)


def test_pause_flush_and_end(bare: Shown) -> None:
    script = (
        READER
        + """
        write(1500); pull(4); ring.set(PAUSED, 1); pull(6); const at = ring.get(READ); pull(4); const still = ring.get(READ) === at;
        ring.set(PAUSED, 0); pull(2); const goes = ring.get(READ) > at;
        ring.flush(); const mark = next; write(400); pull(10);
        const jumped = ring.get(READ) - mark, dry = ring.get(UNDERRUNS);
        ring.set(ENDED, 0); write(400); pull(2); const before = ring.get(UNDERRUNS); ring.set(ENDED, 1); pull(20);
        return { heard: sound(), still, goes, jumped, before, after: ring.get(UNDERRUNS), left: ring.filled };
    """
    )
    found = run(bare, script)
    left = found["heard"].reshape(-1, 2)[:, 0]
    assert found["still"] and found["goes"] and found["jumped"] > 0
    assert found["after"] == found["before"] and found["left"] == 0  # an end is no underrun
    assert np.sum(np.abs(np.diff(left)) > 0.5 / FADE + 1e-6) <= 1  # the end of the sound alone may be a step


def test_resampling_keeps_a_tone(bare: Shown) -> None:
    script = """
        const { Resampler } = await live("resample");
        return given.map(([from, to]) => {
          const resampler = new Resampler(from, to), found = [];
          for (let at = 0; at < from / 2; at += 777) {
            const n = Math.min(777, from / 2 - at), s = new Float32Array(2 * n);
            for (let i = 0; i < n; i++) { s[2 * i] = Math.sin(2 * Math.PI * 1000 * (at + i) / from); s[2 * i + 1] = -s[2 * i]; }
            found.push(resampler.push(s));
          }
          return packed(joined(Float32Array, [...found, resampler.finish()]));
        });
    """
    rates = [(48_000, 44_100), (44_100, 48_000), (48_000, 96_000)]
    for (_, to), flat in zip(rates, run(bare, script, rates), strict=True):
        heard = flat.reshape(-1, 2)
        wanted = np.sin(2 * np.pi * 1000 * np.arange(to // 2) / to)
        assert abs(len(heard) - to // 2) <= 60
        edge = 200
        assert np.abs(heard[edge : to // 2 - edge, 0] - wanted[edge:-edge]).max() < 1e-3
        assert np.allclose(heard[:, 0], -heard[:, 1])


@pytest.mark.parametrize(("shared", "rate"), [(True, 48_000), (False, 48_000), (True, 44_100)])
def test_the_player_gives_the_sound_card_every_sample(bare: Shown, shared: bool, rate: int) -> None:
    """Through shared memory, through messages where there is none, and resampled where the card has another rate."""
    script = """
        const { Player } = await live("player"), [shared, rate] = given;
        const card = AudioContext;
        if (rate !== 48000) globalThis.AudioContext = class extends card {
          constructor(options) { if (options.sampleRate) throw new DOMException("", "NotSupportedError"); super({ sampleRate: rate }); }
        };
        // It begins when all is there and the end is told: a page that has to wait in between would add an underrun.
        const player = new Player(48000, { start: 5, refill: 5, shared }), heard = [];
        let tapped = 0; // the time of the block that came last
        await player.open();
        const tap = new AudioWorkletNode(player.context, "duotone-capture", { numberOfOutputs: 0 });
        tap.port.onmessage = ({ data }) => { heard.push(data.samples); tapped = data.time; };
        player.node.connect(tap);
        const samples = (first, count) => Int16Array.from({ length: 2 * count }, (_, i) => (i % 2 ? 20 : -20) * ((first + (i >> 1)) % 1000));
        player.push(5000, samples(5000, 12000));
        player.push(15000, samples(15000, 7000)); // 2000 came before
        player.push(22500, samples(22500, 9500)); // 500 were lost
        let ended = false;
        player.addEventListener("ended", () => { ended = true; });
        const ahead = player.ahead;
        player.end();
        await until(() => ended);
        const told = { ahead, lost: player.lost, underruns: player.underruns, played: player.played, heard: player.heard, rate: player.context.sampleRate };
        player.begin(100); // another sound in the same player
        player.push(100, samples(100, 3000)); player.end();
        await until(() => player.played === 3100);
        const over = player.context.currentTime;
        await until(() => tapped > over); // the block with the last sample has come before
        await player.close();
        return { ...told, sound: packed(joined(Float32Array, heard)), closed: player.context.state };
    """
    found = run(bare, script, [shared, rate])
    assert (found["lost"], found["underruns"], found["rate"], found["closed"]) == (500, 0, rate, "closed")
    assert found["played"] == pytest.approx(32_000) and found["heard"] <= 32_000
    assert 0 < found["ahead"] <= 27_000 / 48_000
    left, right = found["sound"].reshape(-1, 2).T
    assert np.allclose(left, -right, atol=1e-6)
    if rate == 48_000:
        begin = int(np.flatnonzero(right)[0])
        place = np.concatenate([np.arange(5_000, 22_000), np.arange(22_500, 32_000)])
        wanted = place % 1000 * 20 / 32_768
        begin -= 1  # the first sample, of value 0
        assert np.allclose(right[begin + FADE : begin + len(place)], wanted[FADE:], atol=1e-6)
    assert np.count_nonzero(right) == pytest.approx((26_500 + 3_000) * rate / 48_000, rel=0.01)


# --- sessions

COLLECT = """
    const { Session } = await live("session");
    const collect = (session) => {
      const kept = { sound: [], events: [], parts: [], states: [], fresh: 0, welcomes: 0 };
      session.addEventListener("sound", ({ detail }) => {
        kept.sound.push(detail.samples);
        kept.fresh += detail.fresh;
        session.report(session.arrived);
      });
      session.addEventListener("event", ({ detail }) => kept.events.push(detail));
      session.addEventListener("part", ({ detail }) => kept.parts.push(detail.data));
      session.addEventListener("state", ({ detail }) => kept.states.push(detail.state));
      session.addEventListener("welcome", () => { kept.welcomes++; });
      session.addEventListener("closed", ({ detail }) => { kept.closed = { code: detail.code, error: detail.error?.message ?? null }; });
      return kept;
    };
"""


def own(samples: int, seed: int = 3, **wishes: Any) -> np.ndarray:
    """What a session of the library plays with these models."""
    return own_sound(MODEL, CODEC, samples, seed, **wishes)


def test_a_session_plays_the_librarys_sound_and_goes_on_after_a_cut(bare: Shown) -> None:
    script = (
        COLLECT
        + """
        const session = new Session({ kind: "jam", lookahead: 4 }), kept = collect(session);
        const welcome = await session.open(), started = await session.start(null, { seed: 3 });
        await until(() => session.arrived > 3000);
        const ack = await session.command({ type: "set", controls: { temperature: 0.25 } });
        await until(() => session.arrived > ack.sample + 2000);
        const refused = await session.command({ type: "set", controls: { temperature: 11 } }).catch((error) => error.message);
        session.socket.close(3001); // as if the connection were lost
        await until(() => kept.welcomes === 2 && session.arrived > ack.sample + 6000);
        const health = await session.command({ type: "health" });
        const before = session.arrived; // sound goes on arriving while the state is on its way
        const state = new Uint8Array(await (await session.exportState()).arrayBuffer()), end = session.arrived;
        session.close();
        await until(() => kept.closed);
        return { kept: { ...kept, sound: packed(joined(Int16Array, kept.sound)), parts: 0 }, welcome, started, ack, refused, health, state: packed(state), before, end };
    """
    )
    found = run(bare, script)
    kept, at = found["kept"], found["ack"]["sample"]
    sound = kept["sound"].reshape(-1, 2)
    assert found["welcome"]["rate"] == 48_000 and found["started"]["type"] == "started" and kept["fresh"] == 1
    assert found["ack"]["values"] == {"temperature": 0.25} and "temperature" in found["refused"]
    wanted = own(found["end"], at=at, temperature=0.25)
    assert np.array_equal(sound[: found["end"]], wanted)
    assert (
        found["health"]["stuck"] is None
        and flow.resume(MODEL, CODEC, found["state"].tobytes()).taken >= found["before"]
    )
    again = r"(waiting connecting )+"  # more than once where the service has not seen yet that the connection is lost
    assert re.fullmatch(f"connecting open {again}open closed", " ".join(kept["states"])), kept["states"]
    assert kept["closed"] == {"code": 1000, "error": None}


def test_a_prompt_is_sent_once_and_a_new_start_is_fresh(bare: Shown) -> None:
    duo = io.BytesIO()
    value = CODEC.encode(synthesize(3, 0.1)).codes()
    write_duo(duo, value)
    script = (
        COLLECT
        + """
        const prompt = new Blob([Uint8Array.from(given)]);
        const session = new Session({ kind: "continue", lookahead: 4 }), kept = collect(session);
        await session.open();
        const first = await session.start(prompt, { seed: 3 });
        await until(() => session.arrived > 2000);
        const frames = [], send = session.send.bind(session);
        session.send = (frame) => { frames.push(frame[0]); send(frame); };
        const second = await session.start(prompt, { seed: 4, controls: { steps: 1 } });
        await until(() => kept.fresh === 2);
        session.close();
        return { chunks: [first.prompt_chunks, second.prompt_chunks], steps: second.controls.sampling.steps, parts: frames.filter((type) => type === 4).length };
    """
    )
    found = run(bare, script, list(duo.getvalue()))
    assert found == {"chunks": [len(value)] * 2, "steps": 1, "parts": 0}


def test_a_session_goes_on_in_a_service_that_was_started_anew(browser: Any, tmp_path: Any) -> None:
    """With a folder for states by the key, without one by the state that the service sent when it stopped."""
    models = Models({"bands": CODEC}, MODEL)
    for state in (str(tmp_path / "states"), None):
        with serving(models, state=state) as running:
            port = running.port
            context = browser.new_context()
            page = Shown(context.new_page(), running.url + "/studio/icon.svg")
            begun = run(page, COLLECT + """
                const session = new Session({ kind: "continue", lookahead: 4 }), kept = collect(session);
                Object.assign(window, { session, kept, until, packed, joined });
                await session.open();
                await session.start(null, { seed: 3 });
                await until(() => session.arrived > 4000);
                return session.arrived;
            """)  # fmt: skip
            assert begun > 4000
        page.until("session.state === 'waiting'")
        stopped = page.get("session.arrived")
        with serving(models, state=state, port=port):
            page.until(f"kept.welcomes === 2 && session.arrived > {stopped} + 3000")
            found = unpacked(page.page.evaluate("() => packed(joined(Int16Array, kept.sound))")).reshape(-1, 2)
            fresh = page.get("kept.fresh")
            context.close()
        assert np.array_equal(found, own(len(found))) and fresh == 1


def test_live_encoding_and_decoding(bare: Shown) -> None:
    samples = np.ascontiguousarray(pcm(synthesize(3, 0.2).numpy()).T)
    script = (
        COLLECT
        + """
        const bytes = Uint8Array.from(atob(given), (c) => c.charCodeAt(0)), samples = new Int16Array(bytes.buffer);
        const session = new Session({ kind: "encode", rate: 48000 }), kept = collect(session);
        await session.open();
        session.push(0, samples);
        await session.stop();
        await until(() => kept.closed);
        const duo = joined(Uint8Array, kept.parts);
        const other = new Session({ kind: "decode", lookahead: 4, seed: 7 }), heard = collect(other);
        await other.open();
        await other.upload(1, new Blob([duo]));
        await until(() => heard.closed);
        return { duo: packed(duo), sound: packed(joined(Int16Array, heard.sound)), closed: [kept.closed, heard.closed], ended: heard.events.at(-1).type };
    """
    )
    found = run(bare, script, base64.b64encode(samples.tobytes()).decode())
    value = read_duo(io.BytesIO(found["duo"].tobytes()))
    assert value == CODEC.encode(Waveform(np.ascontiguousarray(samples.T), 48_000)).codes()
    wanted = pcm(CODEC.decode(value, seed=7, restore=False).numpy()).T
    assert np.abs(found["sound"].reshape(-1, 2).astype(int) - wanted).max() <= 1
    assert found["ended"] == "stopped" and [each["code"] for each in found["closed"]] == [1000, 1000]


def test_refusals_are_told_in_the_services_words(browser: Any, bare: Shown) -> None:
    script = "const { Session } = await live('session'); return new Session(given).open().then(() => null, (error) => [error.message, error.limit]);"
    message, limit = run(bare, script, {"kind": "jam", "lookahead": 60})
    assert "lookahead" in message and limit == "lookahead"
    assert "kind" in run(bare, script, {"kind": "sing"})[0]
    with serving(Models({"bands": CODEC}, MODEL), tokens=["a" * 16]) as guarded:
        context = browser.new_context()
        page = Shown(context.new_page(), guarded.url + "/studio/icon.svg")
        assert "token" in run(page, script, {"kind": "jam", "token": "wrong"})[0]
        assert run(page, script, {"kind": "jam", "token": "a" * 16}) is None
        context.close()


# --- the microphone


def test_a_recording_is_a_wav_file_of_the_microphone(bare: Shown) -> None:
    """Chromium's made-up microphone beeps once a second."""
    script = """
        const { record } = await live("recorder");
        const recording = await record();
        await until(() => recording.seconds() > 1.2);
        const level = recording.level(), file = await recording.stop();
        return { level, type: file.type, bytes: packed(new Uint8Array(await file.arrayBuffer())) };
    """
    found = run(bare, script)
    wave = read(io.BytesIO(found["bytes"].tobytes()))
    assert found["type"] == "audio/wav" and wave.channels == 2 and wave.rate in (44_100, 48_000)
    assert 1.2 <= wave.seconds < 20 and 0.01 < float(wave.samples.abs().max()) <= 1 and 0 <= found["level"] <= 1
    assert torch.isfinite(wave.samples).all()


def test_what_is_missing_for_a_microphone_is_told(browser: Any, running: Running) -> None:
    context = browser.new_context(permissions=[])
    page = Shown(context.new_page(), running.url + "/studio/icon.svg")
    told = "const { record } = await live('recorder'); return record().then(() => null, (error) => error.message);"
    for name, words in (
        ("NotFoundError", "No microphone was found"),
        ("NotAllowedError", "Allow it"),
        ("NotReadableError", "another program"),
    ):
        page.get(f"void (navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('', '{name}')))")
        assert words in run(page, told)
    context.close()
