"""Compile the C kernels for this processor, and keep the result in the cache folder.

A kept library is checked before it is loaded, since loading runs its code: its hash must be that in the file next to it
(as ``b2sum`` writes it), and the library and its folder must belong to us or to root and be writable to nobody else.
What fails a check is compiled again. Where nothing can be kept, each process compiles into a temporary folder.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from duotone import atomic
from duotone.errors import UsageError

SOURCES = sorted(Path(__file__).with_name("kernels").iterdir())
#: Pointers and sizes are checked by the callers; OpenMP's threads are those that PyTorch already has.
FLAGS = ("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC")


def load(cc: str, folder: Path | None, flags: tuple[str, ...] = FLAGS) -> ctypes.CDLL:
    """The kernels: those kept in `folder` if there are any and they pass the checks, else compiled by `cc`.

    Raises `subprocess.SubprocessError` when the compiler fails, `OSError` when what it made does not load.
    """
    name = library_name(cc, flags)
    with _private(folder) as place:
        kept = None if place is None else _kept(place / name)
        if kept is not None:
            return kept
        with tempfile.TemporaryDirectory(prefix="duotone-kernels-") as temporary:
            made = Path(temporary) / name
            _compile(cc, flags, made)
            if place is not None:
                _keep(made.read_bytes(), place / name)
                kept = _kept(place / name)
            return kept or ctypes.CDLL(str(made))  # a loaded library does not need its file any more


def library_name(cc: str, flags: tuple[str, ...] = FLAGS) -> str:
    """The file name of a library, which depends on source, compiler, processor and flags."""
    sources = [p.read_text(encoding="utf-8") for p in SOURCES]
    about = "\n".join([*sources, cc, str(os.stat(cc).st_mtime_ns), *flags, _processor()])
    return f"kernels-{hashlib.blake2b(about.encode(), digest_size=8).hexdigest()}.so"


def _processor() -> str:
    """A description of the processor, so that machines that share a cache keep separate libraries."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    return f"{platform.system()} {platform.machine()} {torch.backends.cpu.get_cpu_capability()} {flags}"


def _compile(cc: str, flags: tuple[str, ...], target: Path) -> None:
    command = [cc, *flags, *(str(p) for p in SOURCES if p.suffix == ".c"), "-o", str(target)]
    environment = {**os.environ, "LC_ALL": "C"}  # its messages in English
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=120, env=environment)


@contextmanager
def _private(folder: Path | None) -> Iterator[Path | None]:
    """A path to `folder` or, where others may write to it, to a folder of this user's in it; None where neither is safe.

    The path goes through an open descriptor: renaming folders above it after the check changes nothing.
    """
    handle = None if folder is None else _open_private(folder)
    try:
        yield None if handle is None else Path(f"/proc/self/fd/{handle}")
    finally:
        if handle is not None:
            os.close(handle)


def _open_private(folder: Path) -> int | None:
    for place in (folder, folder / f"kernels-{os.geteuid()}"):
        try:
            place.mkdir(mode=0o755, parents=True, exist_ok=True)
            handle = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:  # a read-only disk, a file in the way, no permission
            return None
        if _trusted(handle):
            return handle
        os.close(handle)
    return None


def _trusted(handle: int) -> bool:
    """Whether an open file or folder belongs to us or to root, and nobody else may write to it."""
    status = os.fstat(handle)
    return status.st_uid in (0, os.geteuid()) and not status.st_mode & 0o022


def _kept(path: Path) -> ctypes.CDLL | None:
    """The library at `path`, or None if it is missing, fails a check or cannot be loaded."""
    try:
        with path.open("rb") as file:
            if not _trusted(file.fileno()) or _checksum(file.read(), path) != _beside(path).read_text("utf-8"):
                return None
        return ctypes.CDLL(str(path))
    except (OSError, UnicodeDecodeError):
        return None


def _keep(library: bytes, path: Path) -> None:
    """Write a library with its hash, readable to all, if that is possible."""
    try:
        atomic.write_bytes(path, library)
        path.chmod(0o644)
        atomic.write_text(_beside(path), _checksum(library, path))
        _beside(path).chmod(0o644)
    except (OSError, UsageError):  # a full or read-only disk, a folder in the way: each process compiles for itself
        return


def _checksum(library: bytes, path: Path) -> str:
    return f"{hashlib.blake2b(library).hexdigest()}  {path.name}\n"


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.b2")
