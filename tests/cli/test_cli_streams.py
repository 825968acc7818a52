"""Closed standard streams, readers that go away, signals, names of any bytes: sentences and exit codes, no traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from duotone.cli.failures import shown

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")


def shell(line: str) -> subprocess.CompletedProcess[str]:
    """A line of bash in which `duotone` is this tree's."""
    prelude = f'duotone() {{ "{sys.executable}" -m duotone "$@"; }}\n'
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", "-c", prelude + line], capture_output=True, text=True, env=environment, check=False, timeout=600
    )
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr, done.stderr
    return done


def test_output_that_is_closed_matters_only_where_something_is_printed(here: Path, codec_folder: str) -> None:
    done = shell(f"duotone encode a.wav -o a.duo -q --codec {codec_folder} >&-")
    assert (done.returncode, done.stderr) == (0, "") and Path("a.duo").stat().st_size > 100
    done = shell("duotone info a.wav >&-")
    assert done.returncode == 2 and "Standard output is closed" in done.stderr
    for option in ("-o -", "-o b.duo --json"):
        done = shell(f"duotone encode a.wav {option} --codec {codec_folder} >&-")
        assert done.returncode == 2 and "Standard output is closed" in done.stderr and not Path("b.duo").exists()
    for line in ("duotone --help >&-", "duotone --version >&-"):
        assert shell(line).returncode == 2


def test_input_and_errors_that_are_closed(here: Path) -> None:
    done = shell("duotone info - <&-")
    assert done.returncode == 2 and "Standard input is closed" in done.stderr
    assert shell("duotone info a.wav 2>&- <&-").returncode == 0
    assert shell("duotone info absent.wav 2>&-").returncode == 3


def test_a_reader_that_goes_away_ends_every_kind_of_output(here: Path) -> None:
    for line in ("duotone --help", "duotone info a.wav", "duotone decode -h"):
        done = shell(f"{line} | true; exit ${{PIPESTATUS[0]}}")
        assert (done.returncode, done.stderr) == (141, ""), line


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_help_to_a_full_disk(here: Path) -> None:
    done = shell("duotone --help > /dev/full")
    assert done.returncode == 7 and "Free some space" in done.stderr


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), pytest.param(signal.SIGHUP, 129, marks=pytest.mark.long)],
)
def test_signals_clean_up(number: signal.Signals, code: int, here: Path, codec_folder: str) -> None:
    words = [sys.executable, "-m", "duotone", "encode", "a.wav", "-", "-o", "out", "--codec", codec_folder]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(
        words, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # a test run in the background ignores SIGINT
    )  # fmt: skip
    try:
        while not Path("out/a.duo").exists():  # then it waits for standard input, to which nobody writes
            assert running.poll() is None
            time.sleep(0.05)
        running.send_signal(number)
        _, told = running.communicate(timeout=600)
    finally:
        running.kill()
    assert running.returncode == code and "Interrupted" in told and "Traceback" not in told
    assert os.listdir("out") == ["a.duo"]


def test_names_that_are_not_utf8(here: Path, codec_folder: str) -> None:
    name = os.fsdecode(b"caf\xe9.duo")
    Path(name).write_bytes(b"nothing")
    done = shell("duotone info $'caf\\xe9.duo'; exit $?")
    assert done.returncode == 4 and "caf\\xe9.duo" in done.stderr
    done = shell(f"duotone encode a.wav -o $'\\xe9t\\xe9/' --codec {codec_folder} && ls $'\\xe9t\\xe9'")
    assert (done.returncode, done.stdout) == (0, "a.duo\n") and "\\xe9t\\xe9" in done.stderr
    assert shown(name) == "caf\\xe9.duo" and shown("é→") == "é→"


def test_names_with_a_dash_first(here: Path, duotone: Any) -> None:
    soundfile.write("-a.wav", np.zeros(400), 8_000)
    told = duotone("info", "-a.wav")
    assert told.exit_code == 2 and "./-a.wav" in told.stderr
    assert duotone("info", "./-a.wav").exit_code == 0 and duotone("info", "--", "-a.wav").exit_code == 0
    Path("folder").mkdir()
    Path("-a.wav").rename("folder/-a.wav")
    assert duotone("encode", "folder", "-o", "out").exit_code == 0 and Path("out/-a.duo").is_file()


@pytest.mark.parametrize("device", ["xpu", "meta", "vulkan", "cuda:99", "tpu", "cpu:x"])
def test_devices_that_are_not_there(device: str, here: Path, duotone: Any) -> None:
    told = duotone("encode", "a.wav", "-o", "a.duo", "--device", device)
    assert told.exit_code == 2 and device in told.stderr and not Path("a.duo").exists()


def test_dash_h_works_everywhere(duotone: Any) -> None:
    for words in ([], ["encode"], ["tokens"], ["tokens", "train"], ["report"]):
        assert "Usage: duotone" in duotone(*words, "-h").stdout
