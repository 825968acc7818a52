"""What is in the package: small enough for one wheel."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import duotone

PACKAGE = Path(duotone.__file__).parent
#: Bytes of the package at most.
LIMIT = 90_000_000


def packaged() -> list[Path]:
    """The files that are under version control, or without a checkout all that are there."""
    git = shutil.which("git")
    if git is not None:
        done = subprocess.run([git, "-C", str(PACKAGE), "ls-files", "-z"], capture_output=True, text=True, check=False)
        if done.returncode == 0 and done.stdout:
            return [path for name in done.stdout.split("\0") if name and (path := PACKAGE / name).is_file()]
    return [path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]


def test_the_package_fits_90_megabytes() -> None:
    sizes = {path.relative_to(PACKAGE).as_posix(): path.stat().st_size for path in packaged()}
    assert "__init__.py" in sizes and any(name.startswith("weights/") for name in sizes)
    largest = sorted(sizes, key=lambda name: -sizes[name])[:5]
    told = ", ".join(f"{name} {sizes[name] / 1e6:.1f} MB" for name in largest)
    assert sum(sizes.values()) <= LIMIT, f"{sum(sizes.values()) / 1e6:.1f} MB; the largest files: {told}"
