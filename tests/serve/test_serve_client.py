"""The library's client and the commands with --server: what is done there equals what is done here."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the service needs the extra serve")

from test_serve_sessions import CHUNK, own_sound
from typer.testing import CliRunner

from duotone.audio.files import read, write
from duotone.audio.synth import synthesize
from duotone.cli.main import app
from duotone.client import Client, Part, Sound
from duotone.codec.container import read_duo, write_duo
from duotone.errors import AudioError, CodecMismatchError, FormatError, ServiceError, UsageError, WeightsError
from duotone.flow import protocol
from duotone.serve.frames import What
from duotone.serve.models import Models
from flow_toys import PAIRED, stirred
from serving import Running, serving
from small_bands import random_bands

CODEC = random_bands()
TOKEN = "correct-horse-battery"


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with serving(Models({"bands": CODEC}, stirred(PAIRED)), limits={"decoded_seconds": 2.0}, tokens=(TOKEN,)) as found:
        yield found


@pytest.fixture
def client(running: Running) -> Client:
    return Client(running.url, TOKEN, timeout=600)


@pytest.fixture
def song(tmp_path: Path) -> Path:
    write(tmp_path / "song.wav", synthesize(3, 0.2))
    return tmp_path / "song.wav"


def test_files_go_there_and_back(client: Client, song: Path) -> None:
    data = b"".join(client.encode(song))
    value = CODEC.encode(read(song)).codes()
    assert read_duo(io.BytesIO(data)) == value
    heard = read(io.BytesIO(b"".join(client.decode(data, "flac", seed=2))))
    own = CODEC.decode(value, seed=2)
    assert heard.length == own.length and (heard.samples - own.samples.clamp(-1, 1)).abs().max() < 2**-14
    with song.open("rb") as file:
        assert client.info(file)["samples"] == own.length
    assert client.evaluate(song, song.read_bytes())["log_mel"] == 0
    assert client.models()["codecs"][0]["name"] == "bands"


def test_errors_are_those_of_the_library(client: Client, running: Running, song: Path) -> None:
    buffer = io.BytesIO()
    write_duo(buffer, random_bands(seed=5).encode(synthesize(1, 0.1)).codes())
    duo = b"".join(client.encode(song))
    cases: list[tuple[type[Exception], Any]] = [
        (AudioError, lambda: client.encode(b"no sound")), (FormatError, lambda: client.decode(song)),
        (WeightsError, lambda: client.encode(song, model="large")), (CodecMismatchError, lambda: client.decode(buffer.getvalue())),
        (UsageError, lambda: client.decode(duo, strategy="best")), (UsageError, lambda: Client(running.url).encode(song)),
    ]  # fmt: skip
    for kind, call in cases:
        with pytest.raises(kind):
            list(call())
    write(song, synthesize(1, 2.5), force=True)
    with pytest.raises(ServiceError, match="decoded_seconds"):
        list(client.encode(song))
    with pytest.raises(ServiceError, match="cannot be reached"):
        Client("http://127.0.0.1:9", timeout=5).models()
    for url in ("127.0.0.1:8777", "ftp://a", "http://a/path", "http://a:port", "http://u:p@a"):
        with pytest.raises(UsageError, match="expected an address"):
            Client(url)


def test_an_answer_that_is_broken_off_is_no_answer(client: Client) -> None:
    from test_serve_files import in_records

    data, places = in_records(CODEC.encode(synthesize(3, 0.2)).codes(), 4)
    bad = bytearray(data)
    bad[places[3] + 9] ^= 1
    with pytest.raises(ServiceError, match="broke the answer off"):
        list(client.decode(bytes(bad)))


def test_a_jam_is_played_and_steered(client: Client) -> None:
    with client.session("jam") as session:
        session.command(protocol.Start(seed=3, id="s"))
        pieces: list[np.ndarray] = []
        events = []
        for got in session:
            if isinstance(got, Sound):
                pieces.append(got.wave.numpy().T)
                session.played(session.arrived)
                if session.arrived > 4 * CHUNK:
                    break
            else:
                events.append(got)
        session.command({"type": "reseed", "seed": 5, "id": 8})
        ack = next(got for got in session if getattr(got, "type", None) == "ack")
        assert (ack.id, ack.command) == (8, "reseed")
    assert [event.type for event in events[:2]] == ["ready", "started"]
    heard = np.round(np.concatenate(pieces) * 32768).astype(np.int16)
    assert np.array_equal(heard, own_sound(len(heard)))


def test_live_encoding_through_the_client(client: Client, song: Path) -> None:
    wave = read(song)
    with client.session("encode", face="latents") as session:
        for i in range(0, wave.length, 3000):
            session.push(type(wave)(wave.samples[:, i : i + 3000].contiguous(), wave.rate), i)
        session.stop()
        got = list(session)
    assert got[-1].type == "stopped" and got[-1].samples == wave.length
    value = read_duo(io.BytesIO(b"".join(part.data for part in got if isinstance(part, Part))))
    assert np.abs(value.numpy() - CODEC.encode(wave).numpy()).max() < 1e-3


def test_live_decoding_through_the_client(client: Client) -> None:
    buffer = io.BytesIO()
    value = CODEC.encode(synthesize(3, 0.2)).codes()
    write_duo(buffer, value)
    with client.session("decode", seed=7) as session:
        session.upload(What.duo, buffer.getvalue())
        pieces = []
        for got in session:
            if isinstance(got, Sound):
                pieces.append(got.wave.numpy())
                session.played(session.arrived)
    own = CODEC.decode(value, seed=7, restore=False).numpy()
    assert np.abs(np.concatenate(pieces, 1) - own.clip(-1, 1)).max() < 2**-14


def test_a_session_that_is_refused_raises_what_was_told(running: Running, client: Client) -> None:
    with pytest.raises(UsageError, match="wrong token"), Client(running.url, TOKEN + "x").session("jam"):
        pass
    with pytest.raises(ServiceError, match="lookahead"), client.session("jam", lookahead=60):
        pass


def test_the_commands_let_a_service_work(running: Running, song: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DUOTONE_TOKEN", TOKEN)
    out, again = song.with_suffix(".duo"), song.with_name("again.flac")
    done = CliRunner().invoke(app, ["encode", str(song), "-o", str(out), "--server", running.url, "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["bytes"] == out.stat().st_size
    assert read_duo(out) == CODEC.encode(read(song)).codes()
    done = CliRunner().invoke(app, ["decode", str(out), "-o", str(again), "--server", running.url, "--seed", "1"])
    assert done.exit_code == 0 and read(again).length == read(song).length
    for words in (["--device", "cuda"], ["--bandwidth", "6"], ["--framing", "published"]):
        done = CliRunner().invoke(
            app, ["encode", str(song), "-o", str(out), "--server", running.url, "--force", *words]
        )
        assert done.exit_code == 2 and words[0] in done.output
    done = CliRunner().invoke(app, ["decode", str(out), "-o", str(song.with_name("a.mp3")), "--server", running.url])
    assert done.exit_code == 2 and "wav or flac" in done.output
    song.write_bytes(b"no sound")
    done = CliRunner().invoke(app, ["encode", str(song), "-o", str(out), "--server", running.url, "--force"])
    assert done.exit_code == 3 and read_duo(out) is not None  # the output that was there is kept


def test_the_client_needs_no_torch() -> None:
    code = "import sys, duotone.client; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_the_command_serves_until_it_is_told_to_stop(song: Path) -> None:
    import signal

    settings = song.with_name("serve.yaml")
    settings.write_text("scheduling: {batch: 1}\n")
    command = [sys.executable, "-m", "duotone", "serve", "--port", "0", "--config", str(settings)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        started: dict[str, Any] = {}
        lines = []
        for line in process.stderr:
            lines.append(json.loads(line))
            if lines[-1]["event"] == "started":
                started = lines[-1]
            if lines[-1]["event"] == "ready":
                break
        client = Client(f"http://127.0.0.1:{started['port']}", timeout=600)
        models = client.models()
        assert models["codecs"][0]["name"] == "tiny" and models["flow"]["name"] == "flow-tiny"
        assert len(b"".join(client.encode(song))) > 100
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        assert process.wait(600) == 0, rest
    assert [json.loads(line)["event"] for line in rest.splitlines()] == ["stopping", "stopped"], rest
