"""Live sessions over WebSocket: what they give equals what the library gives, whatever the connection does."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the service needs the extra serve")

from duotone import flow
from duotone.audio.files import write
from duotone.audio.synth import synthesize
from duotone.audio.wav_stream import pcm
from duotone.audio.waveform import Waveform
from duotone.codec.container import DuoWriter, read_duo, write_duo
from duotone.codec.values import Codes
from duotone.serve import frames
from duotone.serve.feed import Feed
from duotone.serve.frames import Audio, Control, Failure, Handshake, Metadata, Ping, What
from duotone.serve.models import Models
from duotone.serve.uploads import Upload
from flow_toys import PAIRED, stirred
from serving import Running, serving
from serving_client import Talk
from small_bands import random_bands

CHUNK = 512
MODEL, CODEC = stirred(PAIRED), random_bands()


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with serving(Models({"bands": CODEC}, MODEL, "toy"), limits={"faults": 5}) as found:
        yield found


def test_live_encoding_gives_the_duo_of_the_library(running: Running) -> None:
    wave = synthesize(3, 0.2)
    samples = pcm(wave.numpy()).T
    with Talk(running, {"kind": "encode"}) as talk:
        assert talk.welcome["rate"] == 48_000 and talk.welcome["model"] == "bands"
        for frame in frames.pieces(0, samples, 48_000):
            talk.say(frame)
        talk.command(type="stop", id="end")
        code, found = talk.closed()
    assert code == 1000
    parts = [frame for frame in found if isinstance(frame, Metadata)]
    assert len(parts) > 3 and [frame.last for frame in parts].count(True) == 1 and parts[-1].last
    value = read_duo(io.BytesIO(b"".join(frame.data for frame in parts)))
    own = CODEC.encode(Waveform(np.ascontiguousarray(samples.T), 48_000)).codes()
    assert value == own
    stopped = json.loads(found[-1].text)
    assert (stopped["type"], stopped["id"], stopped["samples"]) == ("stopped", "end", len(samples))


def test_live_decoding_gives_the_sound_of_the_library_within_the_look_ahead(running: Running) -> None:
    value = CODEC.encode(synthesize(3, 0.2)).codes()
    buffer = io.BytesIO()
    write_duo(buffer, value)
    data = buffer.getvalue()
    own = pcm(CODEC.decode(value, seed=7, restore=False).numpy()).T
    with Talk(running, {"kind": "decode", "seed": 7, "lookahead": 2}) as talk:
        for i in range(0, len(data), 100):
            talk.say(Metadata(What.duo, i + 100 >= len(data), data[i : i + 100]))
        heard = talk.sound(len(own))
        code, found = talk.closed()
    stopped = next(json.loads(frame.text) for frame in found if isinstance(frame, Control))
    assert code == 1000 and (stopped["type"], stopped["samples"]) == ("stopped", len(own))
    assert np.abs(heard.astype(int) - own).max() <= 1


def test_a_listener_who_plays_nothing_is_sent_no_more_than_the_look_ahead(running: Running) -> None:
    buffer = io.BytesIO()
    write_duo(buffer, CODEC.encode(synthesize(3, 0.5)).codes())
    with Talk(running, {"kind": "decode", "lookahead": 3}) as talk:
        talk.say(Metadata(What.duo, True, buffer.getvalue()))
        sent = 0

        def ping(echo: int) -> None:
            """A ping comes back after what was sent before it."""
            nonlocal sent
            talk.say(Ping(0, bytes([echo])))
            while isinstance(frame := talk.hear(), Audio):
                sent = frame.place + len(frame.samples)
            assert isinstance(frame, Ping) and frame.echo == bytes([echo]) and frame.samples >= sent

        while sent < 3 * CHUNK:
            ping(0)
        for echo in range(200):
            ping(echo)
        assert sent <= 4 * CHUNK + CHUNK


def test_a_duo_that_arrives_bit_by_bit_is_decoded_as_its_records_come(tmp_path: Any) -> None:
    """Whatever its version: the first record is there as soon as its bytes are."""
    value = CODEC.encode(synthesize(3, 0.3)).codes()
    for compact in (False, True):
        buffer, ends = io.BytesIO(), []
        with DuoWriter(buffer, value.spec, value.source, "tokens", compact=compact) as writer:
            for i in range(0, len(value), 7):
                writer.write(value[i : i + 7])
                writer.flush()
                ends.append(writer.bytes_written)
            writer.finish()
        with Upload(1 << 20) as upload:
            feed, found, came = Feed(upload, CODEC.check), [], []
            for place, byte in enumerate(buffer.getvalue(), start=1):
                upload.write(bytes([byte]))
                while feed.ready and (each := feed.next()) is not None:
                    found.append(each)
                    came.append(place)
            feed.complete = True
            while feed.ready and (each := feed.next()) is not None:
                found.append(each)
            assert came == ends and feed.over
            assert Codes.join(found, value.source) == value
            feed.close()


def prompt(chunks: int = 5) -> Waveform:
    return Waveform(synthesize(3, 0.1).samples[:, : chunks * CHUNK + 100].contiguous(), 48_000)


def prompt_bytes(tmp_path: Any) -> bytes:
    write(tmp_path / "prompt.wav", prompt(), subtype="FLOAT")
    return (tmp_path / "prompt.wav").read_bytes()


def own_sound(samples: int, seed: int = 3, wave: Waveform | None = None, **changes: Any) -> np.ndarray:
    """What a session of the library plays."""
    found = []
    with flow.session(MODEL, CODEC, prompt=wave, seed=seed) as session:
        if changes:
            session.set(**changes)
        while sum(map(len, found)) < samples:
            found.append(pcm(next(session).numpy()).T)
    return np.concatenate(found)[:samples]


def test_continue_plays_what_a_session_of_the_library_plays(running: Running, tmp_path: Any) -> None:
    with Talk(running, {"kind": "continue"}) as talk:
        assert talk.event("ready")["chunk_seconds"] == CHUNK / 48_000
        for part in frames.parts(What.prompt, prompt_bytes(tmp_path)):
            talk.say(part)
        talk.command(type="start", prompt="upload", seed=3, id=1)
        assert talk.event("started")["prompt_chunks"] == 5
        heard = talk.sound(8 * CHUNK)
        talk.command(type="stop")
        talk.event("stopped")
    assert np.array_equal(heard, own_sound(8 * CHUNK, wave=prompt()))


def test_a_control_is_heard_where_its_acknowledgement_says(running: Running) -> None:
    plain = own_sound(12 * CHUNK)
    with Talk(running, {"kind": "continue"}) as talk:
        talk.command(type="start", seed=3)
        first = talk.sound(3 * CHUNK)
        talk.command(type="set", controls={"temperature": 0.1}, id=2)
        at = talk.event("ack")["sample"]
        sound = np.concatenate([first, talk.sound(at + 2 * CHUNK - len(first))])
    assert at <= 3 * CHUNK + 4 * CHUNK
    assert np.array_equal(sound[:at], plain[:at]) and not np.array_equal(sound[at:], plain[at : len(sound)])


def test_a_lost_session_goes_on_with_its_key_and_nothing_is_lost(running: Running) -> None:
    with Talk(running, {"kind": "jam"}) as talk:
        talk.command(type="start", seed=3)
        first = talk.sound(3 * CHUNK)
        first = np.concatenate([first, talk.rest()])
        key, got = talk.welcome["key"], talk.at
        talk.socket.socket.shutdown(2)  # vanishes without a word
    wait_for(running, '"event": "closed"', running.log.count('"event": "opened"'))
    with Talk(running, {"kind": "jam", "resume": key, "received": got}) as talk:
        assert talk.welcome["sample"] == got
        rest = talk.sound(3 * CHUNK)
    assert np.array_equal(np.concatenate([first, rest]), own_sound(got + 3 * CHUNK))
    with Talk(running) as talk:  # a key is good once
        talk.say(Handshake({"kind": "jam", "resume": key}))
        code, found = talk.closed()
        assert code == 1008 and "No session is kept" in found[-1].document["message"]


def wait_for(running: Running, words: str, count: int) -> None:
    import time

    while running.log.count(words) < count:
        time.sleep(0.01)


def test_a_state_goes_on_in_another_service(running: Running) -> None:
    with Talk(running, {"kind": "continue"}) as talk:
        talk.command(type="start", seed=3)
        first = talk.sound(2 * CHUNK)
        talk.command(type="export", path="download", id=5)
        state, at = b"", None
        while at is None:
            frame = talk.hear()
            if isinstance(frame, Metadata):
                state += frame.data
            elif isinstance(frame, Control) and json.loads(frame.text)["type"] == "state":
                at = json.loads(frame.text)["sample"]
        before = np.concatenate([first, talk.rest()])
    assert len(before) == at
    with serving(Models({"bands": CODEC}, MODEL)) as other, Talk(other, {"kind": "continue"}) as talk:
        for part in frames.parts(What.state, state):
            talk.say(part)
        talk.command(type="import", path="upload")
        talk.at = at
        assert talk.event("started")["sample"] == at
        after = talk.sound(3 * CHUNK)
    assert np.array_equal(np.concatenate([before, after]), own_sound(at + 3 * CHUNK))


def test_a_jam_hears_sound_in_frames_shorter_than_a_chunk(running: Running) -> None:
    samples = pcm(prompt(12).numpy()).T
    heard = []
    for size in (100, 40, len(samples)):  # however it is cut
        with Talk(running, {"kind": "jam", "lookahead": 1}) as talk:
            talk.command(type="start", seed=3, lookahead=1)
            talk.sound(2 * CHUNK)
            for at in range(0, len(samples), size):
                talk.say(Audio(2 * CHUNK + at, samples[at : at + size]))
            talk.command(type="health")
            talk.event("health")
            heard.append(talk.sound(8 * CHUNK)[-4 * CHUNK :])
    plain = own_sound(10 * CHUNK)[-4 * CHUNK :]
    assert not any(np.array_equal(each, plain) for each in heard)


def test_a_jam_hears_the_users_sound(running: Running) -> None:
    with Talk(running, {"kind": "jam"}) as talk:
        talk.command(type="start", seed=3)
        talk.sound(2 * CHUNK)
        for frame in frames.pieces(2 * CHUNK, pcm(prompt(8).numpy()).T, 48_000):
            talk.say(frame)
        heard = talk.sound(8 * CHUNK)
        talk.command(type="health")
        assert talk.event("health")["underruns"] == 0
    assert not np.array_equal(heard, own_sound(10 * CHUNK)[2 * CHUNK :])


def test_nobody_hears_another(running: Running) -> None:
    talks = [Talk(running, {"kind": "continue"}) for _ in range(3)]
    for seed, talk in enumerate(talks):
        talk.command(type="start", seed=seed)
    heard = [[talk.sound(CHUNK) for talk in talks] for _ in range(5)]
    for seed, talk in enumerate(talks):
        own = own_sound(5 * CHUNK, seed)
        sound = np.concatenate([each[seed] for each in heard])
        assert np.abs(sound.astype(int) - own).max() <= 4
        talk.__exit__()
    ids = [talk.welcome["session"] for talk in talks]
    assert len(set(ids)) == 3


def test_errors_are_told_and_too_many_end_the_session(running: Running) -> None:
    with Talk(running, {"kind": "continue"}) as talk:
        talk.event("ready")
        for number, (frame, words) in enumerate(
            [
                (Control('{"type": "set", "id": 9, "controls": {"loudness": 3}}'), "loudness"),
                (Control('{"type": "start", "prompt": "/etc/passwd"}'), "reads no files"),
                (Control('{"type": "export", "path": "/tmp/x"}'), "No session plays"),
                (Control("{"), "no command"),
                (Control('{"type": "import", "path": "upload"}'), "No whole state"),
            ]
        ):
            talk.say(frame)
            error = talk.hear(Failure).document
            assert words in error["message"] and error["id"] == (9 if number == 0 else None)
        code, found = talk.closed()
        assert code == 1008 and found[-1].document["limit"] == "faults"


def test_a_service_that_stops_hands_over_the_states(tmp_path: Any) -> None:
    models = Models({"bands": CODEC}, MODEL)
    with serving(models, state=str(tmp_path / "states")) as running:
        talk = Talk(running, {"kind": "continue"})
        talk.command(type="start", seed=3)
        first = talk.sound(2 * CHUNK)
        running.server.stop()
        code, found = talk.closed()
        first = np.concatenate([first, talk.rest()])
        talk.__exit__()
    assert code == 1012 and found[-1].document["message"].startswith("The service stops")
    assert b"".join(frame.data for frame in found if isinstance(frame, Metadata))
    hello = {"kind": "continue", "resume": talk.welcome["key"], "received": talk.at}
    with serving(models, state=str(tmp_path / "states")) as running, Talk(running, hello) as again:
        rest = again.sound(2 * CHUNK)
    assert np.array_equal(np.concatenate([first, rest]), own_sound(len(first) + 2 * CHUNK))
    assert len(list((tmp_path / "states").glob("*.state"))) == 1  # that of the second one, under its own key


def test_a_device_that_is_full_refuses_with_a_time_to_come_back(codec: Any) -> None:
    with serving(Models({"bands": CODEC}, MODEL), scheduling={"share": 0.5, "retry_seconds": 7}) as running:
        seconds = CHUNK / 48_000
        running.service.meter.took("flow", 1, 0.1 * seconds / 3)  # a session takes a tenth of the time and a decoding
        with Talk(running, {"kind": "jam"}) as talk:
            talk.event("ready")
            running.service.meter.took("flow", 2, 0.9 * seconds / 3)
            for _ in range(300):
                running.service.meter.took("flow", 2, 0.9 * seconds / 3)
            with Talk(running) as other:
                other.say(Handshake({"kind": "jam"}))
                code, found = other.closed()
            error = found[-1].document
            assert (code, error["limit"], error["retry_after"]) == (1013, "share", 7)
            talk.command(type="start", seed=3)
            assert np.array_equal(talk.sound(2 * CHUNK), own_sound(2 * CHUNK))  # who is there is not concerned
    assert '"event": "full"' in running.log


def test_limits_of_sessions_are_told(tmp_path: Any) -> None:
    limits = {"sessions": 2, "lookahead": 4, "message_bytes": 1024, "upload_bytes": 1000, "decoded_seconds": 0.1}
    with serving(Models({"bands": CODEC}, MODEL), limits=limits) as running:
        with Talk(running) as talk:
            talk.say(Handshake({"kind": "jam", "lookahead": 5}))
            assert told(talk, 1008) == "lookahead"
        with Talk(running, {"kind": "continue"}) as talk:
            for part in (bytes(900), bytes(101)):
                talk.say(Metadata(What.prompt, False, part))
            assert told(talk, 1008) == "upload_bytes"
        with Talk(running, {"kind": "encode"}) as talk:
            for i in range(25):  # the last one is too much
                talk.say(Audio(200 * i, np.zeros((200, 2), np.int16)))
            assert told(talk, 1008) == "decoded_seconds"
        with Talk(running, {"kind": "encode"}) as talk:
            talk.socket.send(bytes(1025))
            assert told(talk, 1009) == "message_bytes"
        with Talk(running, {"kind": "encode"}), Talk(running, {"kind": "encode"}), Talk(running) as talk:
            talk.say(Handshake({"kind": "encode"}))
            assert told(talk, 1013) == "sessions"
        figures = running.service.metrics.text().decode()
    assert 'duotone_refused_total{limit="sessions"} 1.0' in figures


def told(talk: Talk, wanted: int) -> str:
    """The limit that ended a session."""
    code, found = talk.closed()
    assert code == wanted, found
    return str(found[-1].document["limit"])


def test_who_says_nothing_is_closed_and_who_stays_too_long_too() -> None:
    with serving(CODEC, limits={"idle_seconds": 0.05}) as running, Talk(running) as talk:
        assert told(talk, 1008) == "idle_seconds"
    with serving(CODEC, limits={"session_minutes": 0.001}) as running, Talk(running, {"kind": "decode"}) as talk:
        assert told(talk, 1008) == "session_minutes"


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (b"", "empty message"), (b"\x09", "type 9"), (b"\x01\x01", "handshake of 1 bytes"), (b"\x01\x02\x00{}", "version 2"),
        (b"\x01\x01\x00{", "JSON"), (b"\x01\x01\x00[]", "object"), (b'\x01\x01\x00{"kind": "sing"}', "kind"),
        (b"\x02" + bytes(8), "another frame first"), (b"\x01\x01\x00\xff", "UTF-8"), ("text", "binary"),
        (b'\x01\x01\x00{"kind": "jam", "model": "/etc"}', "No codec"), (b'\x01\x01\x00{"kind": "jam", "url": "http://x"}', "url"),
    ],
)  # fmt: skip
def test_bad_first_messages_are_told(running: Running, message: bytes, words: str) -> None:
    with Talk(running) as talk:
        talk.socket.send(message)
        code, found = talk.closed()
    assert code in (1002, 1008) and words in found[-1].document["message"]
