"""What goes wrong with clients, clocks, disks and the model thread: it is told, nothing is lost, and others are not concerned."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the service needs the extra serve")

import httpx
import soundfile
from test_serve_sessions import CHUNK, own_sound, prompt_bytes

from duotone import flow
from duotone.audio.files import read, write
from duotone.audio.synth import synthesize
from duotone.audio.waveform import Waveform
from duotone.client import Client, Sound
from duotone.codec.codicodec.weights import save_codec
from duotone.codec.container import write_duo
from duotone.codec.values import Latents
from duotone.errors import DuotoneError, FormatError, ServiceError
from duotone.flow.prompt import Given
from duotone.serve import frames
from duotone.serve.frames import Audio, Control, Failure, Handshake, Metadata, Ping, Type, What
from duotone.serve.models import Models
from duotone.serve.prompts import prompt_of
from duotone.serve.settings import Limits
from duotone.serve.states import Kept, States
from flow_toys import PAIRED, stirred
from serving import Clock, Running, serving
from serving_client import Talk
from small_bands import random_bands

CODEC, MODEL = random_bands(), stirred(PAIRED)


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with serving(Models({"bands": CODEC}, MODEL), limits={"decoded_seconds": 20, "decoded_bytes": 1 << 22}) as found:
        yield found


def wait_until(true: Callable[[], Any]) -> None:
    while not true():
        time.sleep(0.01)


def duo() -> bytes:
    buffer = io.BytesIO()
    write_duo(buffer, CODEC.encode(synthesize(3, 0.1)).codes())
    return buffer.getvalue()


# --- the model thread


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_model_thread_that_ends_tells_everyone_and_ends_the_service() -> None:
    """As by a fault that nobody catches: sessions and requests get an answer, and the service does not stay as if it were well."""

    class Killed(BaseException):
        pass

    def killed() -> None:
        raise Killed("the worker was killed")

    with (
        pytest.raises(DuotoneError, match="the worker was killed"),
        serving(Models({"bands": CODEC}, MODEL)) as running,
    ):
        with Talk(running, {"kind": "continue"}) as talk:
            talk.command(type="start", seed=3)
            talk.sound(2 * CHUNK)
            running.service.device.post(killed)
            code, found = talk.closed()
        assert code == 1011 and "its log tells why" in found[-1].document["message"]
        assert '"where": "the model thread"' in running.log
        running.thread.join(600)
        assert not running.thread.is_alive()


def test_a_dead_model_thread_shows_in_health(running: Running) -> None:
    service = running.service
    assert httpx.get(running.url + "/health", timeout=600).status_code == 200
    service.broken = RuntimeError("as if")
    try:
        found = httpx.get(running.url + "/health", timeout=600)
        assert found.status_code == 503 and "model thread" in found.json()["message"]
    finally:
        service.broken = None


def started(process: subprocess.Popen[str]) -> int:
    """The port of a service, once it is ready."""
    assert process.stderr is not None
    lines: list[dict[str, Any]] = []
    while not lines or lines[-1]["event"] != "ready":
        lines.append(json.loads(process.stderr.readline()))
    return int(next(line["port"] for line in lines if line["event"] == "started"))


def test_a_service_that_is_killed_leaves_nothing_and_its_client_is_told(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    settings = tmp_path / "serve.yaml"
    settings.write_text("scheduling: {batch: 1, share: 100}\n")  # admits a session however slow the machine is
    save_codec(CODEC, tmp_path / "codec")
    flow.save(MODEL, tmp_path / "flow")
    command = [sys.executable, "-m", "duotone", "serve", "--port", "0", "--config", str(settings)]
    command += ["--codec", str(tmp_path / "codec"), "--flow", str(tmp_path / "flow")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            port = started(process)
            with (
                pytest.raises(ServiceError, match="lost"),
                Client(f"http://127.0.0.1:{port}").session("jam") as session,
            ):
                session.upload(What.prompt, bytes(1000), last=False)
                session.command({"type": "start", "seed": 3})
                for got in session:
                    if isinstance(got, Sound):
                        process.send_signal(signal.SIGKILL)
        finally:
            process.kill()
    assert list((tmp_path / "tmp").iterdir()) == []
    with serving(CODEC, port=port) as again:  # the port is free at once
        assert httpx.get(again.url + "/health", timeout=600).status_code == 200


# --- clients that are killed

FRAMES = {
    Type.handshake: [Handshake({"kind": "jam", "lookahead": 2})],
    Type.audio: [Audio(0, np.zeros((960, 2), np.int16))],
    Type.control: [Control('{"type": "set", "controls": {"temperature": 0.5}}')],
    Type.metadata: [Metadata(what, True, bytes(2000)) for what in What],
    Type.error: [Failure({"message": "?"})],
    Type.ping: [Ping(100, b"echo")],
}
#: What metadata is for, by the sessions that take it.
TAKERS = {What.duo: "decode"}


def every_frame() -> list[Any]:
    """Of every type in `frames`, and of every kind of metadata."""
    found = [(kind.name, frame) for kind in Type for frame in FRAMES[kind]]
    return [
        pytest.param(frame, id=f"{name}-{frame.what.name}" if isinstance(frame, Metadata) else name)
        for name, frame in found
    ]


def message(frame: Any) -> bytes:
    """A whole WebSocket message (RFC 6455, section 5.2), masked with zeros."""
    data = frame.to_bytes()
    head = bytes([0x82, 0x80 | len(data)]) if len(data) < 126 else b"\x82\xfe" + struct.pack(">H", len(data))
    return head + bytes(4) + data


def opened(running: Running, hello: dict[str, Any] | None, room: int | None = None) -> socket.socket:
    """The bare connection of a session, `hello` said and answered if there is one; `room` bytes fit into its receive buffer."""
    raw = socket.socket()
    if room is not None:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
    raw.connect(("127.0.0.1", running.port))
    raw.sendall(
        b"GET /v1/session HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += raw.recv(1)
    assert answer.startswith(b"HTTP/1.1 101")
    if hello is not None:
        raw.sendall(message(Handshake(hello)))
    return raw


def reset(raw: socket.socket) -> None:
    """The connection is reset, as the system of a killed client does."""
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raw.close()


@contextmanager
def undisturbed(running: Running) -> Iterator[Callable[[], None]]:
    """Somebody listens on, a chunk at each call, and at the end nothing of anybody is left."""
    heard = []
    with Talk(running, {"kind": "continue"}) as calm:
        calm.command(type="start", seed=3)
        yield lambda: heard.append(calm.sound(CHUNK))
        wait_until(lambda: len(running.service.sockets) == 1)
    assert np.array_equal(np.concatenate(heard), own_sound(len(heard) * CHUNK))
    wait_until(lambda: not len(running.service.device.scheduler) and not running.service._sessions)
    assert '"event": "defect"' not in running.log, running.log[-2000:]


@pytest.mark.parametrize("frame", every_frame())
def test_a_client_that_is_killed_within_a_frame_leaves_nothing(running: Running, frame: Any) -> None:
    """Its connection is reset after the WebSocket header, within the frame, and a byte before the end."""
    whole = message(frame)
    hello = {"kind": TAKERS.get(getattr(frame, "what", None), "jam"), "lookahead": 2}
    with undisturbed(running) as listen:
        listen()
        for part in (whole[:1], whole[:7], whole[: len(whole) // 2], whole[:-1]):
            raw = opened(running, None if isinstance(frame, Handshake) else hello)
            if not isinstance(frame, Handshake):
                raw.recv(1)
            raw.sendall(part)
            reset(raw)
            listen()


def until(raw: socket.socket, kind: Type) -> None:
    """Read messages of the service up to the first bytes of one of this type (RFC 6455, section 5.2; it masks nothing)."""
    while True:
        _, size = exactly(raw, 2)
        if size >= 126:
            size = int.from_bytes(exactly(raw, 2 if size == 126 else 8), "big")
        if exactly(raw, 1)[0] == kind:
            return
        exactly(raw, size - 1)


def exactly(raw: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        part = raw.recv(count - len(found))
        assert part, "the service closed the connection"
        found += part
    return found


@pytest.mark.parametrize("kind", Type)
def test_a_client_that_is_killed_within_a_frame_of_the_service_leaves_nothing(running: Running, kind: Type) -> None:
    """It has read the first byte; a small receive buffer leaves the rest of a long one in the service."""
    asked = {
        Type.handshake: [], Type.audio: [Control('{"type": "start"}')], Type.control: [Control('{"type": "health"}')],
        Type.metadata: [Control('{"type": "start"}'), Control('{"type": "export", "path": "download"}')],
        Type.error: [Control("{")], Type.ping: [Ping(0, b"echo")],
    }  # fmt: skip
    with undisturbed(running) as listen:
        listen()
        raw = opened(running, {"kind": "jam", "lookahead": 2}, room=2048)
        for frame in asked[kind]:
            raw.sendall(message(frame))
        until(raw, kind)
        reset(raw)
        listen()


def test_a_client_that_is_killed_while_an_answer_is_made_leaves_nothing(running: Running) -> None:
    data = duo()
    for path in (b"decode?format=wav", b"decode?format=flac", b"info"):
        raw = socket.create_connection(("127.0.0.1", running.port))
        raw.sendall(b"POST /v1/%b HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % (path, len(data)) + data)
        reset(raw)
    wait_until(lambda: not running.service._requests and not len(running.service.device.scheduler))
    assert httpx.post(running.url + "/v1/info", content=data, timeout=600).status_code == 200


# --- files that claim, or hold, more than they should


def wav_claiming(samples: int, rate: int = 48_000, channels: int = 2) -> bytes:
    """The header of a WAV that promises so many samples, and a few of them."""
    size = min(samples * channels * 2, 2**32 - 1)
    form = struct.pack("<HHIIHH", 1, channels, rate, min(rate * channels * 2, 2**32 - 1), min(2 * channels, 65535), 16)
    body = b"fmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", size) + bytes(2000)
    return b"RIFF" + struct.pack("<I", min(len(body) + 4 + size, 2**32 - 1)) + b"WAVE" + body


def flac_claiming(samples: int) -> bytes:
    """A FLAC whose header promises so many samples (36 bits of STREAMINFO, from byte 21 on)."""
    buffer = io.BytesIO()
    soundfile.write(buffer, synthesize(3, 0.05).numpy().T, 48_000, format="FLAC")
    data = bytearray(buffer.getvalue())
    word = int.from_bytes(data[18:26], "big") & ~(2**36 - 1) | samples
    data[18:26] = word.to_bytes(8, "big")
    return bytes(data)


def silence(seconds: float, rate: int = 192_000, channels: int = 2) -> bytes:
    """A small FLAC that holds much."""
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", rate, channels, "PCM_16", format="FLAC") as file:
        for _ in range(round(seconds)):
            file.write(np.zeros((rate, channels), np.int16))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("flac of hours", flac_claiming(2**36 - 1)), ("flac of a day", flac_claiming(48_000 * 86_400)), ("wav of 4 GiB", wav_claiming(2**31)),
        ("wav of 65535 channels", wav_claiming(2**20, channels=65_535)), ("wav of a rate of 4 GHz", wav_claiming(2**20, rate=2**32 - 1)),
        ("wav of 1 Hz", wav_claiming(2**20, rate=1)),
    ],
)  # fmt: skip
def test_headers_that_claim_hours_cost_nothing(running: Running, name: str, data: bytes) -> None:
    for path in ("/v1/encode", "/v1/info"):
        found = httpx.post(running.url + path, content=data, timeout=600)
        assert found.status_code in (200, 413, 422), (name, path, found.text)
    found = httpx.post(running.url + "/v1/evaluate", files={"reference": data, "estimate": data}, timeout=600)
    assert found.status_code in (200, 413, 422), (name, found.text)


def test_a_small_file_that_holds_much_is_refused_before_it_fills_the_memory(running: Running) -> None:
    data = silence(15)  # 23 MB of samples
    assert len(data) < 200_000
    found = httpx.post(running.url + "/v1/evaluate", files={"reference": data, "estimate": data}, timeout=600)
    assert (found.status_code, found.json()["limit"]) == (413, "decoded_bytes")
    with Talk(running, {"kind": "continue"}) as talk:
        for part in frames.parts(What.prompt, data):
            talk.say(part)
        talk.command(type="start", prompt="upload")
        code, told = talk.closed()
    assert (code, told[-1].document["limit"]) == (1008, "decoded_bytes")


def test_a_duo_that_claims_a_huge_size_is_told(running: Running) -> None:
    """Its length, and the length of its header: by its own checksums the second is damage, which is found without reading on."""
    from duotone.codec.duofile import MAX_HEADER

    value = CODEC.encode(synthesize(3, 0.1)).codes()
    buffer = io.BytesIO()
    write_duo(buffer, value)
    data = bytearray(buffer.getvalue())
    data[8:16] = b"\xff" * 8
    found = httpx.post(running.url + "/v1/decode", content=bytes(data), timeout=600)
    assert found.status_code == 422, found.text
    assert len(data) < MAX_HEADER
    with Talk(running, {"kind": "decode"}) as talk:
        talk.say(Metadata(What.duo, True, bytes(data)))
        code, told = talk.closed()
        assert code == 1008 and isinstance(told[-1], Failure)


# --- names


@pytest.mark.parametrize(
    "path",
    [
        "/studio/../../../etc/passwd", "/studio/%2e%2e/%2e%2e/settings.py", "/studio/..%2f..%2fsettings.py", "/studio//etc/passwd",
        "/studio/%00", "/%2e%2e/%2e%2e/etc/passwd", "/v1/models/../../etc/passwd", "/studio/..\\..\\settings.py",
    ],
)  # fmt: skip
def test_no_path_leads_out_of_the_page(running: Running, path: str) -> None:
    with socket.create_connection(("127.0.0.1", running.port)) as raw:  # as it is: clients would shorten it
        raw.sendall(b"GET " + path.encode() + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        answer = b""
        while part := raw.recv(65536):
            answer += part
    assert answer.split()[1] in (b"404", b"400"), answer[:300]
    assert b"root:" not in answer and b"class Limits" not in answer


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "upload/../x", "file:///etc/passwd", "http://127.0.0.1/x", ""]
)
def test_no_name_in_a_command_leads_to_a_file(running: Running, name: str) -> None:
    with Talk(running, {"kind": "continue"}) as talk:
        talk.event("ready")
        for command in (
            {"type": "start", "prompt": name},
            {"type": "import", "path": name},
            {"type": "export", "path": name},
        ):
            talk.command(**command)
            assert talk.hear(Failure).document["exit_code"] == 2
    found = httpx.post(running.url + "/v1/encode", params={"model": name or "/"}, content=b"x", timeout=600)
    assert found.status_code == 404


# --- clocks


def test_a_clock_that_is_set_ends_no_session_and_loses_no_state(tmp_path: Path) -> None:
    """The clock of the wall jumps a day on, and two back: sessions, idle times and kept states go by another one."""
    wall = Clock()
    with serving(Models({"bands": CODEC}, MODEL), wall=wall, state=str(tmp_path)) as running:
        with Talk(running, {"kind": "jam"}) as talk:
            talk.command(type="start", seed=3)
            first = talk.sound(2 * CHUNK)
            for step in (86_400, -172_800):
                wall.time += step
                first = np.concatenate([first, talk.sound(CHUNK)])
            first = np.concatenate([first, talk.rest()])
            key, got = talk.welcome["key"], talk.at
            talk.socket.socket.shutdown(2)
        wait_until(lambda: len(running.service.states))
        wall.time += 5 * 86_400
        with Talk(running, {"kind": "jam", "resume": key, "received": got}) as talk:
            rest = talk.sound(2 * CHUNK)
        assert np.array_equal(np.concatenate([first, rest]), own_sound(got + 2 * CHUNK))
        wait_until(lambda: len(running.service.states))
        running.clock.time += 16 * 60  # a quarter of an hour by the clock that never jumps
        assert len(running.service.states) == 0


def test_states_of_an_earlier_process_have_the_age_that_the_wall_tells(tmp_path: Path) -> None:
    own, wall = Clock(), Clock()
    States(4, 60, own, wall, str(tmp_path)).keep("key", Kept("me", b"state"))
    other = Clock()
    other.time = 5.0  # the clock of a machine that was started again
    wall.time += 50
    assert States(4, 60, other, wall, str(tmp_path)).take("key", "me").state == b"state"
    States(4, 60, own, wall, str(tmp_path)).keep("key", Kept("me", b"state"))
    wall.time -= 3600  # set back: as if it were new
    found = States(4, 60, other, wall, str(tmp_path))
    assert len(found) == 1
    other.time += 61
    assert len(found) == 0 and list(tmp_path.iterdir()) == []


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    (tmp_path / f"{'0' * 64}.state").write_bytes(b"\x05\0\0\0{bad}")
    with pytest.raises(FormatError, match=r"0{64}\.state holds no state"):
        States(4, 60, Clock(), Clock(), str(tmp_path))


def test_nothing_in_the_service_tells_time_by_the_wall() -> None:
    """But for the log and the age of stored states."""
    folder = Path(flow.__file__).parents[1]
    found = {
        path.relative_to(folder).as_posix()
        for name in ("serve", "client")
        for path in (folder / name).rglob("*.py")
        if "time.time" in path.read_text(encoding="utf-8") or "datetime" in path.read_text(encoding="utf-8")
    }
    assert found == {"serve/log.py", "serve/service.py"}


# --- disks


class Full(io.FileIO):
    """A file on a disk without room."""

    def write(self, data: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def full() -> Any:
    with tempfile.TemporaryFile(buffering=0) as found:
        return Full(os.dup(found.fileno()), "r+b")


def test_a_full_disk_ends_the_session_that_stores_and_no_other() -> None:
    files: list[Any] = [tempfile.TemporaryFile]

    def opened() -> Any:
        return tempfile.TemporaryFile(buffering=0) if len(files) == 1 else full()

    with (
        serving(Models({"bands": CODEC}, MODEL), opened=opened) as running,
        Talk(running, {"kind": "continue"}) as calm,
    ):
        calm.command(type="start", seed=3)
        first = calm.sound(CHUNK)
        files.append(full)
        for kind, what in (("continue", What.prompt), ("decode", What.duo)):
            with Talk(running, {"kind": kind}) as talk:
                talk.say(Metadata(what, True, duo()))
                code, told = talk.closed()
            assert code == 1011 and "disk" in told[-1].document["message"] and told[-1].document["exit_code"] == 7
        assert np.array_equal(np.concatenate([first, calm.sound(2 * CHUNK)]), own_sound(3 * CHUNK))
        assert '"event": "defect"' not in running.log


def test_a_state_that_cannot_be_stored_goes_on_in_the_same_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_bytes(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("duotone.serve.states.write_bytes", write_bytes)
    with serving(Models({"bands": CODEC}, MODEL), state=str(tmp_path)) as running:
        with Talk(running, {"kind": "jam"}) as talk:
            talk.command(type="start", seed=3)
            first = np.concatenate([talk.sound(2 * CHUNK), talk.rest()])
            key, got = talk.welcome["key"], talk.at
            talk.socket.socket.shutdown(2)
        wait_until(lambda: '"event": "not stored"' in running.log)
        with Talk(running, {"kind": "jam", "resume": key, "received": got}) as talk:
            assert np.array_equal(np.concatenate([first, talk.sound(CHUNK)]), own_sound(got + CHUNK))


# --- long prompts


def made(file: Any, **limits: Any) -> tuple[Given, int]:
    """What `prompt_of` gives, and how many asks it took."""
    making, answer, asks = prompt_of(file, CODEC, Limits(**limits)), None, 0
    try:
        while True:
            ask = making.send(answer)
            asks += 1
            answer = ask.together([ask])[0]
    except StopIteration as found:
        return found.value, asks


def latents(given: Given) -> Any:
    assert isinstance(given.prompt, Latents)
    return given.prompt.numpy()


def test_a_long_prompt_is_encoded_in_pieces_and_its_end_counts(tmp_path: Path) -> None:
    wave = synthesize(3, 1.0)
    write(tmp_path / "long.wav", wave, subtype="FLOAT")
    with (tmp_path / "long.wav").open("rb") as file:
        given, asks = made(file)
    whole = flow.prompt.aligned(CODEC, wave)
    assert np.array_equal(latents(given), whole.numpy()) and given.left_out == 0 and asks > len(whole) // 8
    with (tmp_path / "long.wav").open("rb") as file:
        given, _ = made(file, prompt_seconds=0.25)
    end = Waveform(wave.samples[:, -12_000:].contiguous(), wave.rate)
    assert np.array_equal(latents(given), flow.prompt.aligned(CODEC, end).numpy()) and given.left_out == 0.75
    buffer = io.BytesIO()
    codes = CODEC.encode(wave).codes()
    write_duo(buffer, codes)
    given, _ = made(io.BytesIO(buffer.getvalue()), prompt_seconds=0.25)
    used = round(0.25 / CODEC.spec.chunk_seconds)
    assert np.array_equal(latents(given), codes.latents().numpy()[-used:])
    assert given.left_out == pytest.approx((len(codes) - used) * CODEC.spec.chunk_seconds)


def test_a_listener_is_told_how_much_of_a_long_prompt_is_left_out(tmp_path: Path) -> None:
    write(tmp_path / "long.wav", synthesize(3, 1.0))
    with (
        serving(Models({"bands": CODEC}, MODEL), limits={"prompt_seconds": 0.25}) as running,
        Talk(running, {"kind": "continue"}) as talk,
    ):
        talk.event("ready")
        for part in frames.parts(What.prompt, (tmp_path / "long.wav").read_bytes()):
            talk.say(part)
        talk.command(type="start", prompt="upload", id=1)
        told = talk.event("started")
        assert (told["prompt_chunks"], told["prompt_left_out"]) == (12_000 // CHUNK, 0.75)
        talk.command(type="start", id=2)
        talk.event("stopped")
        assert talk.event("started")["prompt_left_out"] == 0


def test_a_short_prompt_is_told(running: Running, tmp_path: Path) -> None:
    assert read(io.BytesIO(prompt_bytes(tmp_path))).length > CHUNK
    write(tmp_path / "short.wav", Waveform([0.0] * 100, 48_000))
    with Talk(running, {"kind": "continue"}) as talk:
        talk.event("ready")
        talk.say(Metadata(What.prompt, True, (tmp_path / "short.wav").read_bytes()))
        talk.command(type="start", prompt="upload", id=4)
        told = talk.hear(Failure).document
    assert told["id"] == 4 and "one chunk" in told["message"], told
