"""Hashes that identify codecs, over configurations and weights."""

from __future__ import annotations

import hashlib
from typing import Any

from torch import Tensor


def digest(text: str, weights: dict[str, Tensor]) -> str:
    """16 hexadecimal digits of a hash over a text and every tensor, with its name, in float32."""
    found = hashlib.blake2b(text.encode(), digest_size=8)
    for name, tensor in sorted(weights.items()):
        found.update(name.encode())
        found.update(tensor.detach().float().cpu().contiguous().numpy().data)
    return found.hexdigest()


def beyond_defaults(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """The values that differ from their defaults, in nested ones too: a later field with a default changes no hash."""
    kept = {}
    for key, value in values.items():
        if value == defaults.get(key):
            continue
        nested = isinstance(value, dict) and isinstance(defaults.get(key), dict)
        kept[key] = beyond_defaults(value, defaults[key]) if nested else value
    return kept
