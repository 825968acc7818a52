"""What a client says first."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from duotone.config import Config
from duotone.flow.session import LOOKAHEAD
from duotone.spec import Face

Kind = Literal["encode", "decode", "continue", "jam"]
FLOWING = ("continue", "jam")


class Options(Config):
    """Options of decoding; which of them a codec has is told by its spec."""

    strategy: str | None = None
    steps: int | None = None
    iterations: int | None = None


class Hello(Config):
    """The handshake of a client."""

    kind: Kind
    token: str | None = None
    model: str | None = None
    rate: int | None = None
    face: Face | None = None
    seed: int = 0
    lookahead: int = Field(default=LOOKAHEAD, ge=1)
    options: Options = Options()
    resume: str | None = None
    received: int = Field(default=0, ge=0)
