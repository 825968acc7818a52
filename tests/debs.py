"""Small Debian packages, a mirror of them, and a catalogue that describes them: what the tests of fetching need."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import soundfile

from duotone.audio.catalogue import Catalogue

LICENCES = {
    "MIT": "https://opensource.org/license/mit",
    "CC-BY-SA-3.0": "https://creativecommons.org/licenses/by-sa/3.0/",
}


def sound(seconds: float, seed: int = 0, rate: int = 8000, channels: int = 1, suffix: str = "wav") -> bytes:
    """Noise as a file."""
    samples = np.random.default_rng(seed).uniform(-0.5, 0.5, (round(seconds * rate), channels))
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV" if suffix == "wav" else suffix.upper())
    return file.getvalue()


def tar(members: dict[str, bytes | tarfile.TarInfo], mode: str = "w:xz") -> bytes:
    """A tar archive of files, and of what else a TarInfo says."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
            else:
                about = tarfile.TarInfo(name)
                about.size = len(content)
                archive.addfile(about, io.BytesIO(content))
    return file.getvalue()


def ar(members: dict[str, bytes]) -> bytes:
    """An ar archive (deb(5))."""
    parts = [b"!<arch>\n"]
    for name, content in members.items():
        parts.append(f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode())
        parts.append(content + b"\n" * (len(content) % 2))
    return b"".join(parts)


def deb(members: dict[str, bytes | tarfile.TarInfo], mode: str = "w:xz", suffix: str = ".xz") -> bytes:
    """A Debian package with these members."""
    control = tar({"./control": b"Package: x\n"})
    return ar({"debian-binary": b"2.0\n", "control.tar.xz": control, f"data.tar{suffix}": tar(members, mode)})


@dataclass
class Mirror:
    """A folder laid out like a Debian mirror, and what was asked of its server."""

    folder: Path
    packages: list[dict[str, Any]] = field(default_factory=list)
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    cut: list[int] = field(default_factory=list)  #: so many bytes are sent of each of the next answers

    def add(
        self, name: str, members: dict[str, bytes | tarfile.TarInfo], sounds: list[dict[str, Any]], **how: Any
    ) -> None:
        """Build a package and describe it."""
        content = deb(members, **how)
        pool = f"pool/main/{name}_1.0-1_all.deb"
        path = self.folder / pool
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        self.packages.append({
            "package": name, "version": "1.0-1", "architecture": "all", "pool": pool, "size": len(content),
            "sha256": hashlib.sha256(content).hexdigest(), "source": f"https://example.org/{name}", "sounds": sounds,
        })  # fmt: skip

    def catalogue(self) -> Catalogue:
        """The catalogue of what was added."""
        return Catalogue.parse({"licences": LICENCES, "mirrors": [str(self.folder)], "packages": self.packages})


def recordings(kind: str, glob: str, **more: Any) -> dict[str, Any]:
    """An entry of the catalogue."""
    return {"kind": kind, "members": [glob], "title": "A title", "author": "An author", "licence": "MIT", **more}


@contextmanager
def served(mirror: Mirror) -> Iterator[str]:
    """Serve a mirror on this computer alone; gives its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            mirror.requests.append((self.path.rpartition("/")[2], asked))
            path = mirror.folder / self.path.lstrip("/")
            if not path.is_file():
                self.send_error(404)
                return
            content, start = path.read_bytes(), int(asked[len("bytes=") : -1]) if asked else 0
            self.send_response(206 if asked else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            self.wfile.write(content[start:][: mirror.cut.pop(0) if mirror.cut else None])

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
