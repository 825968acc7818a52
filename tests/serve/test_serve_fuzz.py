"""Damaged, random and unfinished frames and uploads: never a traceback, a hang, or an effect on others."""

from __future__ import annotations

import io
import json
import random
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("fastapi", reason="the service needs the extra serve")

import httpx
import soundfile
from test_serve_sessions import CHUNK, own_sound

from duotone.audio.synth import synthesize
from duotone.codec.container import write_duo
from duotone.errors import FormatError
from duotone.serve import frames
from duotone.serve.frames import Audio, Control, Failure, Handshake, Metadata, Ping, What
from duotone.serve.models import Models
from flow_toys import PAIRED, stirred
from serving import Running, serving
from serving_client import Talk
from small_bands import random_bands

CODEC = random_bands()


def duo() -> bytes:
    buffer = io.BytesIO()
    write_duo(buffer, CODEC.encode(synthesize(3, 0.05)).codes())
    return buffer.getvalue()


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    limits = {"faults": 1000, "idle_seconds": 600, "message_bytes": 1 << 16, "upload_bytes": 1 << 20}
    with serving(Models({"bands": CODEC}, stirred(PAIRED)), limits=limits) as found:
        yield found


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3), max_leaves=6,
)  # fmt: skip
frame = st.one_of(
    st.builds(Handshake, st.dictionaries(st.text(max_size=8), json_values, max_size=4), st.integers(0, 65535)),
    st.builds(
        lambda place, n: Audio(place, np.arange(2 * n, dtype=np.int16).reshape(-1, 2)),
        st.integers(0, 2**64 - 1),
        st.integers(0, 50),
    ),
    st.builds(Control, st.text(max_size=40)),
    st.builds(Metadata, st.sampled_from(list(What)), st.booleans(), st.binary(max_size=60)),
    st.builds(Failure, st.dictionaries(st.text(max_size=8), json_values, max_size=4)),
    st.builds(Ping, st.integers(0, 2**64 - 1), st.binary(max_size=64)),
)


@settings(max_examples=200)
@given(frame)
def test_every_frame_comes_back_from_its_bytes(each: Any) -> None:
    found = frames.parse(each.to_bytes())
    assert type(found) is type(each)
    for name, value in vars(each).items():
        other = getattr(found, name)
        assert np.array_equal(other, value) if isinstance(value, np.ndarray) else other == value


@settings(max_examples=500)
@given(
    st.binary(max_size=80)
    | st.builds(lambda kind, rest: bytes([kind]) + rest, st.integers(0, 7), st.binary(max_size=60))
)
def test_any_bytes_are_a_frame_or_a_format_error(message: bytes) -> None:
    try:
        found = frames.parse(message)
    except FormatError as error:
        assert "Got" in str(error)
    else:
        assert frames.parse(found.to_bytes()).to_bytes() == found.to_bytes()


@pytest.mark.parametrize(
    ("samples", "rate"), [(32_768, 48_000), (1921, 48_000), (1920, 48_000), (512, 48_000), (5, 8000), (0, 48_000)]
)
def test_sound_is_sent_in_frames_of_20_to_40_ms(samples: int, rate: int) -> None:
    """A shorter one is a whole piece; a chunk's last frame is no exception."""
    whole = np.arange(2 * samples, dtype=np.int64).astype(np.int16).reshape(-1, 2)
    found = list(frames.pieces(100, whole, rate))
    assert [each.place for each in found] == [100 + sum(len(e.samples) for e in found[:i]) for i in range(len(found))]
    assert np.array_equal(np.concatenate([whole[:0], *(each.samples for each in found)]), whole)
    lengths = {len(each.samples) / rate for each in found}
    assert len(found) == bool(samples) or all(0.02 <= length <= 0.04 for length in lengths)


COMMANDS = [
    {"type": "start"}, {"type": "start", "seed": 7, "lookahead": 3}, {"type": "stop"}, {"type": "set", "controls": {"temperature": 0.5}},
    {"type": "set", "controls": {"steps": 3, "guidance": 2}}, {"type": "reseed", "seed": 4}, {"type": "reanchor"}, {"type": "health"},
    {"type": "export"}, {"type": "export", "path": "download"}, {"type": "import", "path": "upload"}, {"type": "step"},
    {"type": "start", "prompt": "upload"}, {"type": "input", "samples": "AAAA", "channels": 1},
]  # fmt: skip


def message(dice: random.Random, sample: bytes) -> bytes:
    """A frame that is right, nearly right, or noise."""
    kind = dice.randrange(7)
    if kind == 0:
        data = Control(json.dumps(dice.choice(COMMANDS))).to_bytes()
    elif kind == 1:
        data = Audio(
            dice.choice([0, CHUNK, dice.randrange(1 << 63)]), np.zeros((dice.randrange(80), 2), np.int16)
        ).to_bytes()
    elif kind == 2:
        at = dice.randrange(len(sample))
        data = Metadata(dice.choice(list(What)), dice.random() < 0.3, sample[at : at + dice.randrange(400)]).to_bytes()
    elif kind == 3:
        data = Metadata(dice.choice(list(What)), True, sample).to_bytes()
    elif kind == 4:
        data = Ping(dice.randrange(1 << 20), dice.randbytes(dice.randrange(64))).to_bytes()
    elif kind == 5:
        data = Failure({"message": "?"}).to_bytes()
    else:
        data = bytes([dice.randrange(1, 7)]) + dice.randbytes(dice.randrange(40))
    if dice.random() < 0.2 and data:
        changed = bytearray(data)
        changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(8)
        data = bytes(changed[: dice.randrange(1, len(changed) + 1)])
    return data


def bombard(running: Running, count: int, seed: int) -> None:
    """So many messages over as many connections as they last, while somebody listens undisturbed."""
    dice, sample = random.Random(seed), duo()
    own = own_sound(12 * CHUNK)
    with Talk(running, {"kind": "continue"}) as calm:
        calm.command(type="start", seed=3)
        heard = [calm.sound(2 * CHUNK)]
        sent = 0
        while sent < count:
            kind = dice.choice(["encode", "decode", "continue", "jam"])
            with Talk(running, {"kind": kind}) as talk:
                for _ in range(dice.randrange(1, 40)):
                    try:
                        talk.socket.send(message(dice, sample))
                    except Exception as error:
                        assert type(error).__module__.startswith("websockets"), error
                        break
                    sent += 1
                if dice.random() < 0.5:  # vanishes, perhaps in the middle of a frame
                    with suppress(OSError):  # the service may have closed the connection before
                        talk.socket.socket.send(b"\x82\x7e\x01\x00" + dice.randbytes(9))
                        talk.socket.socket.shutdown(socket.SHUT_RDWR)
            if len(heard) < 6:
                heard.append(calm.sound(2 * CHUNK))
        while len(heard) < 6:
            heard.append(calm.sound(2 * CHUNK))
    assert np.abs(np.concatenate(heard).astype(int) - own).max() <= 4
    assert '"event": "defect"' not in running.log and "Traceback" not in running.log, running.log[-3000:]
    assert httpx.get(running.url + "/ready", timeout=600).status_code == 200


def test_fuzzed_sessions_have_no_effect_on_others(running: Running, capfd: pytest.CaptureFixture[str]) -> None:
    bombard(running, 600, 1)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.long
def test_a_hundred_thousand_fuzzed_frames(running: Running, capfd: pytest.CaptureFixture[str]) -> None:
    bombard(running, 100_000, 2)
    assert "Traceback" not in capfd.readouterr().err


def sound(format: str) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, synthesize(3, 0.05).numpy().T, 48_000, format=format)
    return buffer.getvalue()


def damaged(dice: random.Random, whole: bytes) -> bytes:
    """A file with up to three wrong bits, sometimes cut, sometimes with bytes put in; one in six is whole."""
    data = bytearray(whole)
    for _ in range(dice.randrange(4)):
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    if dice.random() < 0.25:
        del data[dice.randrange(len(data)) :]
    if dice.random() < 0.1:
        at = dice.randrange(len(data) + 1)
        data[at:at] = dice.randbytes(dice.randrange(200))
    return bytes(data)


def uploads(dice: random.Random) -> Iterator[tuple[str, bytes]]:
    """Paths, and damaged files for them."""
    values, sounds = [duo()], [sound("FLAC"), sound("WAV")]
    takes = {
        "/v1/decode": values, "/v1/decode?format=flac": values, "/v1/values": values, "/v1/info": values + sounds, "/v1/encode": sounds,
        "/v1/sound": sounds, "/v1/evaluate": sounds,
    }  # fmt: skip
    while True:
        path = dice.choice(list(takes))
        yield path, damaged(dice, dice.choice(takes[path]))


def flood(running: Running, count: int, seed: int) -> None:
    """So many uploads, while somebody listens undisturbed."""
    heard, answered, reference = [], Counter[tuple[str, int]](), sound("WAV")
    with Talk(running, {"kind": "continue"}) as calm, httpx.Client(base_url=running.url, timeout=600) as client:
        calm.command(type="start", seed=3)
        for i, (path, data) in zip(range(count), uploads(random.Random(seed)), strict=False):
            if i % 20 == 0:
                heard.append(calm.sound(CHUNK))
            form = (
                {"files": {"reference": reference, "estimate": data}} if path == "/v1/evaluate" else {"content": data}
            )
            try:
                found = client.post(path, **form)
            except httpx.RemoteProtocolError:  # broken off after the first byte
                continue
            assert found.status_code in (200, 400, 409, 413, 422), (path, found.status_code, found.text)
            answered[path, found.status_code] += 1
        heard.append(calm.sound(CHUNK))
    assert np.abs(np.concatenate(heard).astype(int) - own_sound(len(heard) * CHUNK)).max() <= 4
    for path in {path for path, _ in answered}:  # some of each kind get through, and some do not
        told = {status for other, status in answered if other == path}
        assert 200 in told and len(told) > 1, answered
    assert '"event": "defect"' not in running.log and "Traceback" not in running.log, running.log[-3000:]
    while running.service._requests or len(running.service.device.scheduler):  # until everything was let go of
        time.sleep(0.01)
    assert httpx.get(running.url + "/ready", timeout=600).status_code == 200


def test_fuzzed_uploads_are_answered_and_have_no_effect_on_others(
    running: Running, capfd: pytest.CaptureFixture[str]
) -> None:
    flood(running, 140, 3)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.long
def test_ten_thousand_fuzzed_uploads(running: Running, capfd: pytest.CaptureFixture[str]) -> None:
    flood(running, 10_000, 4)
    assert "Traceback" not in capfd.readouterr().err


def test_clients_that_vanish_in_the_middle_of_an_upload_leave_nothing(running: Running) -> None:
    for part in (b"", b"x", bytes(1000)):
        with socket.create_connection(("127.0.0.1", running.port)) as raw:
            raw.sendall(b"POST /v1/encode HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5000\r\n\r\n" + part)
    with socket.create_connection(("127.0.0.1", running.port)) as raw:
        raw.sendall(b"POST /v1/decode HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % len(duo()) + duo())
    assert httpx.post(running.url + "/v1/info", content=duo(), timeout=600).status_code == 200
    while running.service._requests:  # until the server has seen that they are gone
        time.sleep(0.01)
