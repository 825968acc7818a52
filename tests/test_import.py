"""Importing the package is light and changes nothing; every public name is there."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import duotone


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_import_loads_nothing_heavy() -> None:
    heavy = {"torch", "numpy", "pydantic", "typer", "rich", "soundfile", "safetensors", "huggingface_hub", "yaml"}
    loaded = json.loads(python("import sys, json, duotone; print(json.dumps(sorted(sys.modules)))"))
    assert not heavy & set(loaded)


def test_help_does_without_torch() -> None:
    loaded = json.loads(python("import sys, json, duotone.cli.main; print(json.dumps(sorted(sys.modules)))"))
    assert "torch" not in loaded


STATE = """
import importlib, json, logging, os, random, signal, sys, warnings
import numpy, rich.console, torch  # rich itself draws from `random` while it is imported
def state():
    return {
        "threads": torch.get_num_threads(), "interop": torch.get_num_interop_threads(),
        "dtype": str(torch.get_default_dtype()), "matmul": torch.get_float32_matmul_precision(),
        "benchmark": torch.backends.cudnn.benchmark, "tf32": torch.backends.cudnn.allow_tf32,
        "cuda_tf32": torch.backends.cuda.matmul.allow_tf32, "onednn": torch.backends.mkldnn.enabled,
        "deterministic": torch.are_deterministic_algorithms_enabled(), "grad": torch.is_grad_enabled(),
        "torch_random": torch.random.get_rng_state().tolist(), "numpy_random": repr(numpy.random.get_state()),
        "random": repr(random.getstate()), "environment": dict(os.environ), "folder": os.getcwd(),
        "handlers": [repr(h) for h in logging.getLogger().handlers], "level": logging.getLogger().level,
        "interrupt": repr(signal.getsignal(signal.SIGINT)), "path": list(sys.path),
    }
"""


def test_importing_everything_leaves_the_process_as_it_was() -> None:
    root = Path(duotone.__file__).parent
    modules = [
        ".".join(p.relative_to(root.parent).with_suffix("").parts)
        for p in sorted(root.rglob("*.py"))
        if p.name not in ("__main__.py", "__init__.py")
        and p.stem not in ("kernels", "bpe")  # compiled by Numba, and imported where they are used
        and p.stem != "text_tokenizer"  # a class of transformers, likewise
    ]
    assert len(modules) > 20
    code = (
        f"{STATE}\nbefore = state()\nfor name in {modules!r}:\n    importlib.import_module(name)\n"
        "print(json.dumps([before, state(), sorted(sys.modules)]))"
    )
    before, after, loaded = json.loads(python(code))
    assert after == before
    optional = {"codicodec", "transformers", "scipy", "librosa", "matplotlib", "numba", "pytest", "hypothesis"}
    assert not optional & set(loaded)


def test_configuration_does_without_torch() -> None:
    code = (
        "import sys, json; from duotone import DuotoneError, preset; preset('base'); print(json.dumps([*sys.modules]))"
    )
    assert not {"torch", "numpy", "soundfile", "typer"} & set(json.loads(python(code)))


def test_the_version_has_one_value() -> None:
    assert version("duotone") == duotone.__version__


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
