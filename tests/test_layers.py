"""Imports point only downward; nothing unsafe at import. Reads every import, deferred ones and TYPE_CHECKING ones too."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "duotone"
ORDER = [
    {"errors"}, {"config"}, {"audio"}, {"represent"}, {"nn"}, {"quant"}, {"codec"}, {"tokens", "store"}, {"flow"},
    {"train", "evaluate"}, {"hub"}, {"serve"}, {"cli"},
]  # fmt: skip
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}


def imports(tree: ast.AST) -> Iterator[str]:
    """Full names of every module that a tree imports, wherever the statement stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            base = node.module or ""
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def room_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "duotone" and len(parts) > 1 and parts[1] in LEVEL else None


def violations(room: str, tree: ast.AST) -> list[str]:
    """Rooms above (or beside) this one that the tree imports."""
    found = []
    for module in imports(tree):
        target = room_of(module)
        if target is None or target == room:
            continue
        if LEVEL[target] >= LEVEL[room] or (room == "tokens" and target not in ("errors", "config")):
            found.append(f"{room} -> {module}")
    return found


def files() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def test_imports_point_downward() -> None:
    found = []
    for path in files():
        place = path.relative_to(SOURCE)
        room = place.parts[0].removesuffix(".py")
        if room in ("__init__", "__main__"):
            continue
        assert room in LEVEL, f"{place} stands in no known room"
        found += [f"{place}: {v}" for v in violations(room, ast.parse(path.read_text()))]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("room", "code"),
    [
        ("audio", "import duotone.codec.values"),
        ("nn", "def f():\n    from duotone.hub import load"),
        ("quant", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from duotone import codec"),
        ("tokens", "from duotone.audio import files"),
        ("train", "from duotone.evaluate import metrics"),
    ],
)
def test_the_rule_catches(room: str, code: str) -> None:
    assert violations(room, ast.parse(code))


def test_the_rule_allows_what_is_below() -> None:
    assert not violations("cli", ast.parse("from duotone.hub import load\nfrom duotone.errors import DuotoneError"))


def test_nothing_unsafe() -> None:
    for path in files():
        tree = ast.parse(path.read_text())
        modules = set(imports(tree))
        assert not {m for m in modules if m.split(".")[0] in ("codicodec", "pickle", "codec_bpe")}, path
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords), path
        for node in ast.iter_child_nodes(tree):  # module level only
            text = ast.unparse(node)
            if not isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)):
                assert "torch.set_" not in text and "torch.backends" not in text, f"{path}: {text}"


def test_public_things_have_docstrings() -> None:
    missing = []
    for path in files():
        tree = ast.parse(path.read_text())
        if (path.name != "__init__.py" or path.parent == SOURCE) and ast.get_docstring(tree) is None:
            missing.append(str(path))
        stack: list[ast.AST] = [tree]
        while stack:
            for node in ast.iter_child_nodes(stack.pop()):
                if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                    if ast.get_docstring(node) is None and not _is_stub(node):
                        missing.append(f"{path.relative_to(SOURCE)}: {node.name}")
                    if isinstance(node, ast.ClassDef):
                        stack.append(node)
    assert not missing, "\n".join(missing)


def _is_stub(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef) and ast.unparse(node.body[-1]) == "..."
