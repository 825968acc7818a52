"""Files by replicas on a Ray cluster of this machine: the bytes of the library, whoever made them. Needs the extra `ray`."""

from __future__ import annotations

import io
import os
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the service needs the extra serve")

import httpx
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from duotone.audio.files import read, write
from duotone.audio.synth import synthesize
from duotone.client import Client
from duotone.codec.container import read_duo
from duotone.errors import ConfigError, FormatError, UsageError
from duotone.hub import save
from duotone.serve.cluster import jobs
from small_bands import random_bands

CODEC = random_bands()
TOKEN = "correct-horse-battery"
ALLOWED = {"Authorization": f"Bearer {TOKEN}"}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Two replicas behind Ray's proxy."""
    ray = pytest.importorskip("ray", reason="ray is not installed (extra: ray)")
    serve: Any = pytest.importorskip("ray.serve", reason="Ray Serve is not installed (extra: ray)")
    folder, port = tmp_path_factory.mktemp("ray"), free_port()
    save(CODEC, folder / "bands")
    config = folder / "serve.yaml"
    config.write_text(f"codecs: [{folder / 'bands'}]\ntokens: [{TOKEN}]\nlimits: {{decoded_seconds: 2}}\n")
    paths = os.pathsep.join(path for path in sys.path if path)
    ray.init(
        num_cpus=3, object_store_memory=100 << 20, include_dashboard=False, log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": paths}},
    )  # fmt: skip
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(jobs({"replicas": 2, "config": str(config)}), name=f"duotone-{port}")
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()
    ray.shutdown()


@pytest.fixture
def client(url: str) -> Client:
    return Client(url, TOKEN)


@pytest.fixture
def song(tmp_path: Path) -> Path:
    write(tmp_path / "song.wav", synthesize(3, 0.2))
    return tmp_path / "song.wav"


def replicas(url: str) -> set[int]:
    """The processes of the replicas, by the titles that Ray gives them."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            if f"ServeReplica:duotone-{url.rpartition(':')[2]}:" in path.read_text(encoding="latin-1"):
                found.add(int(path.parent.name))
    return found


@pytest.mark.long
def test_files_are_those_of_the_library(client: Client, song: Path) -> None:
    value = CODEC.encode(read(song)).codes()
    data = b"".join(client.encode(song))
    assert read_duo(io.BytesIO(data)) == value
    heard = read(io.BytesIO(b"".join(client.decode(data, "flac", seed=2))))
    own = CODEC.decode(value, seed=2)
    assert np.abs(heard.numpy() - own.numpy().clip(-1, 1)).max() < 2**-14
    assert client.evaluate(song, song)["log_mel"] == 0
    assert client.info(data)["samples"] == own.length
    with pytest.raises(FormatError):
        list(client.decode(song))


@pytest.mark.long
def test_many_at_once_get_what_is_theirs(client: Client, tmp_path: Path) -> None:
    waves = [synthesize(seed, 0.1) for seed in range(8)]
    for seed, wave in enumerate(waves):
        write(tmp_path / f"{seed}.wav", wave)

    def encoded(seed: int) -> Any:
        return read_duo(io.BytesIO(b"".join(client.encode(tmp_path / f"{seed}.wav"))))

    with ThreadPoolExecutor(8) as pool:
        for seed, value in enumerate(pool.map(encoded, range(8))):
            assert value == CODEC.encode(read(tmp_path / f"{seed}.wav")).codes()


@pytest.mark.long
def test_tokens_are_asked_for_and_sessions_are_elsewhere(url: str, client: Client) -> None:
    assert httpx.get(url + "/v1/models", timeout=600).status_code == 401
    assert client.models()["flow"] is None
    assert httpx.get(url + "/metrics", headers=ALLOWED, timeout=600).status_code == 404
    with pytest.raises(WebSocketException), connect(url.replace("http", "ws") + "/v1/session") as session:
        session.recv(timeout=600)


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="replicas are found in /proc")
def test_a_replica_that_is_killed_is_replaced(url: str, song: Path) -> None:
    before = replicas(url)
    assert len(before) == 2
    killed = before.pop()
    os.kill(killed, 9)
    value, answered = CODEC.encode(read(song)).codes(), 0
    while answered < 4 or len(replicas(url) - {killed}) < 2:
        with suppress(httpx.TransportError):  # until Ray has seen it, requests to it may fail
            found = httpx.post(url + "/v1/encode", content=song.read_bytes(), headers=ALLOWED, timeout=600)
            if found.status_code == 200:
                answered += 1
                assert read_duo(io.BytesIO(found.content)) == value
        time.sleep(0.05)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"duotone\[serve,ray\]"):
        jobs({})


@pytest.mark.long
def test_settings_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray.serve", reason="Ray Serve is not installed (extra: ray)")
    with pytest.raises(ConfigError, match="replica"):
        jobs({"replica": 2})
