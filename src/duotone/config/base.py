"""The base of configurations: frozen, validated, to and from YAML and JSON; unknown keys are refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from duotone.errors import ConfigError

Self = TypeVar("Self", bound="Config")


class Config(BaseModel):
    """Base of every configuration: immutable, strict about keys, and readable from YAML or JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def parse(cls: type[Self], values: dict[str, Any], where: str = "configuration") -> Self:
        """Validate a plain dictionary. Raises `ConfigError` naming each offending key."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            lines = [f"  {'.'.join(map(str, e['loc'])) or '(whole)'}: {e['msg']}" for e in error.errors()]
            known = ", ".join(cls.model_fields)
            raise ConfigError(f"{where} is not valid:\n" + "\n".join(lines) + f"\nKnown keys: {known}.") from None

    def model_copy(self: Self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with other values, validated as a whole. Raises `ConfigError` naming each offending key.

        Pydantic's own does not validate: values that do not fit together came to light as errors of tensors, far away.
        """
        copied = super().model_copy(deep=deep)
        if not update:
            return copied
        values = {name: getattr(copied, name) for name in copied.model_fields_set}
        return type(self).parse({**values, **update}, f"The changed {type(self).__name__}")

    @classmethod
    def read(cls: type[Self], path: str | Path) -> Self:
        """Read a YAML or JSON file. Raises `ConfigError` when it is missing, not a mapping, or not valid."""
        file = Path(path)
        if not file.is_file():
            raise ConfigError(f"No configuration file at {file}. Give the path of a YAML or JSON file.")
        try:
            text = file.read_text(encoding="utf-8")
            # To YAML, the 2e-05 of JSON is a text: a number in YAML has a point.
            values = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
        except (yaml.YAMLError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ConfigError(f"{file} is neither YAML nor JSON: {error}") from None
        if not isinstance(values, dict):
            raise ConfigError(f"{file} holds {type(values).__name__}, expected a mapping of keys to values.")
        return cls.parse(values, str(file))

    def to_dict(self) -> dict[str, Any]:
        """The configuration as plain JSON values."""
        return self.model_dump(mode="json")

    def to_json(self) -> str:
        """The configuration as indented JSON with sorted keys."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True)


class NoiseConfig(Config):
    """Noise levels of the consistency model (EDM, arXiv 2206.00364; page *Numbers*)."""

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    sigma_data: float = 0.5
    rho: float = 7.0
