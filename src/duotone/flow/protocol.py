"""The control protocol of sessions: one JSON object a line, commands in and events out; `schema` publishes it.

A command may have an `id`, which its answer repeats. Every command is answered by exactly one event: `ack`, or the event of its own
name, or `error`. By themselves come `audio`, `stopped`, and `health` when the music begins to seem stuck. Samples count from the beginning of the session's sound.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from duotone.config import Config
from duotone.errors import UsageError
from duotone.flow.controls import Changes
from duotone.flow.session import FADE, LOOKAHEAD

VERSION = 1
Id = int | str | None


class _Command(Config):
    id: Id = None


class Start(_Command):
    """Open a session and begin to play; one that plays is stopped first. Answer: started."""

    type: Literal["start"] = "start"
    prompt: str | None = Field(default=None, description="a sound file or .duo to continue")
    seed: int = 0
    lookahead: int = Field(default=LOOKAHEAD, ge=1, le=64, description="chunks that may be made before they are heard")
    include_prompt: bool = Field(default=False, description="whether the prompt is heard first")
    controls: Changes = Field(default_factory=Changes, description="controls to begin with")
    audio: bool = Field(default=False, description="whether audio events hold the samples")


class Stop(_Command):
    """Stop the session. Answer: stopped."""

    type: Literal["stop"] = "stop"


class Set(_Command):
    """Change controls. Answer: ack, with the sample from which on they are heard."""

    type: Literal["set"] = "set"
    controls: Changes


class Reseed(_Command):
    """Go on with another seed, crossfaded. Answer: ack, with the sample at which the fade begins."""

    type: Literal["reseed"] = "reseed"
    seed: int
    fade: float = Field(default=FADE, ge=0, le=60, description="seconds, at most a chunk")


class Reanchor(_Command):
    """Go back to the prompt's context, crossfaded. Answer: ack, with the sample at which the fade begins."""

    type: Literal["reanchor"] = "reanchor"
    fade: float = Field(default=FADE, ge=0, le=60, description="seconds, at most a chunk")


class Input(_Command):
    """The user's sound, at the codec's rate; its chunks stand in the context in place of ours. Answer: ack."""

    type: Literal["input"] = "input"
    samples: str = Field(description="16-bit little-endian samples, channels interleaved, in base64")
    channels: Literal[1, 2] = 1
    at: int | None = Field(
        default=None, description="sample that was heard with its first; by default it follows the last block"
    )


class Step(_Command):
    """Make and play so many chunks at once; only where the host drives the clock. Answer: ack."""

    type: Literal["step"] = "step"
    chunks: int = Field(default=1, ge=1, le=100_000)


class Export(_Command):
    """Take the session's state out, into a file or into the answer. Answer: state."""

    type: Literal["export"] = "export"
    path: str | None = None


class Import(_Command):
    """Go on from a state, from a file or from the command. Answer: started."""

    type: Literal["import"] = "import"
    path: str | None = None
    state: str | None = Field(default=None, description="the bytes in base64")
    audio: bool = Field(default=False, description="whether audio events hold the samples")


class AskHealth(_Command):
    """Ask how the music is. Answer: health."""

    type: Literal["health"] = "health"


Command = Annotated[
    Start | Stop | Set | Reseed | Reanchor | Input | Step | Export | Import | AskHealth, Field(discriminator="type")
]


class _Event(Config):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Ready(_Event):
    """The first event: what is loaded."""

    type: Literal["ready"] = "ready"
    version: int = VERSION
    flow: str = Field(description="fingerprint")
    codec: str = Field(description="fingerprint")
    rate: int
    channels: int
    chunk_seconds: float
    tokens: int = Field(description="summary tokens of a chunk")
    token_channels: int
    solvers: tuple[str, ...]


class Started(_Event):
    """A session plays."""

    type: Literal["started"] = "started"
    id: Id = None
    sample: int = Field(description="samples made so far")
    prompt_chunks: int = Field(description="chunks of the prompt that are used, from its end")
    prompt_left_out: float = Field(
        default=0.0,
        description="seconds at the beginning of a prompt that is longer than the host takes, which are not used",
    )
    lookahead: int
    latency_seconds: float = Field(description="from a control to the ear, at most: look-ahead, one chunk, buffer")
    controls: dict[str, Any] = Field(description="all controls as they are set")


class Ack(_Event):
    """A command was carried out."""

    type: Literal["ack"] = "ack"
    id: Id = None
    command: str
    sample: int = Field(description="from this sample on it is heard")
    values: dict[str, Any] = Field(default_factory=dict, description="the controls that were changed")


class Audio(_Event):
    """A piece was made and handed to the player."""

    type: Literal["audio"] = "audio"
    sample: int = Field(description="its first sample")
    count: int
    heard: int = Field(description="samples that were heard by then")
    peak: float
    slack_seconds: float = Field(description="sound that was unheard when it came: the time left to its deadline")
    samples: str | None = Field(default=None, description="16-bit little-endian, channels interleaved, base64")


class HealthEvent(_Event):
    """Figures of the last chunks."""

    type: Literal["health"] = "health"
    id: Id = None
    loudness: float = Field(description="of the last chunk before the gain, dBFS")
    similarity: float
    lag: int
    deviation: float
    periodicity: float
    period: float
    stuck: str | None
    replaced: int
    placed: int = Field(default=0, description="chunks of input that stood in the context in place of ours")
    late: int = Field(description="chunks of input that came too late")
    underruns: int = Field(description="times that the player waited for sound")


class State(_Event):
    """The session's state."""

    type: Literal["state"] = "state"
    id: Id = None
    path: str | None = None
    state: str | None = Field(default=None, description="the bytes in base64")
    sample: int


class Stopped(_Event):
    """A session has ended."""

    type: Literal["stopped"] = "stopped"
    id: Id = None
    samples: int
    chunks: int
    steps: int
    evaluations: int
    underruns: int


class Error(_Event):
    """A command was not carried out, or the session ended by itself; nothing else has changed."""

    type: Literal["error"] = "error"
    id: Id = None
    message: str
    exit_code: int


Event = Annotated[Ready | Started | Ack | Audio | HealthEvent | State | Stopped | Error, Field(discriminator="type")]
_COMMANDS: TypeAdapter[Any] = TypeAdapter(Command)
_EVENTS: TypeAdapter[Any] = TypeAdapter(Event)


def parse(line: str) -> Any:
    """A command from a line of JSON. Raises `UsageError` that names what is wrong."""
    try:
        return _COMMANDS.validate_json(line)
    except ValidationError as error:
        found = [f"{'.'.join(map(str, e['loc'])) or 'the line'}: {e['msg']}" for e in error.errors()]
        raise UsageError(f"This is no command of the protocol: {'; '.join(found[:5])}.") from None


def parse_event(line: str) -> Any:
    """An event from a line of JSON. Raises `UsageError` that names what is wrong."""
    try:
        return _EVENTS.validate_json(line)
    except ValidationError as error:
        raise UsageError(f"This is no event of the protocol: {error.errors()[0]['msg']}.") from None


def identity(line: str) -> Id:
    """The `id` of a line that may be no command, for the answer."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    own = found.get("id") if isinstance(found, dict) else None
    return own if isinstance(own, int | str) and not isinstance(own, bool) else None


def schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of commands and events."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Duotone session protocol {VERSION}",
        "description": "One JSON object a line.",
        "properties": {
            "command": _COMMANDS.json_schema(ref_template="#/$defs/{model}"),
            "event": _EVENTS.json_schema(ref_template="#/$defs/{model}", mode="serialization"),
        },
    }
