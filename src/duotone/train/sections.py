"""The sections of a recipe whose type is selected by ``kind``: model, objective and data.

A section is a frozen configuration. A new kind is a subclass that is registered::

    @OBJECTIVES.register
    class FlowSection(ObjectiveSection):
        kind: Literal["flow"] = "flow"
        ...
        def task(self, parts: Parts) -> Task: ...

Import the file that defines it in `recipe`, so that recipes can use it; the loop needs no change.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

from pydantic import Field

from duotone.config import BandsConfig, CoDiCodecConfig, Config, codicodec_config, preset
from duotone.errors import ConfigError
from duotone.train.settings import TrainSection
from duotone.train.task import Task


class ModelSection(Config):
    """Which network to train; a subclass for each kind."""

    kind: str


class DataSection(Config):
    """The training data; a subclass for each kind."""

    kind: str
    #: Fields that change how fast data is read, not what is read: a run may be resumed with others.
    free: ClassVar[tuple[str, ...]] = ()


@dataclass(frozen=True)
class Warn:
    """A metric of the log, when its value is bad, and the advice to print."""

    metric: str
    bad: Callable[[float], bool]
    advice: str


class ObjectiveSection(Config, ABC):
    """The training objective; a subclass for each kind. It builds the task."""

    kind: str
    warnings: ClassVar[tuple[Warn, ...]] = ()

    @abstractmethod
    def task(self, parts: Parts) -> Task:
        """The task of a run. Raises `ConfigError` for a model or data that this objective cannot train on."""

    def seconds(self, model: ModelSection) -> float | None:
        """Duration of an example in seconds, for the display; None if examples are not audio."""
        return None


M = TypeVar("M", bound=ModelSection)
D = TypeVar("D", bound=DataSection)


@dataclass(frozen=True)
class Parts:
    """What a task is built from: the recipe's other sections, and the caller's functions."""

    model: ModelSection
    data: DataSection
    train: TrainSection
    recipe: dict[str, Any]  #: the whole recipe, for provenance
    changes: list[dict[str, Any]]  #: of the recipe since the run began, for provenance
    sources: tuple[str, ...]  #: folders, globs, lists, shards, files: see `sources.find`
    run: Path
    fresh: bool  #: whether the run has no checkpoint yet
    progress: Callable[[int, int], None] | None = None
    load: Callable[[str], Any] | None = None
    measure: Callable[[Any, Any], dict[str, float]] | None = None
    picture: Callable[[Any], bytes] | None = None

    def of_kinds(self, objective: str, model: type[M], data: type[D]) -> tuple[M, D]:
        """The sections of model and data. Raises `ConfigError` where they are of other kinds than the objective trains and takes."""
        if isinstance(self.model, model) and isinstance(self.data, data):
            return self.model, self.data
        kinds = [section.model_fields["kind"].default for section in (model, data)]
        raise ConfigError(
            f"objective.kind {objective} trains model.kind {kinds[0]} on data.kind {kinds[1]}; the recipe has {self.model.kind} and "
            f"{self.data.kind}. Choose another objective, or these kinds."
        )


S = TypeVar("S", bound=Config)


class Kinds(Generic[S]):
    """The kinds that a section of the recipe can have, by name."""

    def __init__(self, section: str, base: type[S], default: str) -> None:
        self.section, self.base, self.default = section, base, default
        self.known: dict[str, type[S]] = {}

    def register(self, kind: type[S]) -> type[S]:
        """Register a kind under the default of its field `kind`; usable as a decorator."""
        self.known[kind.model_fields["kind"].default] = kind
        return kind

    def make(self, values: Any) -> S:
        """A section from plain values, of the kind that they name. Raises `ConfigError` for an unknown kind."""
        if isinstance(values, self.base):
            return values
        if not isinstance(values, dict):
            raise ConfigError(f"{self.section} got {values!r}, expected keys and values, such as kind: {self.default}.")
        kind = values.get("kind", self.default)
        if kind not in self.known:
            raise ConfigError(f"{self.section}.kind got {kind!r}, expected one of {', '.join(sorted(self.known))}.")
        return self.known[kind].model_validate(values)


MODELS: Kinds[ModelSection] = Kinds("model", ModelSection, "codicodec")
OBJECTIVES: Kinds[ObjectiveSection] = Kinds("objective", ObjectiveSection, "consistency")  # type: ignore[type-abstract]
DATA: Kinds[DataSection] = Kinds("data", DataSection, "sound")


@MODELS.register
class CoDiCodecSection(ModelSection):
    """A CoDiCodec: a preset, with any of its fields replaced; from random weights or from those of a codec."""

    kind: Literal["codicodec"] = "codicodec"
    preset: str = "tiny"
    replace: dict[str, Any] = Field(default_factory=dict)
    start_from: str | None = None  # a codec to fine-tune: bundled name, folder, published .pt, or org/name on the Hub

    def build(self) -> CoDiCodecConfig | BandsConfig:
        """The network's configuration. Raises `ConfigError` for an unknown preset or field."""
        return codicodec_config({**preset(self.preset).to_dict(), **self.replace}, "model.replace")


@DATA.register
class SoundSection(DataSection):
    """Audio files: which of them are used, and how crops are taken."""

    free: ClassVar[tuple[str, ...]] = ("workers",)

    kind: Literal["sound"] = "sound"
    mixing_share: float = Field(default=0.5, ge=0, le=1)  # share of examples that are the sum of two crops
    gain_db: tuple[float, float] = (-6.0, 3.0)
    swap_share: float = Field(default=0.0, ge=0, le=1)  # share of crops whose channels are exchanged
    balance: Literal["seconds", "sources"] = "seconds"  # sources: each source that is given is heard equally often
    level_db: float | None = None  # normalise every file to this loudness (RMS, dBFS) before the random gain
    silence_db: float = -60.0  # crops below this are drawn again; files below it everywhere are left out
    clipped_share_max: float = Field(default=0.02, ge=0, le=1)  # files with more samples at full scale are left out
    validation: str | tuple[str, ...] | None = (
        None  # folders, globs, lists or shards to validate on; replaces the share
    )
    validation_share: float = Field(default=0.05, ge=0, lt=1)
    workers: int = Field(default=4, ge=1)  # threads that read and decode
