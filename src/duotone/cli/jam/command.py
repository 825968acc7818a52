"""``duotone jam``: the command, and its loop."""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from duotone.cli.codec_options import Codec, Device, Dtype, load_codec
from duotone.cli.common import check_outputs
from duotone.cli.failures import require_stdout, tell
from duotone.cli.flow_options import DEFAULT_FLOW, Flow, PromptFile, Seed, load_flow
from duotone.errors import UsageError

if TYPE_CHECKING:
    from duotone.flow.desk import Desk

NAME = "jam"
EXAMPLES = """
Examples:

    duotone jam --prompt song.wav

    duotone jam --prompt song.wav --sink night.wav --seconds 3600

    duotone jam --prompt song.wav --osc 9000 --midi nanoKONTROL

    duotone jam --stdio --sink null < commands.jsonl

    duotone jam --schema > protocol.json
"""
_WAIT = 0.005  # seconds between looks at the clock


class ClockName(str, Enum):
    """Who drives the clock."""

    real = "real"
    host = "host"


def command(
    flow: Flow = DEFAULT_FLOW,
    codec: Codec = None,
    prompt: PromptFile = None,
    seed: Seed = 0,
    lookahead: Annotated[int, typer.Option(min=1, max=64, help="Chunks that may be made before they are heard.")] = 2,
    sink: Annotated[
        str,
        typer.Option(
            metavar="SINK", help="card (the sound card), card:NAME (or its number), null, or the name of a sound file."
        ),
    ] = "card",
    stdio: Annotated[
        bool,
        typer.Option(
            "--stdio", help="Take commands as JSON lines from standard input, write events to standard output."
        ),
    ] = False,
    clock: Annotated[
        ClockName, typer.Option(help="real: chunks are made as they are played; host: by the command step alone.")
    ] = ClockName.real,
    seconds: Annotated[float | None, typer.Option(min=0, help="Stop after so much sound.")] = None,
    input: Annotated[
        str | None,
        typer.Option("--input", metavar="NAME", help="Microphone whose sound enters the context, by name or number."),
    ] = None,
    osc: Annotated[int | None, typer.Option(min=1, max=65535, help="Port on which OSC messages are taken.")] = None,
    midi: Annotated[str | None, typer.Option(metavar="NAME", help="MIDI input, by the beginning of its name.")] = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON Schema of the protocol, and do nothing else.")
    ] = False,
    device: Device = "cpu",
    dtype: Dtype = "auto",
) -> None:
    """Play a flow live: it continues the prompt without end, and controls are heard within the look-ahead.

    Keys: t/T temperature, g/G guidance, s/S steps, h/H shift, v/V gain, n new seed, r reanchor, ? health, q quit.
    docs/jam-protocol.schema.json describes the lines of --stdio.
    """
    if schema:
        import json

        from duotone.flow.protocol import schema as published

        typer.echo(json.dumps(published(), indent=2, sort_keys=True))
        return
    if clock is ClockName.host and not stdio:
        raise UsageError("--clock host needs a host: add --stdio.")
    if stdio:
        require_stdout()
    if sink not in ("null", "card") and not sink.startswith("card:"):
        check_outputs([sink])
    from duotone.flow import protocol
    from duotone.flow.desk import Desk

    model, loaded = load_flow(flow, device), load_codec(codec, device, dtype)
    jam = _Jam(stdio, seconds)
    with ExitStack() as stack:
        played = stack.enter_context(_sink(sink, loaded.spec.rate_out, clock))
        jam.desk = desk = Desk(model, loaded, played, jam.show, clock is ClockName.host)
        _listen(stack, jam.commands.put, osc, midi, input, loaded.spec.rate)
        desk.ready()
        if not stdio:
            stack.enter_context(_keys(jam))
            desk.do(protocol.Start(prompt=prompt, seed=seed, lookahead=lookahead))
        else:
            if prompt is not None:
                raise UsageError(
                    'With --stdio the prompt is part of the command start: {"type": "start", "prompt": ...}.'
                )
            threading.Thread(target=_read, args=(jam.commands,), daemon=True).start()
        jam.run()


def _listen(
    stack: ExitStack, put: Callable[[Any], None], osc: int | None, midi: str | None, microphone: str | None, rate: int
) -> None:
    """Take commands from OSC and MIDI, and sound at this rate from a microphone, where they are asked for, until the stack ends."""
    from duotone.cli.jam import remote

    if osc is not None:
        stack.callback(remote.listen_osc(osc, put, tell))
    if midi is not None:
        stack.callback(remote.listen_midi(midi, put))
    if microphone is not None:
        stack.callback(remote.listen_microphone(rate, microphone or None, put))


def _sink(name: str, rate: int, clock: ClockName) -> Any:
    from duotone.cli.jam.sinks import ClockSink, DeviceSink, FileSink

    now: Callable[[], float] | None = None if clock is ClockName.host else time.monotonic
    if name == "null":
        return ClockSink(rate, now)
    if name == "card" or name.startswith("card:"):
        if clock is ClockName.host:
            raise UsageError("A sound card drives its own clock. With --clock host use --sink null or a file.")
        return DeviceSink(rate, 2, name.partition(":")[2] or None)
    return FileSink(name, rate, 2, now)


def _read(commands: queue.Queue[Any]) -> None:
    """Lines of standard input, then None."""
    for line in sys.stdin.buffer:
        if line.strip():
            commands.put(line.decode("utf-8", "replace"))
    commands.put(None)


class _Jam:
    """The loop: commands as they come, chunks as they are due, events to where they belong."""

    desk: Desk

    def __init__(self, stdio: bool, seconds: float | None) -> None:
        self.stdio, self.seconds = stdio, seconds
        self.commands: queue.Queue[Any] = queue.Queue()
        self.over = False
        self._rate = 0
        self._meter = sys.stderr.isatty() and not stdio

    def run(self) -> None:
        """Until the session stops, standard input has ended and there is nothing left to do, or the user interrupts."""
        try:
            self._loop()
        finally:
            if self.desk.session is not None:
                self.desk.stop()

    def _loop(self) -> None:
        desk, ended = self.desk, False
        while not self.over:
            idle = not desk.due()
            try:
                command = self.commands.get(timeout=_WAIT) if idle else self.commands.get_nowait()
            except queue.Empty:
                command = ""
            if command is None:
                ended = True
            elif command != "":
                self._do(command)
                continue
            if ended and (desk.host or desk.session is None or self.seconds is None):
                break
            desk.work()
            if desk.session is not None and self._done(desk.heard):
                desk.stop()

    def _done(self, heard: int) -> bool:
        session = self.desk.session
        return self.seconds is not None and session is not None and heard >= self.seconds * session.rate

    def _do(self, command: Any) -> None:
        from duotone.errors import DuotoneError

        if isinstance(command, str) and len(command) == 1 and not self.stdio:
            from duotone.cli.jam.remote import of_key

            session = self.desk.session
            if session is None or (command := of_key(command, session.controls, session.seed)) is None:
                return
        if isinstance(command, str):
            self.desk.line(command)
            return
        try:
            self.desk.do(command)
        except (DuotoneError, OSError) as error:
            tell(f"error: {error}")

    def show(self, event: Any) -> None:
        """An event: a line of JSON on standard output, or a line for the eye on standard error."""
        if self.stdio:
            sys.stdout.write(event.model_dump_json() + "\n")
            sys.stdout.flush()
            return
        if event.type == "audio":
            if self._meter:
                typer.echo(
                    f"\r{_bar(event.peak)} {event.sample / self._rate:8.1f} s  slack {event.slack_seconds:5.2f} s ",
                    nl=False,
                    err=True,
                )
        elif event.type == "stopped":
            self.over = True
            self._sum(event)
        elif event.type == "ack" and event.command == "input":
            pass  # a microphone gives many a second
        elif event.type == "ready":
            self._rate = event.rate
        elif event.type == "error":
            self.over = True
            raise UsageError(event.message)
        else:
            tell(("\r" if self._meter else "") + _line(event, self._rate))

    def _sum(self, event: Any) -> None:
        from duotone.flow.desk import slack_percentile

        slack = self.desk.slack[1:]  # the first piece has no deadline
        tell(
            f"Stopped after {event.samples / self._rate:.1f} s: {event.chunks} chunks, {event.steps} steps, {event.evaluations} evaluations, "
            f"{event.underruns} underruns; slack at the deadline: median {slack_percentile(slack, 0.5):.2f} s, "
            f"99% above {slack_percentile(slack, 0.01):.2f} s."
        )


def _line(event: Any, rate: int) -> str:
    """An event in words."""
    if event.type == "started":
        return f"Playing; a control is heard after at most {event.latency_seconds:.2f} s."
    if event.type == "ack":
        values = ", ".join(f"{name} {value}" for name, value in event.values.items())
        return f"{event.command} {values}".rstrip() + f", heard from {event.sample / rate:.2f} s on"
    fields = {k: v for k, v in event.model_dump().items() if k not in ("type", "id")}
    return ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in fields.items())


def _bar(peak: float, width: int = 20) -> str:
    """A level meter, -60 to 0 dBFS."""
    import math

    level = max(0.0, 1 + math.log10(max(peak, 1e-6)) / 3)
    full = round(min(1.0, level) * width)
    return "#" * full + "." * (width - full)


class _keys:
    """Single keys of a terminal go to the queue while the block runs; nothing where standard input is no terminal."""

    def __init__(self, jam: _Jam) -> None:
        self._jam = jam
        self._before: Any = None

    def __enter__(self) -> _keys:
        if not sys.stdin.isatty():
            return self
        try:
            import termios
            import tty
        except ImportError:  # not on Windows: a line for each key
            tell("Keys are taken at the end of each line.")
        else:
            self._before = termios.tcgetattr(sys.stdin)
            tty.setcbreak(sys.stdin)
        threading.Thread(target=self._take, daemon=True).start()
        return self

    def _take(self) -> None:
        while key := sys.stdin.read(1):
            self._jam.commands.put(key)

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            import termios

            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._before)
