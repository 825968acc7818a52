"""Files over HTTP: the same bytes as the library gives, and what is refused."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the service needs the extra serve")

import httpx
import numpy as np
import soundfile

from duotone.audio.files import read, write
from duotone.audio.waveform import Waveform
from duotone.codec.codicodec import CoDiCodec
from duotone.codec.container import DuoWriter, read_duo, write_duo
from duotone.codec.values import Codes, Latents
from serving import Running, serving


@pytest.fixture(scope="module")
def running(codec: CoDiCodec) -> Iterator[Running]:
    with serving(codec, limits={"upload_bytes": 400_000, "decoded_seconds": 1.0, "requests": 3, "damages": 3}) as found:
        yield found


@pytest.fixture(scope="module")
def song(wave: Waveform, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("song") / "song.wav"
    write(path, wave)
    return path.read_bytes()


def post(running: Running, path: str, data: Any, **options: Any) -> httpx.Response:
    return httpx.post(running.url + path, content=data, timeout=600, **options)


def in_records(value: Codes, chunks: int) -> tuple[bytes, list[int]]:
    """A .duo with records of so many chunks, and where each begins."""
    buffer, places = io.BytesIO(), []
    with DuoWriter(buffer, value.spec, value.source, "tokens") as writer:
        for i in range(0, len(value), chunks):
            places.append(writer.bytes_written)
            writer.write(value[i : i + chunks])
            writer.flush()
        writer.finish()
    return buffer.getvalue(), places


def refused(found: httpx.Response, status: int, words: str, limit: str | None = None) -> None:
    error = found.json()
    assert (found.status_code, error["type"], error["limit"]) == (status, "error", limit)
    assert words in error["message"]


@pytest.mark.parametrize("kind", ["tokens", "latents"])
def test_a_sound_becomes_the_duo_that_the_library_makes(
    running: Running, codec: CoDiCodec, song: bytes, kind: str
) -> None:
    found = post(running, f"/v1/encode?kind={kind}", song)
    assert found.status_code == 200 and found.headers["content-type"] == "application/x-duotone"
    value = read_duo(io.BytesIO(found.content))
    own = codec.encode(read(io.BytesIO(song)))
    assert isinstance(value, Codes if kind == "tokens" else Latents)
    assert value.source == own.source
    if kind == "tokens":
        assert value == own.codes()
    else:
        assert len(value) == len(own) and (value.numpy() - own.numpy()).max() < 1e-4


@pytest.mark.parametrize("format", ["wav", "flac"])
def test_a_duo_becomes_the_sound_that_the_library_makes(
    running: Running, codec: CoDiCodec, wave: Waveform, format: str
) -> None:
    value = codec.encode(wave).codes()
    buffer = io.BytesIO()
    write_duo(buffer, value)
    found = post(running, f"/v1/decode?format={format}&seed=4", buffer.getvalue())
    assert found.status_code == 200 and found.headers["content-type"] == f"audio/{format}"
    heard = read(io.BytesIO(found.content))
    own = codec.decode(value, "wavefront", seed=4)
    assert (heard.rate, heard.channels, heard.length) == (own.rate, own.channels, own.length)
    assert (heard.samples - own.samples.clamp(-1, 1)).abs().max() < 2**-14


def test_info_tells_of_sounds_and_duos(running: Running, codec: CoDiCodec, wave: Waveform, song: bytes) -> None:
    sound = post(running, "/v1/info", song).json()
    assert (sound["type"], sound["rate"], sound["samples"], sound["format"]) == ("sound", 48_000, wave.length, "WAV")
    buffer = io.BytesIO()
    count = write_duo(buffer, codec.encode(wave))
    duo = post(running, "/v1/info", buffer.getvalue()).json()
    assert (duo["type"], duo["kind"], duo["bytes"], duo["codec"]["space"]) == (
        "duo",
        "latents",
        count,
        codec.spec.space,
    )


def test_info_looks_for_so_many_damaged_places(running: Running, codec: CoDiCodec, wave: Waveform) -> None:
    """A search for what follows a damage takes up to a second, so that an upload of noise would keep others waiting for hours."""
    data, places = in_records(codec.encode(Waveform(wave.samples.repeat(1, 2), wave.rate)).codes(), 1)
    damaged = bytearray(data)
    for number, at in enumerate(places[1::4], 1):
        damaged[at + 5] ^= 1
        if number == 3:
            assert len(post(running, "/v1/info", bytes(damaged)).json()["damage"]) == 3
    assert number > 3
    refused(post(running, "/v1/info", bytes(damaged)), 413, "3 damaged places", "damages")


def test_a_pair_is_measured(running: Running, song: bytes, wave: Waveform, tmp_path: Any) -> None:
    write(tmp_path / "quiet.wav", Waveform(wave.samples * 0.5 + 0.001, wave.rate))
    pair = {"reference": song, "estimate": (tmp_path / "quiet.wav").read_bytes()}
    found = httpx.post(running.url + "/v1/evaluate", files=pair, timeout=600)
    assert found.status_code == 200 and found.json()["si_sdr"] > 10 and "pesq" not in found.json()
    same = httpx.post(running.url + "/v1/evaluate", files={"reference": song, "estimate": song}, timeout=600).json()
    assert same["si_sdr"] > 90 and same["log_mel"] == 0
    refused(httpx.post(running.url + "/v1/evaluate", files={"reference": song}, timeout=600), 400, "estimate")
    refused(httpx.post(running.url + "/v1/evaluate", content=song, timeout=600), 400, "multipart")


def test_models_figures_and_the_description_are_there(running: Running, codec: CoDiCodec) -> None:
    models = httpx.get(running.url + "/v1/models", timeout=600).json()
    assert models["codecs"][0]["space"] == codec.spec.space and models["flow"] is None
    assert models["limits"]["upload_bytes"] == 400_000
    assert httpx.get(running.url + "/health", timeout=600).json() == {"health": "ok"}
    assert httpx.get(running.url + "/ready", timeout=600).json() == {"ready": True}
    description = httpx.get(running.url + "/openapi.json", timeout=600).json()
    assert {"/v1/encode", "/v1/decode", "/v1/info", "/v1/evaluate", "/v1/models"} <= set(description["paths"])
    assert description["paths"]["/v1/encode"]["post"]["requestBody"]["content"]["application/octet-stream"]
    figures = httpx.get(running.url + "/metrics", timeout=600).text
    assert 'duotone_requests_total{path="/v1/models",status="200"}' in figures
    answer = httpx.get(running.url + "/", timeout=600)
    assert answer.headers["cross-origin-embedder-policy"] == "require-corp"
    assert "default-src 'self'" in answer.headers["content-security-policy"]


def test_what_cannot_be_used_is_told(running: Running, song: bytes) -> None:
    refused(post(running, "/v1/encode", b""), 400, "empty")
    refused(post(running, "/v1/encode", b"no sound at all"), 422, "the upload is not a sound file")
    refused(post(running, "/v1/decode", song), 422, "is not a .duo")
    refused(post(running, "/v1/encode?model=large", song), 404, "small")
    refused(post(running, "/v1/encode?kind=words", song), 400, "kind")
    refused(post(running, "/v1/decode?format=../wav", song), 400, "format")
    refused(httpx.get(running.url + "/v1/../../etc/passwd", timeout=600), 404, "openapi.json")
    refused(httpx.get(running.url + "/v1/encode", timeout=600), 405, "GET")


def test_another_codecs_duo_is_refused(running: Running, wave: Waveform) -> None:
    from small import SMALL

    buffer = io.BytesIO()
    write_duo(buffer, CoDiCodec.random(SMALL, seed=2).encode(wave).codes())
    refused(post(running, "/v1/decode", buffer.getvalue()), 409, "made by codec")


def test_limits_are_told_when_hit(running: Running, codec: CoDiCodec, wave: Waveform, tmp_path: Any) -> None:
    refused(post(running, "/v1/encode", bytes(400_001)), 413, "400000 bytes", "upload_bytes")

    def endless() -> Iterator[bytes]:
        while True:
            yield bytes(1 << 16)

    with contextlib.suppress(httpx.WriteError):  # the connection may be closed before the answer can be read
        refused(post(running, "/v1/encode", endless()), 413, "upload_bytes", "upload_bytes")
    assert '"limit": "upload_bytes"' in running.log
    write(tmp_path / "long.flac", Waveform([0.0] * 48_001, 48_000))
    refused(
        post(running, "/v1/encode", (tmp_path / "long.flac").read_bytes()), 413, "decoded_seconds", "decoded_seconds"
    )
    buffer = io.BytesIO()
    value = codec.encode(Waveform(wave.samples.repeat(1, 5), wave.rate)).codes()
    write_duo(buffer, value)
    refused(post(running, "/v1/decode", buffer.getvalue()), 413, "decoded_seconds", "decoded_seconds")
    refused(post(running, "/v1/info", buffer.getvalue()[:100]), 422, "header")


def test_an_upload_that_stops_is_given_up_and_leaves_nothing(codec: CoDiCodec) -> None:
    """A form, too: neither stays one of the requests that there may be at the same time."""
    with serving(codec, limits={"idle_seconds": 0.2}) as running:
        for path, media in (("encode", b"application/octet-stream"), ("evaluate", b"multipart/form-data; boundary=x")):
            with socket.create_connection(("127.0.0.1", running.port)) as raw:
                raw.sendall(
                    b"POST /v1/%b HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: %b\r\nContent-Length: 500\r\n\r\n--x"
                    % (path.encode(), media)
                )
                answer = b""
                while part := raw.recv(65536):
                    answer += part
            assert answer.startswith(b"HTTP/1.1 408") and b'"limit":"idle_seconds"' in answer, answer
            while running.service._requests:
                time.sleep(0.01)


def test_an_upload_that_trickles_is_given_up(codec: CoDiCodec) -> None:
    """A byte now and then is never idle for long, but has an end."""
    with serving(codec, limits={"idle_seconds": 60, "upload_seconds": 0.3}) as running:
        with socket.create_connection(("127.0.0.1", running.port)) as raw:
            raw.sendall(b"POST /v1/encode HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000\r\n\r\n")
            raw.settimeout(0.02)
            answer = b""
            while b"upload_seconds" not in answer:
                try:
                    part = raw.recv(65536)
                    assert part, answer  # closed without a word
                    answer += part
                except TimeoutError:
                    raw.send(b"x")
        assert answer.startswith(b"HTTP/1.1 408"), answer
        while running.service._requests:
            time.sleep(0.01)


def test_an_answer_that_nobody_reads_is_given_up_and_leaves_nothing(codec: CoDiCodec) -> None:
    """15 MB, more than the buffers of a connection hold."""
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros((20 * 192_000, 2), np.int16), 192_000, format="FLAC")
    data = buffer.getvalue()
    with serving(codec, limits={"idle_seconds": 0.5}) as running, socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.connect(("127.0.0.1", running.port))
        head = b"POST /v1/sound HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % len(data)
        raw.sendall(head + data)
        while '"event": "gone"' not in running.log:
            time.sleep(0.01)
        while running.service._requests or len(running.service.device.scheduler):
            time.sleep(0.01)
    assert '"event": "defect"' not in running.log


def test_an_unknown_length_is_limited_while_it_is_read(running: Running, codec: CoDiCodec, wave: Waveform) -> None:
    """A .duo of unknown length is broken off: the client can tell that it is not whole."""
    value = codec.encode(Waveform(wave.samples.repeat(1, 5), wave.rate)).codes()
    data, _ = in_records(codec.codes(value.indices, value.source.of_length(None)), 20)
    with pytest.raises(httpx.RemoteProtocolError):
        post(running, "/v1/decode", data)
    assert "after the first byte" in running.log


def test_damage_in_the_middle_breaks_the_answer_off(running: Running, codec: CoDiCodec, wave: Waveform) -> None:
    data, places = in_records(codec.encode(wave).codes(), 4)
    bad = bytearray(data)
    bad[places[5] + 9] ^= 1
    with pytest.raises(httpx.RemoteProtocolError):
        post(running, "/v1/decode", bytes(bad))
    assert '"event": "defect"' not in running.log  # the file's fault, not the service's
    bad = bytearray(data)
    bad[places[0] + 9] ^= 1
    refused(post(running, "/v1/decode", bytes(bad)), 422, "damaged")


def test_a_full_disk_is_told_and_the_service_goes_on(codec: CoDiCodec, song: bytes) -> None:
    room = [100_000]

    class Full(io.FileIO):
        def write(self, data: Any) -> int:
            if room[0] < len(data):
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data) or 0

    def opened() -> Any:
        with tempfile.TemporaryFile(buffering=0) as found:
            return Full(os.dup(found.fileno()), "r+b")

    with serving(codec, opened=opened) as running:
        assert post(running, "/v1/encode", song).status_code == 200
        room[0] = 1000
        refused(post(running, "/v1/encode", song), 507, "disk")
        room[0] = 100_000
        assert post(running, "/v1/encode", song).status_code == 200
    assert all(json.loads(line) for line in running.log.splitlines())


def test_models_tell_their_options(running: Running, codec: CoDiCodec) -> None:
    told = httpx.get(running.url + "/v1/models", timeout=600).json()["codecs"][0]
    assert (told["faces"], told["options"]) == (["latents", "tokens"], ["steps"])
    assert told["bit_rate"] == pytest.approx(codec.spec.bit_rate)
