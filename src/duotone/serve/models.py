"""The models of the service: named at the start, loaded once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from duotone.codec.contract import Codec
from duotone.errors import UsageError, WeightsError
from duotone.flow.model import FlowModel
from duotone.flow.prompt import check_pair
from duotone.flow.weights import fingerprint
from duotone.hub import load
from duotone.serve.inside import columns, digits
from duotone.serve.settings import ServeConfig


@dataclass(frozen=True)
class Models:
    """Codecs by their names, the first one being the default, and perhaps a flow, which plays through the default codec."""

    codecs: dict[str, Codec]
    flow: FlowModel | None = None
    flow_name: str | None = None

    def __post_init__(self) -> None:
        if self.flow is not None:
            check_pair(self.flow, self.codec(None))

    def codec(self, name: str | None) -> Codec:
        """A codec by its name; the default without one. Raises `WeightsError` for another one."""
        if name is None:
            return next(iter(self.codecs.values()))
        if name not in self.codecs:
            raise WeightsError(
                f"No codec {name[:100]!r} was loaded when this service was started; there are {', '.join(self.codecs)}."
            )
        return self.codecs[name]

    def name_of(self, codec: Codec) -> str:
        """The name under which a codec was loaded."""
        return next(name for name, own in self.codecs.items() if own is codec)

    def maker(self, space: str) -> Codec:
        """The codec whose encodings are of this space, else the default one, which will say what is wrong."""
        return next((codec for codec in self.codecs.values() if codec.spec.space == space), self.codec(None))

    def playing(self) -> FlowModel:
        """The flow. Raises `WeightsError` where none was loaded."""
        if self.flow is None:
            raise WeightsError(
                "This service was started without a flow, which continue and jam need: duotone serve --flow NAME."
            )
        return self.flow

    def described(self) -> dict[str, Any]:
        """All of them as JSON values."""
        codecs = [
            {"name": name, **codec.spec.to_dict(), "parameters": codec.parameter_count(), "faces": list(codec.spec.faces),
             "bit_rate": codec.spec.bit_rate, "chunk_seconds": codec.spec.chunk_seconds, "options": options_of(codec),
             "columns": columns(codec.spec), "digits": digits(codec.spec)}
            for name, codec in self.codecs.items()
        ]  # fmt: skip
        flow = None
        if self.flow is not None:
            config = self.flow.config
            flow = {
                "name": self.flow_name, "fingerprint": fingerprint(self.flow), "tokens": config.tokens, "channels": config.channels,
                "context_chunks": config.context, "sampling": config.sampling.to_dict(),
                "parameters": sum(p.numel() for p in self.flow.parameters()),
            }  # fmt: skip
        return {"codecs": codecs, "flow": flow}


def options_of(codec: Codec) -> list[str]:
    """Which of the numbers of decoding a codec takes: steps, iterations."""
    return [name for name in ("steps", "iterations") if _takes(codec, name)]


def _takes(codec: Codec, option: str) -> bool:
    try:
        wishes: dict[str, Any] = {option: 1}
        codec.decode_stream(codec.source(), **wishes)
    except UsageError:
        return False
    return True


def load_models(config: ServeConfig, say: Callable[[str], object] | None = None) -> Models:
    """Load what a configuration names. Raises `UsageError` for what is no codec or no flow."""
    codecs: dict[str, Codec] = {}
    for name in config.codecs:
        found = load(name, config.device, config.dtype, say=say)
        if not isinstance(found, Codec):
            raise UsageError(f"{name} is {type(found).__name__}, expected a codec. Name a flow with --flow.")
        codecs[name.rstrip("/").rpartition("/")[2]] = found
    if len(codecs) < len(config.codecs):
        raise UsageError(f"Two of {', '.join(config.codecs)} end in the same name; the service cannot tell them apart.")
    flow = None
    if config.flow is not None:
        flow = load(config.flow, config.device, "float32", say=say)
        if not isinstance(flow, FlowModel):
            raise UsageError(f"{config.flow} is {type(flow).__name__}, expected a flow. Name codecs with --codec.")
    return Models(codecs, flow, config.flow)
