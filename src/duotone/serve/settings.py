"""Everything about the service that can be set, with every limit."""

from __future__ import annotations

import ipaddress

from pydantic import Field, model_validator

from duotone.config import Config


class Limits(Config):
    """What one client, or all together, may ask for; whoever meets a limit is told its name."""

    upload_bytes: int = Field(default=256 << 20, ge=1)  # of one request, and of what one session sends as metadata
    upload_seconds: float = Field(default=3600.0, gt=0)  # from the beginning of an upload to its end
    decoded_seconds: float = Field(default=3600.0, gt=0)  # of sound in one request, and of one encode or decode session
    decoded_bytes: int = Field(default=512 << 20, ge=1)  # of float32 samples held in memory: a file of a pair, a prompt
    prompt_seconds: float = Field(default=60.0, gt=0)  # of a longer prompt the end is used
    damages: int = Field(default=8, ge=1)  # places of a damaged .duo that info tells of; each may take a second
    compared_seconds: float = Field(default=120.0, gt=0)  # of sound that the studio takes at once, and Opus codes
    message_bytes: int = Field(default=1 << 20, ge=1024)  # of a message of a session
    session_minutes: float = Field(default=120.0, gt=0)
    sessions: int = Field(default=64, ge=1)  # at the same time
    sessions_per_token: int = Field(default=64, ge=1)  # the same, of one token
    requests: int = Field(default=16, ge=1)  # requests with files at the same time
    idle_seconds: float = Field(default=60.0, gt=0)  # without a byte from a client
    lookahead: int = Field(default=8, ge=1, le=64)  # chunks that a session may ask for
    waiting: int = Field(default=64, ge=1)  # messages of a session that wait to be worked on
    faults: int = Field(default=32, ge=1)  # errors of a session's messages, then it is closed
    kept_states: int = Field(default=64, ge=0)  # sessions whose connection was lost, or that ended with the service
    kept_minutes: float = Field(default=15.0, gt=0)


class Scheduling(Config):
    """How sessions share the device."""

    batch: int = Field(default=8, ge=1, le=64)  # rows of one evaluation
    #: Of the device's time that may be promised to sessions, by the 95th percentile; beyond 1 listeners may have to wait.
    share: float = Field(default=0.8, gt=0, le=100)
    retry_seconds: float = Field(default=5.0, gt=0)  # told to those who are refused
    measured: int = Field(default=256, ge=8)  # last evaluations of each size of batch from which p95 is taken


class ServeConfig(Config):
    """Address, models, who may connect, limits."""

    host: str = "127.0.0.1"
    port: int = Field(default=8777, ge=0, le=65535)
    codecs: tuple[str, ...] = Field(default=("tiny",), min_length=1)
    flow: str | None = None
    device: str = "cpu"
    dtype: str = "auto"
    tokens: tuple[str, ...] = ()  # who presents one of these may connect
    origins: tuple[str, ...] = ()  # of pages that may connect, besides the service's own
    state: str | None = None  # folder in which states of sessions outlive the process
    stop_seconds: float = Field(default=10.0, gt=0)  # for sessions to be told when the service stops
    limits: Limits = Limits()
    scheduling: Scheduling = Scheduling()

    @model_validator(mode="after")
    def _guarded(self) -> ServeConfig:
        if not self.loopback and not self.tokens:
            raise ValueError(f"host {self.host} can be reached from other machines: name tokens (--tokens FILE)")
        if any(len(token) < 16 or not token.isascii() or not token.isprintable() for token in self.tokens):
            raise ValueError("a token needs at least 16 printable ASCII characters")
        for origin in self.origins:
            scheme, mark, host = origin.partition("://")
            if scheme not in ("http", "https") or not mark or not host or "/" in host or "*" in host:
                raise ValueError(f"origin {origin!r} has to be like https://studio.example or http://localhost:8000")
        return self

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
