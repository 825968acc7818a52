"""A training recipe: all settings of a run in one frozen configuration. Duotone's own recipes are in `recipes/`."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BeforeValidator, SerializeAsAny, model_validator

from duotone.config import Config
from duotone.errors import ConfigError
from duotone.train import (  # noqa: F401
    adversarial,
    consistency,
    estimate,
    flow,
    lm_task,
    lycodec,
    lycodec_predictor,
)  # importing a file registers its kinds; import files of new objectives here
from duotone.train.sections import (
    DATA,
    MODELS,
    OBJECTIVES,
    CoDiCodecSection,
    ModelSection,
    ObjectiveSection,
    SoundSection,
)
from duotone.train.sections import DataSection as AnyDataSection
from duotone.train.settings import OptimSection, TrainSection

#: Objectives of which importing the file registers the kind.
_REGISTERED = (consistency.ConsistencySection, estimate.EstimateSection, adversarial.AdversarialSection)
#: The name of the section of sound in earlier versions, which had no other kind of data.
DataSection = SoundSection


class TrainRecipe(Config):
    """All settings of a run. `kind` selects the type of the sections `model`, `objective` and `data`."""

    model: Annotated[SerializeAsAny[ModelSection], BeforeValidator(MODELS.make)] = CoDiCodecSection()
    objective: Annotated[SerializeAsAny[ObjectiveSection], BeforeValidator(OBJECTIVES.make)] = (
        consistency.ConsistencySection()
    )
    data: Annotated[SerializeAsAny[AnyDataSection], BeforeValidator(DATA.make)] = SoundSection()
    optim: OptimSection = OptimSection()
    train: TrainSection = TrainSection()

    @model_validator(mode="before")
    @classmethod
    def _of_earlier_versions(cls, values: Any) -> Any:
        """Convert recipes of earlier versions, in which the model section is called ``codec`` and has no kind."""
        if not isinstance(values, dict) or "codec" not in values:
            return values
        if "model" in values or not isinstance(values["codec"], dict):
            raise ConfigError("the section `codec` is now called `model`. Write it as model: {kind: codicodec, ...}.")
        rest = {key: value for key, value in values.items() if key != "codec"}
        return {"model": {"kind": "codicodec", **values["codec"]}, **rest}

    @classmethod
    def load(cls, source: str | Path, overrides: list[str] | None = None) -> TrainRecipe:
        """Read a file, or the bundled recipe of that name, and apply overrides such as ``train.steps=20``.

        Raises `ConfigError` for a missing file, an unknown key, a value out of range.
        """
        values = cls.read(_find(source)).to_dict()
        parsed = [_override(text) for text in overrides or []]
        for key, value in sorted(parsed, key=lambda pair: not pair[0].endswith(".kind")):  # kinds first
            _assign(values, key, value)
        return cls.parse(values, "the recipe with its overrides")

    def seconds(self) -> float | None:
        """Duration of an example in seconds; None if examples are not audio."""
        return self.objective.seconds(self.model)


def bundled() -> dict[str, Path]:
    """The recipes that come with Duotone, by name."""
    root = Path(str(files("duotone") / "recipes"))
    return {path.stem: path for path in sorted(root.glob("*.yaml"))}


def _find(source: str | Path) -> Path:
    path, known = Path(source), bundled()
    if path.is_file():
        return path
    if str(source) in known:
        return known[str(source)]
    raise ConfigError(
        f"There is no recipe {source}. Give the path of a YAML or JSON file, or one of: {', '.join(known)}."
    )


def _override(text: str) -> tuple[str, Any]:
    """Key and value of an override."""
    key, separator, value = text.partition("=")
    if not separator:
        raise ConfigError(f"Override got {text!r}, expected key=value such as train.steps=20.")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigError(f"Override got {text!r}, whose value is not YAML. Check its quotes and brackets.") from None
    key = key.strip()
    return (f"model{key.removeprefix('codec')}" if key.startswith("codec.") else key), parsed


def _assign(values: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key; a section that gets another kind starts from that kind's defaults."""
    path = key.split(".")
    kinds = {kinds.section: kinds for kinds in (MODELS, OBJECTIVES, DATA)}
    if path[1:] == ["kind"] and path[0] in kinds:
        if values[path[0]]["kind"] != value:
            values[path[0]] = kinds[path[0]].make({"kind": value}).to_dict()
        return
    below: Any = values
    for i, part in enumerate(path):
        free = path[:2] == ["model", "replace"] and i > 1  # any field of the model's configuration
        if not isinstance(below, dict) or (part not in below and not free):
            known = ", ".join(below) if isinstance(below, dict) else "nothing below it"
            raise ConfigError(f"Override got the unknown key {key!r}; there: {known}.")
        if i == len(path) - 1:
            below[part] = value
        else:
            below = below.setdefault(part, {})
