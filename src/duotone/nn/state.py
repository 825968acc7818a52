"""Named tensors: read from safetensors files, and fitted into networks."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from duotone.errors import WeightsError


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, on the CPU. Raises `WeightsError` for a damaged one."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except SafetensorError as error:
        raise WeightsError(
            f"{path} is damaged or not a safetensors file ({error}). Download or export it again."
        ) from None


def fill(network: nn.Module, state: dict[str, Tensor], where: str) -> None:
    """Copy tensors into a network. Raises `WeightsError` naming what is missing, unexpected or misshapen."""
    wanted = network.state_dict()
    missing = sorted(set(wanted) - set(state))
    unexpected = sorted(set(state) - set(wanted))
    wrong = [
        f"{name}: {tuple(state[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in sorted(set(wanted) & set(state))
        if state[name].shape != wanted[name].shape
    ]
    if missing or unexpected or wrong:
        lines = [f"{where} does not fit the configuration."]
        for title, names in (("missing", missing), ("unexpected", unexpected), ("misshapen", wrong)):
            if names:
                lines.append(f"  {len(names)} {title}: " + "; ".join(names[:5]) + (" ..." if len(names) > 5 else ""))
        raise WeightsError("\n".join(lines))
    network.load_state_dict({name: tensor.to(wanted[name].dtype) for name, tensor in state.items()})
