"""What weights tell of the trainings before their own: `began_from` in their provenance, told in cards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Stage:
    """Weights that a training began from: how they are named, and what they tell of their own training."""

    name: str
    provenance: Mapping[str, Any]

    @property
    def trained(self) -> bool:
        """Whether the weights tell how they were trained."""
        return "steps" in self.provenance

    def told(self, length: str | None = None, more: str = "") -> str:
        """A sentence; `length` says how long the training was (default: its steps), `more` ends the sentence."""
        if not self.trained:
            source = self.provenance.get("weights")
            return f"Began from {self.name}" + (f" ({source})." if source else ".")
        minutes = self.provenance.get("minutes")
        hours = "an unknown time" if minutes is None else f"{minutes / 60:.2f} hours"
        machine = self.provenance.get("machine", "a machine that was not noted")
        length = length or f"{self.provenance['steps']} steps"
        return f"Began from {self.name}: {length} in {hours} on {machine}{more}."


def stages_before(provenance: Mapping[str, Any]) -> list[Stage]:
    """The trainings before the one of this provenance, the last first; older weights know no more than a name."""
    began = provenance.get("began_from")
    if not began:
        return []
    if isinstance(began, str):
        return [Stage(began, {})]
    return [Stage(f"`{began['fingerprint']}`", began["provenance"]), *stages_before(began["provenance"])]
