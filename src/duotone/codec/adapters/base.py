"""Base classes of the adapters: loading a model, its two hashes, its device, and names on the Hub."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from duotone.codec.contract import Codec, as_dtype, resolve_device
from duotone.errors import UsageError, WeightsError
from duotone.spec import CodecSpec

Self = TypeVar("Self", bound="Adapter")


class Adapter(Codec):
    """A codec of another project. Subclasses define how a batch is encoded and decoded, and the spec."""

    kind: ClassVar[str]  #: its name here
    default: ClassVar[str]  #: the usual weights
    options: ClassVar[tuple[str, ...]] = ()  #: of `load`
    #: Beginnings of the names of the weights that decide latents and codes; empty where they cannot be told apart.
    deciding: ClassVar[tuple[str, ...]] = ()

    model: Any
    _device: torch.device

    @classmethod
    @abstractmethod
    def load(cls, name: str | None = None, device: str | torch.device = "cpu", **options: Any) -> Adapter:
        """Load a model's folder, or a name on the Hub; None: the usual weights.

        Raises `WeightsError` if it is not found or is another model, `UsageError` if a package is missing or
        an option is invalid.
        """

    def _identified(self, grid: CodecSpec, state: dict[str, Tensor], **options: Any) -> CodecSpec:
        """A spec with its two hashes, over its fields, the options and the weights."""
        deciding = {name: value for name, value in state.items() if name.startswith(self.deciding or "")}
        return replace(grid, fingerprint=digest(grid, options, state), space=digest(grid, options, deciding))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._device

    def to(self: Self, device: str | torch.device | None = None, dtype: torch.dtype | str | None = None) -> Self:
        """Move this codec to a device and number format (``"auto"``: float32), in place; its fingerprint does not change.

        Raises `UsageError` for a format that the codec does not support.
        """
        target = self._device if device is None else resolve_device(device)
        self._move(target, torch.float32 if dtype == "auto" else as_dtype(dtype))
        self._device = target
        return self

    @abstractmethod
    def _move(self, device: torch.device, dtype: torch.dtype | None) -> None:
        """Move the weights; `dtype` None leaves their format."""


class PretrainedCodec(Adapter):
    """A codec whose model is one module, loaded by a library from a folder or a name on the Hub."""

    model_class: ClassVar[str]  #: its name in that library
    library: ClassVar[str]

    def __init__(self, model: Any, name: str, device: str | torch.device = "cpu", **options: Any) -> None:
        self.model = model.float().eval().requires_grad_(False)
        self._device = torch.device("cpu")
        self.spec = self._identified(self._grid(model_name(name), model.config), model.state_dict(), **options)
        self.provenance = {"weights": name, "code": f"{self.library} {self._import().__version__}"}
        self.to(device)

    @classmethod
    def load(cls, name: str | None = None, device: str | torch.device = "cpu", **options: Any) -> PretrainedCodec:
        """Load a folder, or a name on the Hub.

        Raises `WeightsError` if it is not found or is another model, `UsageError` if a package is missing or
        an option is invalid.
        """
        wanted = name or cls.default
        library = cls._import()
        found = getattr(library, cls.model_class, None)
        if found is None:
            raise UsageError(
                f"{cls.library} {library.__version__} has no {cls.model_class}, which {cls.kind} needs. "
                f"Update it: pip install -U {cls.library}."
            )
        check_name(wanted, cls.default)
        try:
            model = cls._from(found, wanted)
        except ImportError as error:  # where a package is missing, transformers has a placeholder class
            raise UsageError(f"{cls.kind} cannot be loaded here: {_first_line(error)}") from None
        except Exception as error:
            known = isinstance(error, (OSError, ValueError)) or type(error).__name__ == "SafetensorError"  # a cut file
            if isinstance(error, WeightsError) or not known:
                raise
            raise WeightsError(f"{wanted} could not be loaded as {cls.kind}: {_first_line(error)}") from None
        return cls(model, wanted, device, **options)

    @classmethod
    @abstractmethod
    def _from(cls, found: Any, name: str) -> Any:
        """Load weights as the library's class `found`."""

    @classmethod
    def _import(cls) -> Any:
        """Import the library. Raises `UsageError` if it is not installed."""
        try:
            return cls._library()
        except ImportError:
            raise UsageError(f"{cls.kind} needs the package {cls.library}: pip install 'duotone[codecs]'.") from None

    @classmethod
    @abstractmethod
    def _library(cls) -> Any:
        """The library, imported when a codec is loaded."""

    @abstractmethod
    def _grid(self, name: str, config: Any) -> CodecSpec:
        """The spec without hashes."""

    def _move(self, device: torch.device, dtype: torch.dtype | None) -> None:
        self.model.to(device)
        if dtype not in (None, self.model.dtype):
            self.model.to(dtype)

    @property
    def encoding_format(self) -> str:
        """The number format of the weights."""
        return str(self.model.dtype).removeprefix("torch.")


def digest(grid: CodecSpec, options: dict[str, Any], weights: dict[str, Tensor]) -> str:
    """16 hexadecimal digits of a hash over a codec's kind and spec, its options and its weights in float32.

    The names of the weights are not included, since libraries rename modules from version to version.
    """
    names = ("family", "rate", "channels", "chunk", "steps", "codebooks", "latent", "scaled")
    text = json.dumps([[getattr(grid, name) for name in names], options], sort_keys=True)
    found = hashlib.blake2b(text.encode(), digest_size=8)
    for each in sorted(map(_digest_of, weights.values())):
        found.update(each)
    return found.hexdigest()


def _digest_of(tensor: Tensor) -> bytes:
    values = tensor.detach().cpu()
    values = values.float() if values.is_floating_point() else values.long()
    found = hashlib.blake2b(f"{list(values.shape)}".encode(), digest_size=16)
    found.update(values.contiguous().reshape(-1).numpy().data)
    return found.digest()


def louder(samples: Tensor, scale: Tensor) -> Tensor:
    """Multiply samples `[B, C, T]` by the loudness `[B, N]` of their chunk."""
    chunk = torch.arange(samples.shape[-1], device=samples.device) * scale.shape[-1] // samples.shape[-1]
    return samples * scale[:, None, chunk]


def options_of(kind: str, known: Iterable[str], given: dict[str, Any]) -> dict[str, Any]:
    """The options that are not None. Raises `UsageError` for one that the codec does not have, or that is not a number."""
    wanted = {name: value for name, value in given.items() if value is not None}
    unknown = [name.replace("_", "-") for name in wanted if name not in known]
    if unknown:
        has = f"it has {', '.join(name.replace('_', '-') for name in known)}" if known else "it has none"
        raise UsageError(f"{', '.join(unknown)} is not an option of {kind}; {has}. Leave it out.")
    for name, value in wanted.items():
        if isinstance(value, bool) or not isinstance(value, Real):
            raise UsageError(f"{name} got {value!r}, expected a number.")
    return wanted


def model_name(name: str) -> str:
    """A model's name in its spec: the last part of a folder's path, else the name itself."""
    return Path(name).resolve().name if Path(name).is_dir() else name


def is_hub_name(name: str) -> bool:
    """Whether a name may be one on the Hub: ``org/name``, where ``org`` is not a folder or file here."""
    org, slash, rest = name.partition("/")
    return bool(org and slash and rest) and "/" not in rest and org[0] not in ".~" and not Path(org).exists()


def check_name(name: str, default: str) -> None:
    """Raise `WeightsError` unless a name is a folder or may be a name on the Hub."""
    if Path(name).is_dir() or name == default or is_hub_name(name):
        return
    raise WeightsError(f"No model at {name}. Give a folder, or a name on the Hub such as {default}.")


def _first_line(error: Exception) -> str:
    """The first line of a message that is not empty."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
