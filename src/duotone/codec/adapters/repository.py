"""Import modules of a cloned repository without changing sys.path or the working directory.

Research code imports its own modules by bare names (`decoder`, `utils`, `main`). While a `Repository` is entered, a
finder at the head of `sys.meta_path` resolves only the names in that folder. On leaving, finder and modules are removed
from the process and kept in the `Repository` object, so that two repositories with a module `utils`, or a repository and
an installed package of the same name, do not conflict.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

from duotone.errors import UsageError

#: Modules live in `sys.modules` for the whole process: only one repository can be entered at a time.
_ENTERED = threading.RLock()


class Repository:
    """A folder with other people's code or, without a folder, the installed packages."""

    def __init__(self, folder: str | Path | None, origin: str) -> None:
        self.folder = None if folder is None else Path(folder).resolve()
        self.origin = origin  # where to get it, for error messages
        if self.folder is not None and not self.folder.is_dir():
            raise UsageError(f"No folder at {folder}. Get the code with: git clone {origin}, and name its folder.")
        self.names = frozenset() if self.folder is None else _names(self.folder)
        #: The folder itself, where it is a package whose parts reach for each other through it (`from ..x import`).
        self.package = self.folder.name if self.folder is not None and _is_package(self.folder, self.names) else None
        self._modules: dict[str, ModuleType] = {}

    @property
    def described(self) -> str:
        """The origin of the code, for provenance."""
        return f"{self.origin}, {'installed' if self.folder is None else 'cloned'}"

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Inside this context the repository's modules can be imported, also by its own code; afterwards they are removed."""
        if self.folder is None:
            yield
            return
        with _ENTERED:
            finder = _Finder(self.folder, self.names, self.package)
            before = self._take_out()
            sys.modules.update(self._modules)
            sys.meta_path.insert(0, finder)
            try:
                yield
            finally:
                sys.meta_path.remove(finder)
                self._modules = self._take_out()
                sys.modules.update(before)

    def load(self, *names: str) -> ModuleType:
        """Import the first of these modules that exists; call it inside `entered`.

        Raises `UsageError` if none exists, or one needs a package that is not installed.
        """
        for name in names:
            try:
                spec = importlib.util.find_spec(name)  # imports its parent packages
            except ModuleNotFoundError as error:
                if error.name is not None and name.startswith(error.name):
                    continue
                raise self._missing(name, error) from None
            if spec is None or spec.loader is None:
                continue
            try:
                return _run(name, spec)
            except ModuleNotFoundError as error:
                raise self._missing(name, error) from None
            except ImportError as error:
                inside = f"{self.package}."
                if self.package is None or name.startswith(inside) or "beyond top-level" not in str(error):
                    raise UsageError(f"{name} of {self.origin} cannot be imported here: {error}.") from error
                return self.load(inside + name)
        where = "the installed packages" if self.folder is None else str(self.folder)
        raise UsageError(f"{where} got no {' nor '.join(names)}, expected the code of {self.origin}. {self._remedy()}")

    def _remedy(self) -> str:
        return f"Get it with: git clone {self.origin}, and name its folder with --codec-repo."

    def _missing(self, name: str, error: ModuleNotFoundError) -> UsageError:
        return UsageError(f"{name} of {self.origin} needs {error.name}, which is not installed: pip install it first.")

    def _take_out(self) -> dict[str, ModuleType]:
        """Remove this repository's modules from `sys.modules` and return them."""
        names = self.names | {self.package}
        found = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in names}
        for name in found:
            del sys.modules[name]
        return found


class _Finder:
    """Finds the top-level names of one folder; Python finds submodules by their packages' paths."""

    def __init__(self, folder: Path, names: frozenset[str], package: str | None) -> None:
        self.folder, self.names, self.package = folder, names, package

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module's spec, for Python's import."""
        if name in self.names:
            return PathFinder.find_spec(name, [str(self.folder)])
        return PathFinder.find_spec(name, [str(self.folder.parent)]) if name == self.package else None


def _names(folder: Path) -> frozenset[str]:
    """Modules and packages at the top of a folder, except names of the standard library."""
    modules = {p.stem for p in folder.glob("*.py")}
    packages = {p.name for p in folder.iterdir() if p.is_dir() and next(p.rglob("*.py"), None) is not None}
    found = frozenset(n for n in modules | packages if n.isidentifier())
    return found - sys.stdlib_module_names - {"setup", "__init__"}


def _is_package(folder: Path, names: frozenset[str]) -> bool:
    taken = names | sys.stdlib_module_names
    return (folder / "__init__.py").is_file() and folder.name.isidentifier() and folder.name not in taken


def _run(name: str, spec: ModuleSpec) -> ModuleType:
    """Import a module from its spec, if it is not imported yet."""
    if name in sys.modules:
        return sys.modules[name]
    if spec.loader is None:
        raise AssertionError("a namespace has nothing to run")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module
