"""Which material belongs to training and which to evaluation: the sections of ``split.yaml``, the one home of these lists."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import yaml


@cache
def section(name: str) -> Any:
    """A section of ``split.yaml``, as YAML values (not to be changed). Raises `KeyError` for a section that is not there."""
    return yaml.safe_load((files("duotone.audio") / "split.yaml").read_text(encoding="utf-8"))[name]
