"""Sessions beside each other: each hears what it would hear alone, and nothing of them is left."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import os
import random
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the service needs the extra serve")

import httpx
from test_serve_sessions import CHUNK, own_sound
from websockets.asyncio.client import connect

from duotone import flow
from duotone.audio.synth import synthesize
from duotone.audio.wav_stream import pcm
from duotone.codec.container import write_duo
from duotone.serve import frames
from duotone.serve.frames import Audio, Control, Handshake, Metadata, Ping, What
from duotone.serve.models import Models
from flow_toys import PAIRED, stirred
from serving import WAIT_S, Running, serving
from serving_client import Talk
from small_bands import random_bands

CODEC, MODEL = random_bands(), stirred(PAIRED)
SEEDS = range(4)


def duo() -> bytes:
    buffer = io.BytesIO()
    write_duo(buffer, CODEC.encode(synthesize(3, 0.1)).codes())
    return buffer.getvalue()


def exported(talk: Talk) -> tuple[bytes, int]:
    """A session's state, and the sample at which it goes on."""
    talk.command(type="export", path="download")
    state = b""
    while True:
        frame = talk.hear()
        if isinstance(frame, Metadata):
            state += frame.data
        elif isinstance(frame, Control) and json.loads(frame.text)["type"] == "state":
            return state, int(json.loads(frame.text)["sample"])


@contextmanager
def held(running: Running) -> Iterator[None]:
    """The model thread waits at its next ask until the block ends."""
    gate = threading.Event()
    running.service.device.post(lambda: (gate.wait(), None)[1])
    try:
        yield
    finally:
        gate.set()


def batches(running: Running) -> dict[str, float]:
    """How many evaluations of the flow had so many rows."""
    figures = running.service.metrics.text().decode()
    return {
        rows: float(count)
        for rows, count in re.findall(r'step_seconds_count\{kind="flow",rows="(\d+)"\} (\S+)', figures)
    }


def test_each_chunk_beside_others_is_that_of_the_session_alone() -> None:
    """From the state that the service gives in the middle of a batch, the library makes the same next chunks."""
    with serving(Models({"bands": CODEC}, MODEL), scheduling={"batch": 8}) as running:
        before_sessions = batches(running)  # the service has measured its device
        talks = [Talk(running, {"kind": "continue", "lookahead": 2}) for _ in SEEDS]
        for seed, talk in zip(SEEDS, talks, strict=True):
            talk.command(type="start", seed=seed)
        heard = [talk.sound(CHUNK) for talk in talks]
        for _ in range(3):
            states = [exported(talk) for talk in talks]
            with held(running):  # all ask for chunks before the next one is made
                for talk in talks:
                    talk.say(Ping(talk.at))
                    while not isinstance(talk.hear(), Ping):
                        pass
            rows = [np.concatenate([before, talk.rest()]) for before, talk in zip(heard, talks, strict=True)]
            after = [talk.sound(2 * CHUNK) for talk in talks]
            for (state, at), row, sound in zip(states, rows, after, strict=True):
                with flow.resume(MODEL, CODEC, state) as alone:
                    own = np.concatenate([pcm(next(alone).numpy()).T for _ in range(2)])
                sound = np.concatenate([row, sound])[at:]
                first = sound[:CHUNK].astype(int) - own[:CHUNK]
                assert np.abs(first).max() <= 1e-4 * 32768 + 1  # and one step of 16 bits
            heard = [np.concatenate([row, sound]) for row, sound in zip(rows, after, strict=True)]
        found = batches(running)
        for talk in talks:
            talk.__exit__()
    assert found["4"] > before_sessions["4"], found


def test_without_batches_sessions_beside_each_other_are_equal_bit_for_bit() -> None:
    with serving(Models({"bands": CODEC}, MODEL), scheduling={"batch": 1}) as running:
        talks = [Talk(running, {"kind": "continue"}) for _ in SEEDS]
        for seed, talk in zip(SEEDS, talks, strict=True):
            talk.command(type="start", seed=seed)
        heard = [[talk.sound(CHUNK) for talk in talks] for _ in range(4)]
        for seed, talk in zip(SEEDS, talks, strict=True):
            assert np.array_equal(np.concatenate([row[seed] for row in heard]), own_sound(4 * CHUNK, seed))
            talk.__exit__()


def test_listeners_of_decoding_beside_each_other_hear_their_own(running: Running) -> None:
    value = CODEC.encode(synthesize(3, 0.1)).codes()
    talks = [Talk(running, {"kind": "decode", "seed": seed}) for seed in SEEDS]
    for talk in talks:
        talk.say(Metadata(What.duo, True, duo()))
    length = CODEC.decode(value, seed=0, restore=False).length
    parts = range(0, length - CHUNK, CHUNK)
    heard = [[talk.sound(CHUNK) for talk in talks] for _ in parts]
    for seed, talk in zip(SEEDS, talks, strict=True):
        own = pcm(CODEC.decode(value, seed=seed, restore=False).numpy()).T[: len(parts) * CHUNK]
        sound = np.concatenate([row[seed] for row in heard])
        assert np.abs(sound.astype(int) - own).max() <= 1e-4 * 32768 + 1
        talk.__exit__()


# --- nothing is left


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with serving(
        Models({"bands": CODEC}, MODEL), limits={"sessions": 128, "sessions_per_token": 128, "kept_states": 8}
    ) as found:
        yield found


async def visit(url: str, number: int, data: bytes) -> None:
    """A session of a kind by turns, which ends or vanishes after a little sound."""
    dice = random.Random(number)
    kind = ("jam", "decode", "encode", "continue")[number % 4]
    socket = await connect(url, max_size=None, compression=None, ping_interval=None)
    try:
        await socket.send(Handshake({"kind": kind, "lookahead": 1}).to_bytes())
        await socket.recv(decode=False)
        if kind == "decode":
            await socket.send(Metadata(What.duo, dice.random() < 0.5, data).to_bytes())
        elif kind == "encode":
            await socket.send(Audio(0, np.zeros((CHUNK, 2), np.int16)).to_bytes())
        else:
            await socket.send(Metadata(What.prompt, True, data[:200]).to_bytes())
            await socket.send(Control('{"type": "start", "seed": 1}').to_bytes())
        while dice.random() < 0.9 and kind != "encode":
            if isinstance(frames.parse(await socket.recv(decode=False)), Audio):
                break
        if dice.random() < 0.5:
            await socket.send(Control('{"type": "stop"}').to_bytes())
            await socket.close()
    finally:
        socket.transport.abort()


async def visits(url: str, numbers: range, data: bytes) -> None:
    """Eight at a time."""
    waiting = iter(numbers)

    async def one_after_the_other() -> None:
        for number in waiting:
            await visit(url, number, data)

    await asyncio.gather(*(one_after_the_other() for _ in range(8)))


def left(running: Running) -> dict[str, Any]:
    """What a session could leave behind: threads, files, coroutines, objects, states that are not limited."""

    async def coroutines() -> int:
        return len(asyncio.all_tasks())

    running.settle()
    loop = running.server._loop
    tasks = asyncio.run_coroutine_threadsafe(coroutines(), loop).result(60)
    gc.collect()
    names = ("Socket", "Live", "Upload", "Session", "Voice", "FlowCache", "_Decoder", "Outbox", "Inbox", "_Entry")
    objects = Counter(type(each).__name__ for each in gc.get_objects())
    descriptors = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
    return {
        "threads": threading.active_count(), "tasks": tasks, "descriptors": descriptors,
        **{name: sum(count for found, count in objects.items() if found.startswith(name)) for name in names},
    }  # fmt: skip


def memory() -> float:
    """Resident memory in MiB (Linux)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def go_through(running: Running, first: int, count: int) -> None:
    asyncio.run(visits(f"ws://127.0.0.1:{running.port}/v1/session", range(first, first + count), duo()))
    running.lines.truncate(0)  # the log of the test itself would grow
    running.lines.seek(0)


def comes_to(running: Running, before: dict[str, Any]) -> None:
    """Nothing more is left than before, as soon as the web server too has done with the connections that are closed."""
    end = time.monotonic() + WAIT_S
    found = left(running)
    while any(found[name] > count for name, count in before.items()):
        assert time.monotonic() < end, (before, found)
        time.sleep(0.05)
        found = left(running)


def go_through_once(running: Running, count: int) -> dict[str, Any]:
    """What is left of the first sessions, which make threads that stay."""
    idle = left(running)["tasks"]
    go_through(running, 0, count)
    comes_to(running, {"tasks": idle})
    return left(running)


def test_sessions_leave_nothing_behind(running: Running) -> None:
    before = go_through_once(running, 40)
    go_through(running, 40, 160)
    comes_to(running, before)
    assert httpx.get(running.url + "/ready", timeout=600).status_code == 200


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_memory_is_flat_over_ten_thousand_sessions(running: Running) -> None:
    before = go_through_once(running, 2000)
    start = memory()
    marks = []
    for i in range(4):
        go_through(running, 2000 * (i + 1), 2000)
        comes_to(running, before)
        marks.append(round(memory() - start, 1))
    assert marks[-1] < 8, marks
