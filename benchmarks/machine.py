"""What the benchmarks ran on, and where their results go: `describe()` for JSON, `markdown()` for a page, `record()`.

Names no user, host or path.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from duotone.atomic import write_json, write_text
from duotone.nn import native

#: Instruction sets that decide how fast a network runs here, as /proc/cpuinfo spells them.
FLAGS = (
    "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx_vnni",
    "amx_tile", "amx_bf16", "amx_int8", "neon", "asimd", "sve", "bf16", "i8mm",
)  # fmt: skip
RESULTS = Path(__file__).resolve().parent / "results"


def command(arguments: Sequence[str] | None = None, script: str | None = None) -> str:
    """The command as it was typed, absolute paths shortened to their last part so that none of this machine shows."""
    words = []
    for word in sys.argv[1:] if arguments is None else arguments:
        option, sign, value = word.rpartition("=")
        words.append(f"{option}{sign}{Path(value).name}" if os.path.isabs(value) else word)
    return shlex.join(["python", f"benchmarks/{Path(script or sys.argv[0]).name}", *words])


def record(name: str, document: dict[str, Any], page: Callable[[dict[str, Any]], str], folder: Path = RESULTS) -> None:
    """Write NAME.json, and NAME.md as `page` makes it of the same document, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{name}.json", document)
    write_text(folder / f"{name}.md", page(document))


def read(name: str, folder: Path = RESULTS) -> dict[str, Any]:
    """What `record` wrote last; empty if there is nothing yet."""
    path = folder / f"{name}.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def describe() -> dict[str, Any]:
    """CPU model, usable cores, instruction sets, memory, GPU, and the versions that matter, as plain JSON values."""
    info = _cpu_info()
    flags = set((info.get("flags") or info.get("Features") or "").split())
    cuda = torch.cuda.is_available()
    return {
        "cpu": info.get("model name") or platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "cores": _usable_cores(),
        "flags": [flag for flag in FLAGS if flag in flags],
        "memory_gib": _memory_gib(),
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "cuda": torch.version.cuda if cuda else None,
        "kernels": native.library() is not None,
    }


def markdown(machine: dict[str, Any] | None = None) -> str:
    """The description (of this machine, or one read back from JSON) as one line of Markdown."""
    m = machine or describe()
    memory = f", {m['memory_gib']} GiB" if m["memory_gib"] else ""
    gpu = f", GPU {m['gpu']} (CUDA {m['cuda']})" if m["gpu"] else ", no GPU"
    flags = f" ({', '.join(m['flags'])})" if m["flags"] else ""
    kernels = ", our kernels compiled" if m.get("kernels") else ""
    return (
        f"Machine: {m['cpu']}, {m['architecture']}, {m['cores']} cores{flags}{memory}{gpu}; {m['system']}, "
        f"Python {m['python']}, PyTorch {m['torch']} with {m['torch_threads']} threads{kernels}.\n"
    )


def _cpu_info() -> dict[str, str]:
    """Fields of the first processor in /proc/cpuinfo; empty where there is none (macOS, Windows)."""
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return {}
    first = path.read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _usable_cores() -> int:
    """Cores this process may use, which in a container can be fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory_gib() -> float | None:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)


if __name__ == "__main__":
    print(markdown(), end="")
