"""Importing the package is light and changes nothing; every public name is there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import duotone


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


def test_import_loads_nothing_heavy() -> None:
    heavy = {"torch", "numpy", "pydantic", "typer", "rich", "soundfile", "safetensors", "huggingface_hub", "yaml"}
    loaded = json.loads(python("import sys, json, duotone; print(json.dumps(sorted(sys.modules)))"))
    assert not heavy & set(loaded)


def test_help_does_without_torch() -> None:
    loaded = json.loads(python("import sys, json, duotone.cli.main; print(json.dumps(sorted(sys.modules)))"))
    assert "torch" not in loaded


def test_importing_everything_changes_no_global_flag() -> None:
    modules = [
        ".".join(p.relative_to(Path(duotone.__file__).parent.parent).with_suffix("").parts)
        for p in sorted(Path(duotone.__file__).parent.rglob("*.py"))
        if p.name not in ("__main__.py", "__init__.py")
    ]
    code = f"""
import torch, importlib
def flags():
    return (torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled(),
            torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32,
            torch.backends.cuda.matmul.allow_tf32, torch.random.initial_seed())
torch.manual_seed(5)
before = flags()
for name in {modules!r}:
    importlib.import_module(name)
assert flags() == before, (before, flags())
"""
    python(code)


def test_every_public_name_resolves() -> None:
    for name in duotone.__all__:
        value = getattr(duotone, name)
        assert name == "__version__" or value.__doc__, name
    assert set(duotone.__all__) - {"__version__"} == set(duotone._HOME_OF)
    try:
        duotone.nonsense  # noqa: B018
    except AttributeError as error:
        assert "nonsense" in str(error)
    else:
        raise AssertionError("an unknown name did not raise")
