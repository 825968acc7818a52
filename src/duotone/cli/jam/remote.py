"""Commands from outside: keys of the terminal, OSC messages, MIDI, and a microphone. Each becomes a command of the protocol.

OSC: ``/duotone/set/NAME value...`` (``/duotone/set/channel_bias/12 0.5`` for an element), ``/duotone/reseed seed``,
``/duotone/reanchor``, ``/duotone/health``, ``/duotone/stop``.
MIDI: controllers in `CONTROLLERS` over their ranges, notes are seeds, program change 0 is reanchor.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import numpy as np

from duotone.errors import DuotoneError, UsageError
from duotone.flow import protocol as p
from duotone.flow.controls import VECTORS, Changes, Controls

Put = Callable[[Any], None]
#: Key -> control and step; capitals go down.
KEYS = {
    "t": ("temperature", 0.05),
    "g": ("guidance", 0.25),
    "s": ("steps", 1),
    "h": ("shift", 0.25),
    "v": ("gain", 0.1),
}
KEY_HELP = "t/T temperature, g/G guidance, s/S steps, h/H shift, v/V gain, n new seed, r reanchor, ? health, q quit"
#: MIDI controller -> control and its range.
CONTROLLERS = {
    1: ("temperature", 0.0, 2.0),
    7: ("gain", 0.0, 2.0),
    71: ("guidance", 0.0, 4.0),
    74: ("shift", 0.05, 6.0),
    75: ("steps", 1, 32),
}


def of_key(key: str, controls: Controls, seed: int) -> Any:
    """The command of a key, given the controls and the seed of now; None for other keys."""
    if key in ("q", "\x03", "\x04"):
        return p.Stop()
    if key == "n":
        return p.Reseed(seed=seed + 1)
    if key == "r":
        return p.Reanchor()
    if key == "?":
        return p.AskHealth()
    if key.lower() not in KEYS:
        return None
    name, step = KEYS[key.lower()]
    now = controls.gain if name == "gain" else getattr(controls.sampling, name)
    value = now + (step if key.islower() else -step)
    low, high = {"temperature": (0, 10), "guidance": (0, 20), "steps": (1, 64), "shift": (0.05, 20), "gain": (0, 16)}[
        name
    ]
    return p.Set(controls=Changes.parse({name: round(min(high, max(low, value)), 4)}))


def of_osc(address: str, values: tuple[Any, ...]) -> Any:
    """The command of an OSC message. Raises `UsageError` or `ConfigError` for what is none."""
    parts = address.strip("/").split("/")
    if parts[:1] != ["duotone"] or len(parts) < 2:
        raise UsageError(f"OSC got {address}, expected /duotone/set/NAME, /duotone/reseed, reanchor, health or stop.")
    if parts[1] == "set" and len(parts) in (3, 4) and values:
        value: Any = values[0] if len(values) == 1 else tuple(values)
        if len(parts) == 4:
            if parts[2] not in VECTORS or not parts[3].isdigit():
                raise UsageError(f"OSC got {address}, expected an element such as /duotone/set/{VECTORS[0]}/0.")
            value = {int(parts[3]): value}
        return p.Set(controls=Changes.parse({parts[2]: value}, f"OSC {address}"))
    if parts[1] == "reseed" and len(values) == 1:
        return p.Reseed(seed=int(values[0]))
    simple: dict[str, Callable[[], Any]] = {"reanchor": p.Reanchor, "health": p.AskHealth, "stop": p.Stop}
    if len(parts) == 2 and parts[1] in simple:
        return simple[parts[1]]()
    raise UsageError(
        f"OSC got {address} with {len(values)} values, expected set/NAME, reseed, reanchor, health or stop."
    )


def of_midi(message: Any) -> Any:
    """The command of a MIDI message of `mido`; None for messages without one."""
    if message.type == "control_change" and message.control in CONTROLLERS:
        name, low, high = CONTROLLERS[message.control]
        value = low + (high - low) * message.value / 127
        return p.Set(controls=Changes.parse({name: round(value) if name == "steps" else value}))
    if message.type == "note_on" and message.velocity > 0:
        return p.Reseed(seed=message.note)
    if message.type == "program_change" and message.program == 0:
        return p.Reanchor()
    return None


def listen_osc(port: int, put: Put, warn: Callable[[str], None]) -> Callable[[], None]:
    """Listen for OSC on this machine's port; returns what ends it. Raises `UsageError` without python-osc, or for a port in use."""
    import threading

    try:
        from pythonosc.dispatcher import Dispatcher
        from pythonosc.osc_server import ThreadingOSCUDPServer
    except ImportError:
        raise UsageError('--osc needs the package python-osc: pip install "duotone[osc]".') from None

    def take(address: str, *values: Any) -> None:
        try:
            put(of_osc(address, values))
        except (DuotoneError, ValueError, TypeError) as error:
            warn(str(error))

    dispatcher = Dispatcher()
    dispatcher.set_default_handler(take)
    try:
        server = ThreadingOSCUDPServer(("127.0.0.1", port), dispatcher)
    except OSError as error:
        raise UsageError(f"--osc cannot listen on port {port} ({error.strerror}). Choose another port.") from None
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def close() -> None:
        server.shutdown()
        server.server_close()

    return close


def listen_midi(name: str, put: Put) -> Callable[[], None]:
    """Listen to a MIDI input whose name begins so; returns what ends it. Raises `UsageError` without mido or such an input."""
    try:
        import mido

        names = mido.get_input_names()
    except ImportError as error:
        raise UsageError(
            f'--midi needs the packages mido and python-rtmidi ({error}): pip install "duotone[midi]".'
        ) from None
    except OSError as error:
        raise UsageError(f"--midi found no MIDI system ({error}). Leave it out.") from None
    found = next((each for each in names if each.startswith(name)), None)
    if found is None:
        raise UsageError(f"--midi got {name!r}, and the inputs are: {', '.join(names) or 'none'}.")

    def take(message: Any) -> None:
        command = of_midi(message)
        if command is not None:
            put(command)

    port = mido.open_input(found, callback=take)
    return lambda: port.close()


def listen_microphone(rate: int, device: str | None, put: Put) -> Callable[[], None]:
    """Push what a microphone hears as input; returns what ends it. Raises `UsageError` without a sound card."""
    from duotone.cli.jam.sinks import device_of, sound_package

    sounddevice = sound_package()

    def take(block: Any, frames: int, when: Any, status: Any) -> None:
        data = (np.clip(block[:, 0], -1, 1) * 32767).astype("<i2").tobytes()
        put(p.Input(samples=base64.b64encode(data).decode()))

    try:
        stream = sounddevice.InputStream(
            samplerate=rate, channels=1, dtype="float32", device=device_of(device), callback=take
        )
        stream.start()
    except (sounddevice.PortAudioError, ValueError) as error:
        raise UsageError(f"No microphone could be opened ({error}). Leave out --input.") from None
    return lambda: stream.close()
