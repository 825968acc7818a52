"""``duotone jam``: the protocol over stdio against its schema, sinks and clocks, keys, OSC and MIDI."""

from __future__ import annotations

import base64
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import mido
import numpy as np
import pytest
import torch

from duotone import flow
from duotone.audio.files import read
from duotone.audio.waveform import Waveform
from duotone.cli.jam import remote
from duotone.cli.jam.sinks import ClockSink, DeviceSink, Ring
from duotone.errors import ConfigError, UsageError
from duotone.flow import protocol
from duotone.flow.controls import Controls
from duotone.flow.desk import Desk
from duotone.flow.weights import save as save_flow
from duotone.hub import load, save
from flow_toys import PAIRED, stirred
from small_bands import random_bands

CHUNK, EXTRA = 512, 192
WAIT_S = 600  # for a machine that does other things
SCHEMA = Path(__file__).parents[2] / "docs" / "jam-protocol.schema.json"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("pair")
    save(random_bands(), folder / "codec")
    save_flow(stirred(PAIRED), folder / "flow")
    return ["--flow", str(folder / "flow"), "--codec", str(folder / "codec"), "--dtype", "float32"]


def lines(*commands: Any) -> bytes:
    return b"".join((each if isinstance(each, bytes) else json.dumps(each).encode()) + b"\n" for each in commands)


def events(text: str) -> list[dict[str, Any]]:
    """Every line is an event of the published schema."""
    document = json.loads(SCHEMA.read_text())
    check = jsonschema.Draft202012Validator({"$defs": gathered(document), **document["properties"]["event"]})
    found = [json.loads(line) for line in text.splitlines()]
    for event in found:
        check.validate(event)
    return found


def gathered(document: dict[str, Any]) -> dict[str, Any]:
    return {**document["properties"]["command"]["$defs"], **document["properties"]["event"]["$defs"]}


def samples(found: list[dict[str, Any]]) -> torch.Tensor:
    data = b"".join(base64.b64decode(each["samples"]) for each in found if each["type"] == "audio")
    return torch.from_numpy(np.frombuffer(data, "<i2").reshape(-1, 2).T.astype(np.float32) / 32768)


def test_the_published_schema_is_that_of_the_models(pair: list[str], here: Path, duotone: Any) -> None:
    assert json.loads(SCHEMA.read_text()) == protocol.schema() == json.loads(duotone("jam", "--schema").stdout)
    document = protocol.schema()
    check = jsonschema.Draft202012Validator({"$defs": gathered(document), **document["properties"]["command"]})
    check.validate({"type": "set", "id": 3, "controls": {"temperature": 0.5, "lfos": {"2": {"target": "gain"}}}})
    for wrong in (
        {"type": "set"},
        {"type": "fly"},
        {"type": "set", "controls": {"volume": 1}},
        {"type": "step", "chunks": 0},
    ):
        assert not check.is_valid(wrong)
        with pytest.raises(UsageError):
            protocol.parse(json.dumps(wrong))


def test_a_host_plays_step_by_step_and_gets_the_session_s_sound(pair: list[str], here: Path, duotone: Any) -> None:
    given = lines(
        {
            "type": "start",
            "id": 1,
            "prompt": "a.wav",
            "seed": 7,
            "lookahead": 1,
            "audio": True,
            "controls": {"temperature": 0.9},
        },
        {"type": "step", "id": 2, "chunks": 2},
        {"type": "set", "id": "x", "controls": {"gain": 0.5, "lfos": {"0": {"target": "shift", "rate": 3}}}},
        {"type": "step", "chunks": 2},
        {"type": "reseed", "seed": 9},
        {"type": "reanchor", "fade": 0.005},
        {"type": "step", "chunks": 2},
        {"type": "health"},
        {"type": "stop", "id": 5},
    )
    result = duotone("jam", *pair, "--stdio", "--clock", "host", "--sink", "null", stdin=given)
    assert result.exit_code == 0, result.stderr
    found = events(result.stdout)
    assert [each["type"] for each in found] == [
        "ready", "started", "audio", "audio", "ack", "ack", "audio", "audio", "ack", "ack", "ack", "audio", "audio", "ack", "health", "stopped",
    ]  # fmt: skip
    acks = [(each["id"], each["command"], each["sample"]) for each in found if each["type"] == "ack"]
    assert acks[:2] == [(2, "step", 0), ("x", "set", 2 * CHUNK)] and acks[3:5] == [
        (None, c, 4 * CHUNK) for c in ("reseed", "reanchor")
    ]
    session = flow.session(load(pair[1]), load(pair[3], dtype="float32"), read("a.wav"), seed=7, lookahead=1)
    session.set(temperature=0.9)
    own = [next(session).samples for _ in range(2)]
    session.set(gain=0.5, lfos={0: {"target": "shift", "rate": 3}})
    own += [next(session).samples for _ in range(2)]
    session.reseed(9)
    session.reanchor(0.005)
    own += [next(session).samples for _ in range(2)]
    torch.testing.assert_close(samples(found), torch.cat(own, 1), rtol=0, atol=1 / 32768)
    assert found[-1] == {
        "type": "stopped", "id": 5, "samples": 6 * CHUNK, "chunks": 6, "steps": 14, "evaluations": 14, "underruns": 0,
    }  # fmt: skip


def test_a_state_goes_on_in_another_process(pair: list[str], here: Path, duotone: Any) -> None:
    words = ["jam", *pair, "--stdio", "--clock", "host", "--sink", "null"]

    def elsewhere(*commands: Any) -> list[dict[str, Any]]:
        done = subprocess.run(
            [sys.executable, "-m", "duotone", *words], input=lines(*commands), capture_output=True, check=True
        )
        assert done.stderr == b""
        return events(done.stdout.decode())

    def run(*commands: Any) -> list[dict[str, Any]]:
        done = duotone(*words, stdin=lines(*commands))
        assert (done.exit_code, done.stderr) == (0, "")
        return events(done.stdout)

    first = run(
        {"type": "start", "prompt": "a.wav", "audio": True}, {"type": "step", "chunks": 3}, {"type": "export", "path": "s"},
        {"type": "export"}, {"type": "step", "chunks": 3},
    )  # fmt: skip
    text = next(each["state"] for each in first if each["type"] == "state" and each["state"])
    assert base64.b64decode(text) == Path("s").read_bytes()
    rest = samples(first)[:, 3 * CHUNK :]
    for go_on, source in ((elsewhere, {"path": "s"}), (run, {"state": text})):
        again = go_on({"type": "import", "audio": True, **source}, {"type": "step", "chunks": 3})
        assert torch.equal(samples(again), rest)


def test_wrong_lines_are_answered_and_nothing_else_happens(pair: list[str], here: Path, duotone: Any) -> None:
    wrong: list[Any] = [
        {"type": "step"}, {"type": "stop", "id": 4}, b"not json", b"\xff\xfe", b"[]", {"type": "fly", "id": 8},
        {"type": "start", "prompt": "none.wav"}, {"type": "import"}, {"type": "import", "state": "%"}, {"type": "import", "path": "none"},
        {"type": "import", "path": "a.wav"},
    ]  # fmt: skip
    later: list[Any] = [
        {"type": "set", "controls": {"temperature": -1}}, {"type": "set", "controls": {"channel_bias": {"8": 1}}},
        {"type": "input", "samples": "AA=="}, {"type": "export", "path": "no/folder/s"},
    ]  # fmt: skip
    given = lines(*wrong, {"type": "start", "id": "s"}, *later, {"type": "step"})
    result = duotone("jam", *pair, "--stdio", "--clock", "host", "--sink", "null", stdin=given)
    assert result.exit_code == 0 and result.stderr == ""
    found = events(result.stdout)
    kinds = [each["type"] for each in found]
    assert kinds == ["ready", *["error"] * len(wrong), "started", *["error"] * len(later), "audio", "ack", "stopped"]
    assert (
        found[2]["id"] == 4
        and found[6]["id"] == 8
        and all(each["message"] for each in found if each["type"] == "error")
    )


def test_input_over_the_protocol_enters_the_context(pair: list[str], here: Path, duotone: Any) -> None:
    user = (np.random.default_rng(0).normal(size=(4 * CHUNK, 2)).clip(-3, 3) * 8000).astype("<i2")
    push = {"type": "input", "samples": base64.b64encode(user.tobytes()).decode(), "channels": 2}
    start = {"type": "start", "prompt": "a.wav", "audio": True}
    both = []
    for given in (
        [start, {"type": "step", "chunks": 3}, push, {"type": "step", "chunks": 4}],
        [start, {"type": "step", "chunks": 7}],
    ):
        result = duotone("jam", *pair, "--stdio", "--clock", "host", "--sink", "null", stdin=lines(*given))
        both.append(samples(events(result.stdout)))
    assert torch.equal(both[0][:, : 4 * CHUNK], both[1][:, : 4 * CHUNK]) and not torch.equal(both[0], both[1])


@pytest.mark.parametrize("stdio", [True, False])
def test_a_file_is_played_at_the_speed_of_the_clock(stdio: bool, pair: list[str], here: Path, duotone: Any) -> None:
    words = ["jam", *pair, "--sink", "out.wav", "--seconds", "0.2"]
    given = None
    if stdio:
        words, given = [*words, "--stdio"], lines({"type": "start", "seed": 3})
    began = time.monotonic()
    result = duotone(*words, *([] if stdio else ["--seed", "3", "--prompt", "a.wav"]), stdin=given)
    assert result.exit_code == 0, result.stderr
    assert time.monotonic() - began >= 0.2 and read("out.wav").seconds >= 0.2
    if stdio:
        assert events(result.stdout)[-1]["samples"] >= 9600
    else:
        assert (
            result.stdout == "" and "slack at the deadline" in result.stderr and "heard after at most" in result.stderr
        )


def test_errors_have_no_traceback(pair: list[str], here: Path, duotone: Any) -> None:
    for words, message in (
        (["--clock", "host"], "needs a host"),
        (["--stdio", "--clock", "host"], "drives its own clock"),
        (["--sink", "null", "--prompt", "none.wav"], "none.wav"),
        (["--sink", "null", "--midi", "nothing of this name"], "--midi"),
        (["--sink", "o.xyz"], "o.xyz"),
        (["--sink", "null", "--stdio", "--prompt", "a.wav"], "part of the command start"),
    ):
        result = duotone("jam", *pair, *words)
        assert result.exit_code in (2, 3) and message in result.stderr, result.stderr


class Clock:
    """Time that the test moves."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_what_is_made_and_not_heard_stays_within_the_look_ahead() -> None:
    """Each control is heard at most the look-ahead after it was set; a stalled player counts its underruns."""
    clock, told = Clock(), []
    codec = random_bands()
    sink = ClockSink(48_000, clock)
    desk = Desk(stirred(PAIRED), codec, sink, told.append)
    for lookahead in (1, 2, 4):
        desk.do(protocol.Start(lookahead=lookahead))
        session = desk.session
        assert session is not None
        for _ in range(60):
            while desk.due():
                desk.work()
            heard = desk.heard
            desk.do(protocol.Set(controls=flow.Changes(temperature=0.7)))
            assert told[-1].sample - heard <= session.latency().seconds * 48_000 == (lookahead + 1) * CHUNK
            clock.seconds += 0.003
        assert sink.underruns == 0
    clock.seconds += 10.0
    desk.work()
    assert sink.underruns == 1 and desk.slack[-1] == 0.0


def test_a_session_that_fails_while_it_plays_is_told_and_stopped() -> None:
    told: list[Any] = []
    sink = ClockSink(48_000, None)
    desk = Desk(stirred(PAIRED), random_bands(), sink, told.append)
    desk.do(protocol.Start())

    def full(wave: Waveform) -> None:
        raise OSError(28, "No space left on device")

    sink.write = full  # type: ignore[method-assign]
    desk.work()
    assert [each.type for each in told[-2:]] == ["error", "stopped"] and desk.session is None and not desk.due()


def test_a_ring_gives_pieces_in_order_and_silence_where_there_are_none() -> None:
    ring, data = Ring(), np.arange(1, 21, dtype=np.float32).reshape(10, 2)
    ring.write(data[:3])
    ring.write(data[3:])
    out = np.full((4, 2), 9.0, np.float32)
    got = []
    for _ in range(3):
        ring.read(out)
        got.append(out.copy())
    assert (np.concatenate(got)[:10] == data).all() and not got[2][2:].any()
    assert ring.read_samples == 10 and ring.dry == 1


def test_a_missing_sound_card_is_told(
    monkeypatch: pytest.MonkeyPatch, pair: list[str], here: Path, duotone: Any
) -> None:
    class Broken(Exception):
        pass

    def none(**_: Any) -> Any:
        raise Broken("Error querying device -1")

    monkeypatch.setitem(sys.modules, "sounddevice", SimpleNamespace(OutputStream=none, PortAudioError=Broken))
    result = duotone("jam", *pair)
    assert result.exit_code == 2 and "--sink null" in result.stderr
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    result = duotone("jam", *pair)
    assert result.exit_code == 2 and "duotone[jam]" in result.stderr


class Package:
    """The part of `sounddevice` that is used; the test plays the card and the microphone."""

    class PortAudioError(Exception):
        pass

    def __init__(self) -> None:
        self.opened: dict[str, Any] = {}
        self.told: list[str] = []

    def stream(self, kind: str, **how: Any) -> Any:
        self.opened[kind] = how
        return SimpleNamespace(
            latency=0.03, start=lambda: self.told.append("start"), stop=lambda: self.told.append("stop"),
            close=lambda: self.told.append("close"),
        )  # fmt: skip

    def OutputStream(self, **how: Any) -> Any:
        return self.stream("out", **how)

    def InputStream(self, **how: Any) -> Any:
        return self.stream("in", **how)


@pytest.mark.parametrize(("name", "device"), [(None, None), ("USB", "USB"), ("3", 3)])
def test_a_card_takes_the_pieces_and_a_microphone_gives_input(
    name: str | None, device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = Package()
    monkeypatch.setitem(sys.modules, "sounddevice", package)
    with DeviceSink(48_000, 2, name) as sink:
        how = package.opened["out"]
        assert (how["device"], how["samplerate"], how["channels"], sink.buffer) == (device, 48_000, 2, 0.03)
        told: list[Any] = []
        desk = Desk(stirred(PAIRED), random_bands(), sink, told.append)
        close = remote.listen_microphone(48_000, name, desk.do)
        desk.do(protocol.Start())
        while desk.due():
            desk.work()
        out = np.zeros((CHUNK, 2), np.float32)
        how["callback"](out, CHUNK, None, None)
        assert desk.heard == sink.played == CHUNK and np.abs(out).max() > 1e-3 and sink.underruns == 0
        assert (package.opened["in"]["device"], package.opened["in"]["channels"]) == (device, 1)
        block = np.full((3 * CHUNK, 1), 1.5, np.float32)  # above full scale: limited, not wrapped
        package.opened["in"]["callback"](block, len(block), None, None)
        assert told[-1].type == "ack" and told[-1].command == "input" and desk.session is not None
        assert float(desk.session._input.state()["samples"].max()) == pytest.approx(1, abs=1e-3)
        close()
    assert package.told == ["start", "start", "close", "stop", "close"]


def test_a_midi_input_is_opened_by_the_beginning_of_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[Any] = []
    opened: list[Any] = []

    def opens(name: str, callback: Any) -> Any:
        opened.append(name)
        callback(mido.Message("control_change", control=1, value=127))
        callback(mido.Message("pitchwheel"))
        return SimpleNamespace(close=lambda: opened.append("closed"))

    monkeypatch.setattr(mido, "get_input_names", lambda: ["through", "nanoKONTROL 20:0"])
    monkeypatch.setattr(mido, "open_input", opens)
    close = remote.listen_midi("nano", got.append)
    close()
    assert opened == ["nanoKONTROL 20:0", "closed"]
    assert [each.controls.named() for each in got] == [{"temperature": 2.0}]
    with pytest.raises(UsageError, match=r"'keys', and the inputs are: through, nanoKONTROL"):
        remote.listen_midi("keys", got.append)


def test_keys_are_commands() -> None:
    controls = Controls.of(PAIRED)
    assert remote.of_key("t", controls, 0).controls.temperature == 1.05
    assert remote.of_key("S", controls, 0).controls.steps == 1 and remote.of_key("V", controls, 0).controls.gain == 0.9
    assert remote.of_key("n", controls, 5) == protocol.Reseed(seed=6) and remote.of_key("x", controls, 0) is None
    assert [remote.of_key(key, controls, 0).type for key in "r?q"] == ["reanchor", "health", "stop"]
    low = controls.changed(flow.Changes(gain=0.05))
    assert remote.of_key("V", low, 0).controls.gain == 0


def test_midi_messages_are_commands() -> None:
    assert remote.of_midi(mido.Message("control_change", control=1, value=127)).controls.named() == {"temperature": 2.0}
    assert remote.of_midi(mido.Message("control_change", control=75, value=0)).controls.steps == 1
    assert remote.of_midi(mido.Message("note_on", note=60)) == protocol.Reseed(seed=60)
    assert remote.of_midi(mido.Message("note_on", note=60, velocity=0)) is None
    assert remote.of_midi(mido.Message("program_change", program=0)).type == "reanchor"
    assert remote.of_midi(mido.Message("pitchwheel")) is None


@contextmanager
def started(words: list[str], stdin: int) -> Iterator[subprocess.Popen[str]]:
    """A program that is ended in any case, after some minutes at the latest."""
    with subprocess.Popen(
        words, stdin=stdin, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a test run in the background ignores SIGINT
    ) as running:  # fmt: skip
        watch = threading.Timer(WAIT_S, running.kill)
        watch.start()
        try:
            yield running
        finally:
            watch.cancel()
            running.kill()


def test_keys_of_a_terminal_play(pair: list[str], here: Path) -> None:
    pty = pytest.importorskip("pty")
    master, terminal = pty.openpty()
    words = [sys.executable, "-m", "duotone", "jam", *pair, "--sink", "null"]
    with started(words, terminal) as running:
        assert running.stderr is not None
        assert "Playing" in running.stderr.readline()
        os.write(master, b"t")
        assert "set temperature 1.05, heard from" in running.stderr.readline()
        os.write(master, b"q")
        assert running.stderr.readline().startswith("Stopped after") and running.wait(WAIT_S) == 0
    os.close(master)
    os.close(terminal)


def test_an_interrupted_file_holds_what_was_played(pair: list[str], here: Path) -> None:
    words = [sys.executable, "-m", "duotone", "jam", *pair, "--sink", "out.wav"]
    with started(words, subprocess.DEVNULL) as running:
        assert running.stderr is not None and "Playing" in running.stderr.readline()
        while not any(part.stat().st_size > 50_000 for part in here.glob(".*.part")):  # the watch ends a hang
            assert running.poll() is None
            time.sleep(0.01)
        running.send_signal(signal.SIGINT)
        assert running.stderr.readline().startswith("Stopped after") and running.wait(WAIT_S) == 130
    assert read("out.wav").seconds > 0.2 and not list(here.glob("*.part"))


def test_a_stuck_session_says_so_without_being_asked() -> None:
    told: list[Any] = []
    desk = Desk(stirred(PAIRED), random_bands(), ClockSink(48_000, None), told.append)
    desk.do(protocol.Start())
    for controls in ({}, {"temperature": 0, "context": 0}, {"temperature": 1}, {"temperature": 0}):
        desk.do(protocol.Set(controls=flow.Changes.parse(controls)))
        for _ in range(20):
            desk.work()
    found = [each.stuck for each in told if each.type == "health"]
    assert found == ["repeats", "repeats"]


def test_osc_messages_arrive_as_commands() -> None:
    import socket

    from pythonosc.udp_client import SimpleUDPClient

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    got: queue.Queue[Any] = queue.Queue()
    close = remote.listen_osc(port, got.put, got.put)
    try:
        with pytest.raises(UsageError, match="cannot listen"):
            remote.listen_osc(port, got.put, got.put)
        client = SimpleUDPClient("127.0.0.1", port)
        found = []
        for address, value in (
            ("/duotone/set/temperature", 0.5), ("/duotone/set/channel_bias/3", 0.25), ("/duotone/reseed", 4), ("/duotone/reanchor", []),
            ("/duotone/set/volume", 1.0),
        ):  # fmt: skip
            client.send_message(address, value)
            found.append(got.get(timeout=WAIT_S))
    finally:
        close()
    assert found[0].controls.temperature == 0.5 and found[1].controls.channel_bias == {3: 0.25}
    assert found[2] == protocol.Reseed(seed=4) and found[3] == protocol.Reanchor() and "volume" in found[4]


def test_osc_that_is_no_command_is_refused() -> None:
    for address, values in (
        ("/other", ()),
        ("/duotone/set/gain", ()),
        ("/duotone/set/gain/1", (1.0,)),
        ("/duotone/fly", ()),
    ):
        with pytest.raises((UsageError, ConfigError)):
            remote.of_osc(address, values)
