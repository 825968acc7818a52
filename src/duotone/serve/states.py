"""States of sessions whose connection was lost, or that ended with the service, under secret keys.

With a folder they outlive the process. They are kept for a while and in limited number; the oldest go first.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from duotone.atomic import write_bytes
from duotone.errors import FormatError, UsageError
from duotone.serve.refusal import Refusal

_NAME = re.compile(r"[0-9a-f]{64}\.state")


@dataclass(frozen=True)
class Kept:
    """A session's state, and the sound that was sent last: 16-bit frames `tail`, of which the first sample is at `place`."""

    client: str
    state: bytes
    place: int = 0
    tail: bytes = b""


def new_key() -> str:
    """A key that nobody guesses."""
    return secrets.token_hex(16)


class States:
    """At most `most` states, each for `seconds` of the clock `now`, which never jumps.

    The clock `wall`, which all processes share, is stored beside a state in the folder; it tells its age to the next process alone.
    """

    def __init__(
        self, most: int, seconds: float, now: Callable[[], float], wall: Callable[[], float], folder: str | None = None
    ) -> None:
        self.most, self.seconds, self.now, self.wall = most, seconds, now, wall
        self._kept: dict[str, tuple[float, Kept]] = {}  # in the order of their time
        self._folder = None if folder is None else Path(folder)
        if self._folder is not None:
            if self._folder.exists() and not self._folder.is_dir():
                raise UsageError(f"{folder} is a file, expected a folder for states (--state).")
            self._folder.mkdir(parents=True, exist_ok=True)
            self._read(self._folder)

    def __len__(self) -> int:
        self._sweep()
        return len(self._kept)

    def keep(self, key: str, kept: Kept) -> None:
        """Keep a state. Raises `OSError` where it cannot be stored in the folder; it is kept in memory then."""
        if self.most == 0:
            return
        name = _hashed(key)
        self._kept[name] = self.now(), kept
        self._sweep()
        if self._folder is not None:
            head = json.dumps(
                {"client": kept.client, "time": self.wall(), "place": kept.place, "tail": len(kept.tail)}
            ).encode()
            write_bytes(self._folder / f"{name}.state", len(head).to_bytes(4, "little") + head + kept.tail + kept.state)

    def take(self, key: str, client: str) -> Kept:
        """A state, which is not kept any longer. Raises `Refusal` if none is kept for this client under this key."""
        self._sweep()
        name = _hashed(key)
        found = self._kept.get(name)
        if found is None or found[1].client != client:
            raise Refusal(
                "No session is kept under this key: it was taken, or it is too long ago. Start a new one.",
                HTTPStatus.NOT_FOUND, limit="kept_minutes",
            )  # fmt: skip
        self._forget(name)
        return found[1]

    def _sweep(self) -> None:
        old = [name for name, (time, _) in self._kept.items() if self.now() - time > self.seconds]
        for name in [*old, *list(self._kept)[len(old) : max(0, len(self._kept) - self.most)]]:
            self._forget(name)

    def _forget(self, name: str) -> None:
        self._kept.pop(name, None)
        if self._folder is not None:
            (self._folder / f"{name}.state").unlink(missing_ok=True)

    def _read(self, folder: Path) -> None:
        """Take over what an earlier process left; other files are left alone."""
        found = []
        for path in folder.iterdir():
            if _NAME.fullmatch(path.name) and path.is_file() and not path.is_symlink():
                try:
                    found.append((*_parsed(path.read_bytes()), path.name.removesuffix(".state")))
                except (ValueError, KeyError, TypeError) as error:
                    raise FormatError(f"{path} holds no state of a session ({error!r}). Remove it.") from None
        for time, kept, name in sorted(found, key=lambda each: each[0]):
            age = max(0.0, self.wall() - time)  # it seems negative where the clock was set back
            self._kept[name] = self.now() - age, kept


def _parsed(data: bytes) -> tuple[float, Kept]:
    """The time and the state in a file."""
    size = 4 + int.from_bytes(data[:4], "little")
    head = json.loads(data[4:size])
    end = size + head["tail"]
    return head["time"], Kept(head["client"], data[end:], head["place"], data[size:end])


def _hashed(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
