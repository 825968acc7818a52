"""Documentation as tests run it: the commands of a page (lines that begin with ``$ ``) and its blocks of code, in miniature."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from duotone.cli.main import app

ROOT = Path(__file__).resolve().parents[1]
#: What makes a documented command small: further words, which take precedence over its own; the first key that it begins with counts.
Miniature = Mapping[str, Sequence[str]]
#: Of a flow's training.
TRAIN_FLOW = (
    "train.steps=1", "train.batch_size=1", "train.validation_batches=1", "train.clips=1", "train.listen_every=1",
    "train.precision=float32", "objective.draws=1", "objective.rollout_chunks=1", "data.chunks=2",
)  # fmt: skip


def page(name: str) -> str:
    """The text of a page below the root."""
    return (ROOT / name).read_text(encoding="utf-8")


def block_of(text: str, language: str, number: int = 0) -> str:
    """A block of a page, the first of its language by default."""
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)[number]


def code_of(text: str, number: int = 0) -> dict[str, Any]:
    """Run a Python block of a page, the first by default; returns its names."""
    names: dict[str, Any] = {}
    exec(compile(block_of(text, "python", number), "a page", "exec"), names)
    return names


def lines_of(text: str) -> list[str]:
    """The commands of a page."""
    return [line[2:] for line in text.splitlines() if line.startswith("$ ")]


def commands_of(text: str, count: int, miniature: Miniature | None = None) -> list[str]:
    """Run all commands of a page, which are so many; returns what each printed on standard output."""
    lines = lines_of(text)
    assert len(lines) == count
    return [run(line, miniature or {}) for line in lines]


def run(line: str, miniature: Miniature) -> str:
    """Run a command of a page in this process, with the words that make it small and ``< FILE``; returns its standard output."""
    name, command, *words = shlex.split(line)
    assert name == "duotone", line
    given = None
    if "<" in words:
        at = words.index("<")
        given = Path(words[at + 1]).read_bytes()
        del words[at : at + 2]
    more = next((more for start, more in miniature.items() if line.startswith(f"duotone {start}")), ())
    result = CliRunner().invoke(app, [command, *words, *more], input=given)
    assert result.exit_code == 0, f"{line}\n{result.stderr}\n{result.exception!r}"
    return result.stdout
