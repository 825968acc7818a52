"""Write files and folders completely or not at all: under a temporary name in the target's folder, then renamed.

The temporary name is hidden, unique to the process, of bounded length and ends in ``.part``, so that it is never
taken for an audio file. A replaced file keeps its permissions; a symbolic link is followed; a pipe or a device
is written to directly.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from duotone.errors import UsageError

#: Ending of every temporary name.
PARTIAL = ".part"
_OURS = ".duotone-"  # prefix of every temporary name
_NAME_BYTES = 48  # of the target's name that a temporary name repeats; file systems allow 255 bytes in all


@contextmanager
def replacing(target: str | os.PathLike[str], suffix: str = PARTIAL, force: bool = True) -> Iterator[Path]:
    """Yield a temporary path to write to; it replaces `target` if the block ends without an exception, else it is removed.

    `suffix` replaces ``.part`` for programs that choose a format by the suffix. Raises `UsageError` if the folder is
    missing, `target` is a folder, or `target` exists and `force` is off (also if another process created it meanwhile).
    An empty file holds nothing to lose, such as one that `tempfile` made to reserve a name: it is always replaced.
    """
    if is_stream(target):  # before links are followed: /dev/stdout leads to a name that cannot be opened
        with _through_a_file(Path(target), suffix) as temporary:
            yield temporary
        return
    final = Path(os.path.realpath(target))  # through symbolic links
    if final.is_dir():
        raise UsageError(f"{_shown(target)} is a folder, expected the name of a file. Add a name to it.")
    if not final.parent.is_dir():
        raise UsageError(f"There is no folder {_shown(final.parent)} to write into. Create it first.")
    if not force and final.exists():
        if final.stat().st_size:
            raise _exists(target)
        force = True
    try:
        handle, name = tempfile.mkstemp(prefix=_prefix(final), suffix=suffix, dir=final.parent)
    except OSError as error:
        error.filename = os.fspath(target)  # the user knows nothing of the temporary name
        raise
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with suppress(PermissionError):  # file systems without permissions
            temporary.chmod(_permissions(final))
        _flush(temporary)
        if force:
            os.replace(temporary, final)
        else:
            _put_where_nothing_is(temporary, final, target)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


@contextmanager
def replacing_folder(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary folder to fill; it replaces `target` if the block ends without an exception, else it is removed.

    An existing folder is removed after the new one has replaced it. Raises `UsageError` if the parent folder
    is missing or `target` is a file.
    """
    final = Path(os.path.realpath(target))
    if final.exists() and not final.is_dir():
        raise UsageError(f"{_shown(target)} is a file, expected the name of a folder. Choose another name.")
    if not final.parent.is_dir():
        raise UsageError(f"There is no folder {_shown(final.parent)} to write into. Create it first.")
    temporary = Path(tempfile.mkdtemp(prefix=_prefix(final), suffix=PARTIAL, dir=final.parent))
    try:
        yield temporary
        with suppress(PermissionError):  # file systems without permissions
            temporary.chmod(stat.S_IMODE(final.stat().st_mode) if final.is_dir() else 0o777 & ~_mask())
        for path in temporary.rglob("*"):
            if path.is_file():
                _flush(path)
        if final.is_dir():
            before = Path(tempfile.mkdtemp(prefix=_prefix(final), suffix=PARTIAL, dir=final.parent))
            os.rename(final, before)  # a folder may replace an empty one
            os.rename(temporary, final)
            shutil.rmtree(before)
        else:
            os.rename(temporary, final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def sweep(folder: str | os.PathLike[str]) -> None:
    """Remove the temporary files and folders that killed processes of ours left; only for a folder that no other process uses."""
    for path in Path(folder).glob(f"{_OURS}*{PARTIAL}"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def write_bytes(target: str | os.PathLike[str], data: bytes) -> None:
    """Write bytes, completely or not at all."""
    with replacing(target) as temporary:
        temporary.write_bytes(data)


def write_text(target: str | os.PathLike[str], text: str) -> None:
    """Write text as UTF-8, completely or not at all; file names that are not UTF-8 are preserved."""
    write_bytes(target, text.encode("utf-8", "surrogateescape"))


def write_json(target: str | os.PathLike[str], value: Any, indent: int | None = 1) -> None:
    """Write a JSON document, completely or not at all. Raises `ValueError` for NaN and infinite numbers."""
    write_text(target, json.dumps(value, indent=indent, allow_nan=False) + "\n")


def is_stream(target: str | os.PathLike[str]) -> bool:
    """Whether a path is a pipe, a socket or a device: written to, never replaced."""
    with suppress(OSError):
        mode = os.stat(target).st_mode
        return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
    return False


@contextmanager
def exclusive(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Lock a folder against other processes that use `exclusive`; the lock ends with the block or the process.

    Raises `UsageError` if another process holds the lock.
    """
    from filelock import FileLock, Timeout

    try:
        lock = FileLock(Path(folder) / f"{_OURS}lock", timeout=0).acquire()
    except Timeout:
        raise UsageError(
            f"Another process is writing into {_shown(folder)}. Wait until it has ended, or choose another folder."
        ) from None
    with lock:
        yield


def remove_unused(folder: str | os.PathLike[str]) -> None:
    """Remove a folder that holds nothing but the file of a lock that nobody holds."""
    if os.listdir(folder) == [f"{_OURS}lock"]:
        (Path(folder) / f"{_OURS}lock").unlink()
        Path(folder).rmdir()


@contextmanager
def _through_a_file(stream: Path, suffix: str) -> Iterator[Path]:
    """A temporary file whose bytes go to a pipe or a device at the end."""
    with tempfile.TemporaryDirectory(prefix="duotone-") as folder:
        temporary = Path(folder) / f"whole{suffix}"
        temporary.touch()
        yield temporary
        with temporary.open("rb") as source, stream.open("wb", buffering=0) as sink:
            while block := source.read(1 << 20):
                view = memoryview(block)
                while view:
                    view = view[sink.write(view) or 0 :]


def _put_where_nothing_is(temporary: Path, final: Path, target: str | os.PathLike[str]) -> None:
    try:
        os.link(temporary, final)  # a rename would replace what another process made meanwhile
    except FileExistsError:
        raise _exists(target) from None
    except OSError:  # a file system without hard links
        if final.exists():
            raise _exists(target) from None
        os.replace(temporary, final)


def _exists(target: str | os.PathLike[str]) -> UsageError:
    return UsageError(f"{_shown(target)} exists already. Choose another name, or pass force=True to replace it.")


def _shown(name: str | os.PathLike[str]) -> str:
    """A path for messages: bytes that are not UTF-8 become question marks."""
    return os.fsencode(name).decode("utf-8", "replace")


def _prefix(final: Path) -> str:
    """Prefix of a temporary name: hidden, marked as ours, with a part of the target's name."""
    return f"{_OURS}{os.fsencode(final.name)[:_NAME_BYTES].decode('utf-8', 'ignore')}."


def _flush(path: Path) -> None:
    """Flush a file to the disk: without it, a rename may reach the disk before the content."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _permissions(final: Path) -> int:
    """Permissions of the file that is replaced, or those of a new file."""
    with suppress(FileNotFoundError):
        return stat.S_IMODE(final.stat().st_mode)
    return 0o666 & ~_mask()


def _mask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
