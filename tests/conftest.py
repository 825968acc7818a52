"""Shared fixtures: a codec small enough to run in milliseconds, and sounds."""

from __future__ import annotations

import functools
from collections.abc import Iterator

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


@pytest.fixture(scope="session", autouse=True)
def _few_threads() -> None:
    torch.set_num_threads(1)


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
