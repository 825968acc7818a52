"""A saved small codec and sounds to run the commands on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from duotone.audio.files import write
from duotone.audio.waveform import Waveform
from duotone.cli.main import app
from duotone.codec.codicodec import CoDiCodec
from duotone.hub import save

#: Arguments -> what came of them: exit_code, stdout, stderr.
Run = Callable[..., object]


@pytest.fixture(scope="session")
def codec_folder(codec: CoDiCodec, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The small codec as a folder to be named by --codec."""
    folder = tmp_path_factory.mktemp("codec") / "small"
    save(codec, folder)
    return str(folder)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wave: Waveform) -> Path:
    """The current folder, holding a.wav: a twentieth of a second of stereo at 48 kHz."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    write("a.wav", Waveform(wave.samples[:, :2400].contiguous(), wave.rate))
    return tmp_path


@pytest.fixture
def duotone(codec_folder: str) -> Run:
    """Run the command line; encode, decode and demo get the small codec unless another is named."""

    def run(*arguments: str, stdin: bytes | None = None) -> object:
        words = list(arguments)
        if words[:1] in (["encode"], ["decode"], ["demo"]) and "--codec" not in words and "--help" not in words:
            words[1:1] = ["--codec", codec_folder, "--dtype", "float32"]
        result = CliRunner().invoke(app, words, input=stdin)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception  # a traceback: never for an error that can be expected
        return result

    return run
