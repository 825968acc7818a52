"""Imports point only downward, deferred ones and those for type checkers too; and what no file of the library may do.

All rules read syntax trees, so nothing is imported here; each rule is itself tested on planted violations.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "duotone"
ORDER = (
    "errors < config < spec < atomic < audio < represent < nn < quant < codec < tokens, store < flow < lm < train "
    "< evaluate < hub < export < serve < client < cli"
)
LEVEL = {room.strip(): level for level, rooms in enumerate(ORDER.split("<")) for room in rooms.split(",")}
#: The façade names everything, and the entry starts everything: they stand in no room.
EXEMPT = {"__init__", "__main__"}
ONLY = {"tokens": {"errors", "config", "spec", "atomic"}}
EXECUTES_ON_LOAD = {"pickle", "_pickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}
#: CC BY-NC code: oracles for tests, or not at all.
FOREIGN = {"codicodec", "music2latent", "codec_bpe"}

Rule = Callable[[ast.Module, str], Iterator[str]]


def files() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def room(path: Path) -> str:
    """`src/duotone/codec/values.py` -> `codec`, `src/duotone/hub.py` -> `hub`."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and full name of everything imported anywhere; `from a import b` gives `a.b`, an unknown name gives `?`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            target = node.args[0] if node.args else None
            literal = isinstance(target, ast.Constant) and isinstance(target.value, str)
            yield node.lineno, str(target.value) if literal else "?"  # type: ignore[union-attr]


def upward_imports(tree: ast.Module, own: str) -> Iterator[str]:
    """Imports of what stands above this room, beside it, or cannot be told."""
    if own in EXEMPT:
        return
    if own not in LEVEL:
        yield f"the room {own!r} has no place in: {ORDER}"
        return
    for line, name in imports(tree):
        if name == "?" or name.startswith("."):
            yield f"line {line}: imports are absolute here, and by names that can be read"
        if name.partition(".")[0] != "duotone" or name == "duotone.__version__":
            continue
        other = name.split(".")[1] if "." in name else ""
        if other == own:
            continue
        if other not in LEVEL:
            yield f"line {line}: {name}; inside the library, import from the room where a thing lives"
        elif own in ONLY and other not in ONLY[own]:
            yield f"line {line}: {name}; {own} may need only {', '.join(sorted(ONLY[own]))}"
        elif LEVEL[other] >= LEVEL[own]:
            yield f"line {line}: {name} is not below {own} in: {ORDER}"


def unsafe_loading(tree: ast.Module, own: str) -> Iterator[str]:
    """`torch.load` without `weights_only=True`, and modules whose files execute when they are read."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            words = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if words.get("weights_only") != "True":
                yield f"line {node.lineno}: torch.load without weights_only=True"
    for line, name in imports(tree):
        if name.partition(".")[0] in EXECUTES_ON_LOAD or name == "torch.load":
            yield f"line {line}: {name}, which can execute what it loads"


def global_flags(tree: ast.Module, own: str) -> Iterator[str]:
    """Settings that belong to the whole process: of PyTorch anywhere, of anything while importing."""
    for node in ast.walk(tree):
        name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        leaf = name.rpartition(".")[2]
        if name.startswith("torch.") and (
            leaf.startswith("use_deterministic")
            or (leaf.startswith("set_") and name.count(".") == 1)
            or (name.startswith("torch.backends.") and leaf.startswith(("enable", "set", "allow")))
        ):
            yield f"line {node.lineno}: {name}() changes the whole process"  # type: ignore[attr-defined]
        for target in node.targets if isinstance(node, ast.Assign) else []:
            if ast.unparse(target).startswith("torch."):
                yield f"line {node.lineno}: assigning {ast.unparse(target)} changes the whole process"
    for statement in tree.body:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
            yield f"line {statement.lineno}: {ast.unparse(statement.value.func)}() is called while importing"


def foreign_code(tree: ast.Module, own: str) -> Iterator[str]:
    """Imports of packages whose licence forbids to build on them."""
    yield from (f"line {line}: {name}" for line, name in imports(tree) if name.partition(".")[0] in FOREIGN)


def undocumented(tree: ast.Module, own: str) -> Iterator[str]:
    """Public modules, classes, functions and methods without a docstring."""
    if tree.body and not ast.get_docstring(tree):
        yield "the file itself has no docstring"
    stack: list[ast.AST] = [tree]
    while stack:
        for node in ast.iter_child_nodes(stack.pop()):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and node.name[0] != "_":
                if not ast.get_docstring(node) and ast.unparse(node.body[-1]) != "...":
                    yield f"line {node.lineno}: {node.name} has no docstring"
                if isinstance(node, ast.ClassDef):
                    stack.append(node)


def module_of(path: Path) -> str:
    """`src/duotone/codec/values.py` -> `duotone.codec.values`, `src/duotone/codec/__init__.py` -> `duotone.codec`."""
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def circles(code: dict[str, ast.Module]) -> set[frozenset[str]]:
    """Sets of modules that import each other, by whatever way round; deferred imports count."""
    needs: dict[str, set[str]] = {}
    for name, tree in code.items():
        found = set()
        for _, target in imports(tree):
            while target and target not in code:
                target = target.rpartition(".")[0]
            found.add(target)
        needs[name] = found - {"", name}
    reached: dict[str, set[str]] = {}
    for name in code:
        seen: set[str] = set()
        waiting = [*needs[name]]
        while waiting:
            other = waiting.pop()
            if other not in seen:
                seen.add(other)
                waiting += needs[other]
        reached[name] = seen
    return {frozenset(b for b in reached[a] if a in reached[b]) for a in code if a in reached[a]}


RULES: tuple[Rule, ...] = (upward_imports, unsafe_loading, global_flags, foreign_code, undocumented)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_library_keeps(rule: Rule) -> None:
    assert len(files()) > 20
    found = []
    for path in files():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found += [f"{path.relative_to(SOURCE)}: {text}" for text in rule(tree, room(path))]
    assert not found, "\n" + "\n".join(found)


def test_no_modules_import_each_other() -> None:
    code = {module_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in files()}
    del code["duotone"]  # it names everything, and is imported by whoever wants the version
    assert circles(code) == set()


def test_planted_circles_are_found() -> None:
    code = {
        "duotone.a": "def f():\n    from duotone.b import x",
        "duotone.b": "from duotone import c",
        "duotone.c": "from duotone.a import y\nfrom duotone.d import z",
        "duotone.d": "import duotone.e",
        "duotone.e": "import math",
    }
    found = circles({name: ast.parse(text) for name, text in code.items()})
    assert found == {frozenset({"duotone.a", "duotone.b", "duotone.c"})}


@pytest.mark.parametrize(
    ("own", "code"),
    [
        ("audio", "from duotone.codec.values import Codes"),
        ("audio", "import duotone.codec.values"),
        ("audio", "from duotone import codec"),
        ("audio", "from duotone import load"),
        ("audio", "import duotone"),
        ("audio", "import torch, duotone.represent.stft"),
        ("audio", "from ..codec import values"),
        ("audio", "import importlib\nimportlib.import_module('duotone.codec')"),
        ("audio", "from importlib import import_module\nimport_module(name)"),
        ("audio", "def f():\n    __import__('duotone.cli.main')"),
        ("nn", "def f():\n    from duotone.hub import load"),
        ("quant", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from duotone import codec"),
        ("tokens", "from duotone.audio import files"),
        ("train", "from duotone.evaluate import metrics"),
        ("errors", "from duotone.config import Config"),
        ("attic", "import math"),
    ],
)
def test_planted_upward_imports_are_caught(own: str, code: str) -> None:
    assert list(upward_imports(ast.parse(code), own))


@pytest.mark.parametrize(
    ("own", "code"),
    [
        ("cli", "from duotone import __version__\nfrom duotone.hub import load\nfrom duotone.cli import encode"),
        ("codec", "from duotone.audio.waveform import Waveform\nfrom duotone.codec.values import Codes"),
        ("config", "from duotone.errors import ConfigError"),
        ("tokens", "from duotone.config import Config\nimport numpy"),
        ("audio", "import duotones_cousin\nimport torch"),
        ("__main__", "from duotone.cli.main import run"),
    ],
)
def test_downward_imports_pass(own: str, code: str) -> None:
    assert not list(upward_imports(ast.parse(code), own))


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        (unsafe_loading, "torch.load('x.pt')"),
        (unsafe_loading, "torch.load('x.pt', weights_only=False)"),
        (unsafe_loading, "torch.load('x.pt', weights_only=flag)"),
        (unsafe_loading, "from torch import load"),
        (unsafe_loading, "def f():\n    import pickle"),
        (global_flags, "def f():\n    torch.set_num_threads(1)"),
        (global_flags, "def f():\n    torch.set_float32_matmul_precision('high')"),
        (global_flags, "def f():\n    torch.use_deterministic_algorithms(True)"),
        (global_flags, "def f():\n    torch.backends.cudnn.benchmark = True"),
        (global_flags, "def f():\n    torch.backends.cuda.enable_flash_sdp(False)"),
        (global_flags, "torch.manual_seed(0)"),
        (global_flags, "warnings.filterwarnings('ignore')"),
        (foreign_code, "def f():\n    import codicodec.models"),
        (undocumented, '"""M."""\ndef f(): pass'),
        (undocumented, '"""M."""\nclass C:\n    """C."""\n    def m(self): pass'),
        (undocumented, "import math"),
    ],
)
def test_planted_violations_are_caught(rule: Rule, code: str) -> None:
    assert list(rule(ast.parse(code), "codec"))


def test_what_is_allowed_passes() -> None:
    code = '''"""A module."""
import torch
ZERO = torch.zeros(3)
if torch.backends.mps.is_available():
    DEVICE = "mps"
STATE = torch.load("x.pt", map_location="cpu", weights_only=True)
def f():
    """Seeding inside a function is its caller's wish."""
    torch.manual_seed(3)
def _private(): pass
'''
    for rule in RULES:
        assert not list(rule(ast.parse(code), "codec"))
