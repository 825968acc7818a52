"""Shared fixtures: a codec small enough to run in milliseconds, and sounds."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import typer.main
import typer.testing
from hypothesis import settings

from duotone.audio.synth import synthesize
from duotone.audio.waveform import Waveform
from duotone.codec.codicodec import CoDiCodec
from small import SMALL

# The same examples at every run, and no limit on their time: a slow machine is no failure.
settings.register_profile("duotone", derandomize=True, deadline=None)
settings.load_profile("duotone")


#: The files that take longest, first of all: begun at the end, one of them would keep one worker busy and leave the others idle.
LONGEST = (
    "golden/test_parity_codicodec.py", "serve/test_studio_browser.py", "test_flow_pages.py", "serve/test_studio_jam.py",
    "cli/test_cli_streams.py", "serve/test_studio_encode.py", "serve/test_studio_live.py", "train/test_processes.py",
    "cli/test_cli_jam.py", "serve/test_serve_faults.py", "serve/test_serve_files.py", "fuzz/test_duo_damage.py",
    "serve/test_serve_isolation.py", "serve/test_serve_client.py", "serve/test_studio_microphone.py", "test_lycodec_page.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Workers take files in this order (`--no-loadscope-reorder` in the Makefile)."""
    order = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST)}
    assert all(path.is_file() for path in order), "a file of LONGEST has another name now"
    items.sort(key=lambda item: order.get(item.path, len(order)))


@pytest.fixture(scope="session", autouse=True)
def _few_threads() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _flags_are_put_back() -> Iterator[None]:
    """What a test, or a script that it runs, sets for the whole process would decide what the tests after it see."""
    yield
    assert torch.is_grad_enabled() and torch.get_default_dtype() == torch.float32


@pytest.fixture(scope="session", autouse=True)
def _one_tree_of_commands() -> Iterator[None]:
    """Typer makes all commands anew at each call of the command line: half of the time of a short one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.testing, "_get_command", functools.cache(typer.main.get_command))
        yield


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing that a test measures goes to the user's cache, nor comes from it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DUOTONE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def codec() -> CoDiCodec:
    """A random codec with chunks of 512 samples."""
    return CoDiCodec.random(SMALL, seed=1)


@pytest.fixture(scope="session")
def wave() -> Waveform:
    """A quarter of a second of stereo music at 48 kHz."""
    return synthesize(3, 0.25)
