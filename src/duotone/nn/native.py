"""Our C kernels: compiled once for the processor at hand, kept in the cache folder, absent where there is no compiler.

Everything they compute PyTorch computes too, more slowly; `DUOTONE_NATIVE=0` does without them.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from duotone.config import cache_folder

SOURCES = sorted(Path(__file__).with_name("kernels").iterdir())
#: Pointers and sizes are checked by the callers; OpenMP's threads are those that PyTorch already has.
FLAGS = ("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC")
_declined = False


def compiler() -> str | None:
    """The C compiler: $CC, or the first of cc, gcc, clang that is there; None without any."""
    names = [os.environ["CC"]] if os.environ.get("CC") else ["cc", "gcc", "clang"]
    return next((found for found in map(shutil.which, names) if found), None)


def _processor() -> str:
    """What tells processors apart, so that a cache shared by several machines holds a library for each kind."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    return f"{platform.system()} {platform.machine()} {torch.backends.cpu.get_cpu_capability()} {flags}"


def build(cc: str, flags: tuple[str, ...] = FLAGS, folder: Path | None = None) -> Path:
    """Compile the kernels, unless that was done before with the same source, compiler, flags and processor.

    Raises `OSError` or `subprocess.SubprocessError` when the compiler fails or the folder cannot be written.
    """
    about = "\n".join(
        [*(p.read_text(encoding="utf-8") for p in SOURCES), cc, str(os.stat(cc).st_mtime_ns), *flags, _processor()]
    )
    name = f"kernels-{hashlib.blake2b(about.encode(), digest_size=8).hexdigest()}.so"
    target = (folder or cache_folder()) / name
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(suffix=".so", prefix="kernels-", dir=target.parent)
    os.close(handle)
    try:
        sources = [str(p) for p in SOURCES if p.suffix == ".c"]
        subprocess.run([cc, *flags, *sources, "-o", temporary], check=True, capture_output=True, text=True, timeout=120)
        os.replace(temporary, target)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return target


@functools.cache
def library() -> ctypes.CDLL | None:
    """The kernels, or None where they were declined, there is no compiler, or (with a warning) it failed."""
    if os.environ.get("DUOTONE_NATIVE", "1") == "0" or platform.system() != "Linux":
        return None
    cc = compiler()
    if cc is None:
        return None
    try:
        try:
            return ctypes.CDLL(str(build(cc)))
        except OSError as error:
            if error.errno is None:  # the library does not load
                raise
            # the cache folder cannot be used; once loaded, a library needs its file no more
            with tempfile.TemporaryDirectory() as folder:
                return ctypes.CDLL(str(build(cc, folder=Path(folder))))
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines() or [str(error)]
        first = next((line for line in said if "error" in line), said[0])
        warnings.warn(
            f"Duotone's kernels could not be compiled with {cc} ({first}): PyTorch's convolutions "
            "are used, which are slower. Set CC to another compiler, or DUOTONE_NATIVE=0 to do without.",
            RuntimeWarning,
            stacklevel=2,
        )
        return None


@contextmanager
def declined() -> Iterator[None]:
    """Inside, PyTorch computes everything, in all threads: for comparisons, and for who counts operations."""
    global _declined
    before, _declined = _declined, True
    try:
        yield
    finally:
        _declined = before


def kernels_for(*tensors: Tensor) -> ctypes.CDLL | None:
    """The kernels, if they are there and can take these tensors: float32 on a processor, not compiled, no autocast."""
    if any(t.device.type != "cpu" or t.dtype != torch.float32 for t in tensors):
        return None
    if _declined or torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return None
    return library()


def loaded() -> ctypes.CDLL:
    """The kernels, of which the caller knows by `kernels_for` that they are there."""
    lib = library()
    if lib is None:
        raise AssertionError("the C kernels were called where there are none; ask `kernels_for` first")
    return lib
