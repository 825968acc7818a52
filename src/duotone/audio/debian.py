"""Debian packages: download a pinned one from a mirror, and read its members without running or unpacking anything else of it."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import subprocess
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO, cast

from duotone.audio.catalogue import Package
from duotone.errors import DownloadError, DuotoneError, UsageError

#: The name that stands for the mirrors that apt on this computer is set up with.
APT = "apt"
_TIMEOUT = 60.0  # seconds without a byte
_TRIES = 3  # of a mirror whose connection breaks; each continues where the one before stopped
_BLOCK = 1 << 20
_PARTIAL = ".part"
_AR, _HEADER = b"!<arch>\n", 60

Progress = Callable[[int, int], None]


def fetch_package(package: Package, folder: Path, mirrors: Sequence[str], progress: Progress | None = None) -> Path:
    """Download a package into a folder and verify its hash; a partial download of an earlier run is continued.

    `mirrors` are addresses (http, https, file), folders laid out like a mirror, or ``apt``, and are tried in order;
    `progress` is called with (bytes there, bytes in all). Raises `DownloadError` if no mirror has it, or if its content is not
    the pinned one.
    """
    target = folder / package.file
    if target.is_file() and _digest(target) == package.sha256:
        return target
    failures = []
    for mirror in mirrors:
        try:
            partial = _from_apt(package, folder) if mirror == APT else _from_mirror(package, folder, mirror, progress)
        except DownloadError as error:
            failures.append(str(error))
            continue
        found = _digest(partial)
        if found == package.sha256:
            os.replace(partial, target)
            return target
        partial.unlink()
        failures.append(f"{mirror} gave {package.file} with SHA-256 {found}, expected {package.sha256}")
    raise DownloadError(
        f"The package {package.package} {package.version} could not be fetched: {'; '.join(failures)}. "
        f"Check the network, or name another mirror with --mirror (an address, a folder, or apt)."
    )


def _from_mirror(package: Package, folder: Path, mirror: str, progress: Progress | None) -> Path:
    """Download to ``FILE.part``. Raises `DownloadError` with one clause on what went wrong."""
    base = mirror if re.match(r"(https?|file)://", mirror) else Path(mirror).absolute().as_uri()
    address = f"{base.rstrip('/')}/{package.pool}"
    partial = folder / (package.file + _PARTIAL)
    reason = ""
    for _ in range(_TRIES):
        try:
            _continue(address, partial, package.size, progress)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 404:
                raise DownloadError(f"{address} is not there") from None
            reason = f"HTTP status {error.code}"
        except (OSError, urllib.error.URLError) as error:
            cause = getattr(error, "reason", error)
            if isinstance(cause, FileNotFoundError) or "No such file" in str(cause):
                raise DownloadError(f"{address} is not there") from None
            reason = str(cause)
        else:
            size = partial.stat().st_size
            if size == package.size:
                return partial
            reason = f"it ended after {size} of {package.size} bytes"
    raise DownloadError(f"{address} failed {_TRIES} times ({reason})")


def _continue(address: str, partial: Path, size: int, progress: Progress | None) -> None:
    """Append what is missing of a download; starts anew if the server cannot continue, and never stores more than `size`."""
    start = partial.stat().st_size if partial.is_file() else 0
    if start >= size:
        if start == size:
            return
        partial.unlink()
        start = 0
    request = urllib.request.Request(address, headers={"Range": f"bytes={start}-"} if start else {})
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
        continues = start > 0 and getattr(answer, "status", None) == 206
        count = start if continues else 0
        with partial.open("ab" if continues else "wb") as file:
            while count < size and (block := answer.read(min(_BLOCK, size - count))):
                file.write(block)
                count += len(block)
                if progress:
                    progress(count, size)


def _from_apt(package: Package, folder: Path) -> Path:
    """Let apt download the version. Raises `DownloadError` with one clause on what went wrong."""
    if shutil.which("apt-get") is None:
        raise DownloadError("there is no apt-get on this computer")
    wanted = f"{package.package}:{package.architecture}={package.version}"
    if package.architecture == "all":
        wanted = f"{package.package}={package.version}"
    done = subprocess.run(["apt-get", "download", "-q=2", wanted], cwd=folder, capture_output=True, text=True)
    found = sorted(folder.glob(f"{package.package}_*_{package.architecture}.deb"))
    if done.returncode or not found:
        lines = [line for line in done.stderr.splitlines() if line.startswith("E:")]
        raise DownloadError(f"apt has no {wanted} ({lines[0] if lines else 'it said nothing'})")
    partial = folder / (package.file + _PARTIAL)
    os.replace(found[-1], partial)
    return partial


def members(path: Path) -> Iterator[tuple[str, BinaryIO | None]]:
    """The path and content of each member of a .deb's data archive; the content is None for what is not a plain file.

    Paths are as stored, without a leading ``./``; they may be hostile, so nothing may be written under them (`is_safe`).
    Content can be read until the next member is asked for. Raises `DownloadError` for a damaged package.
    """
    try:
        with path.open("rb") as file, _data(file, path) as data, tarfile.open(fileobj=data, mode="r|") as archive:
            for member in archive:
                content = archive.extractfile(member) if member.isreg() else None
                yield member.name.removeprefix("./"), cast("BinaryIO | None", content)
    except DuotoneError:
        raise
    except (tarfile.TarError, EOFError, ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DownloadError(f"{path.name} is damaged ({error}). Remove it and fetch it again.") from None
    except _decompression_errors() as error:
        raise DownloadError(f"{path.name} is damaged ({error}). Remove it and fetch it again.") from None


def is_safe(member: str) -> bool:
    """Whether a member's path is relative and stays inside its archive."""
    path = PurePosixPath(member)
    return (
        bool(member) and not path.is_absolute() and ".." not in path.parts and "\\" not in member and "\0" not in member
    )


@contextmanager
def _data(file: BinaryIO, path: Path) -> Iterator[IO[bytes]]:
    """The tar archive in a .deb (an ar archive with a member ``data.tar``, compressed or not; see deb(5))."""
    if file.read(len(_AR)) != _AR:
        raise DownloadError(f"{path.name} is no Debian package (it does not begin with {_AR!r}). Fetch it again.")
    while len(header := file.read(_HEADER)) == _HEADER:
        name, size = header[:16].decode("ascii", "replace").strip().rstrip("/"), int(header[48:58])
        start = file.tell()
        if name.startswith("data.tar"):
            with _decompressed(io.BufferedReader(_Part(file, size), _BLOCK), name) as data:
                yield data
            return
        file.seek(start + size + size % 2)
    raise DownloadError(f"{path.name} holds no data.tar. Fetch it again.")


def _decompressed(part: io.BufferedReader, name: str) -> Any:
    match name:
        case "data.tar":
            return part
        case "data.tar.xz" | "data.tar.lzma":
            import lzma

            return lzma.open(part)
        case "data.tar.gz":
            import gzip

            return gzip.open(part)
        case "data.tar.bz2":
            import bz2

            return bz2.open(part)
        case "data.tar.zst":
            return _zstandard(part)
    raise DownloadError(f"The package holds {name}, expected data.tar, .xz, .gz, .bz2 or .zst. Report this package.")


def _zstandard(part: io.BufferedReader) -> Any:
    try:
        import zstandard
    except ImportError:
        raise UsageError("This package is compressed with zstd. Install zstandard: pip install zstandard.") from None
    return zstandard.ZstdDecompressor().stream_reader(part)


def _decompression_errors() -> tuple[type[Exception], ...]:
    import lzma
    import zlib

    return lzma.LZMAError, zlib.error


class _Part(io.RawIOBase):
    """The next `size` bytes of a file, read once from front to back."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._left = file, size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(min(len(buffer), self._left))
        buffer[: len(data)] = data
        self._left -= len(data)
        return len(data)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
