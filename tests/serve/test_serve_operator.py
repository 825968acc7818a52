"""`duotone serve` for who runs it: what it says when it starts, and when it cannot."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

pytest.importorskip("fastapi", reason="the service needs the extra serve")

import yaml

from duotone.cli.main import app
from duotone.serve.models import Models
from duotone.serve.settings import ServeConfig
from serving import serving
from small_bands import random_bands

TOKEN = "correct-horse-battery"


def refused(*words: str) -> str:
    """What is told where the service does not start; the codec is not loaded for it."""
    done = CliRunner().invoke(app, ["serve", *words])
    assert done.exit_code in (2, 7), done.output
    assert "Traceback" not in done.output and done.output.startswith("error: ")
    return " ".join(done.output.split())


@pytest.fixture(autouse=True)
def _never_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_models(*_: Any) -> None:
        raise AssertionError("models are loaded before it is known whether the service can start")

    monkeypatch.setattr("duotone.serve.models.load_models", load_models)


def test_a_port_that_is_taken_is_told_before_anything_is_loaded() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        told = refused("--port", port)
    assert f"port {port}" in told and "Choose another --port" in told


def test_an_address_that_is_not_of_this_machine_is_told(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(TOKEN)
    for host in ("198.51.100.7", "300.1.1.1"):
        told = refused("--host", host, "--tokens", str(tokens))
        assert host in told and "--host" in told


@pytest.mark.parametrize(
    ("content", "words"), [(None, "No such file"), (b"\xff\xfe\0", "UTF-8"), (b"\n \n", "no token"), (b"short\n", "16 printable")]
)  # fmt: skip
def test_a_wrong_file_of_tokens_is_told(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "tokens"
    if content is not None:
        path.write_bytes(content)
    assert words in refused("--tokens", str(path))


@pytest.mark.parametrize(
    ("content", "words"), [(None, "No configuration file"), ("a: [", "neither YAML nor JSON"), ("port: x", "port"), ("limits: {uploads: 3}", "limits.uploads")]
)  # fmt: skip
def test_a_wrong_configuration_is_told(tmp_path: Path, content: str | None, words: str) -> None:
    path = tmp_path / "serve.yaml"
    if content is not None:
        path.write_text(content)
    assert words in refused("--config", str(path))


@pytest.mark.parametrize("name", ["fastapi", "uvicorn", "websockets", "prometheus_client", "python_multipart"])
def test_a_missing_package_is_told_with_its_extra(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    told = refused("--port", "0")
    assert name in told and "duotone[serve]" in told


def test_a_file_in_place_of_the_folder_of_states_is_told(tmp_path: Path) -> None:
    from duotone.errors import UsageError
    from duotone.serve.service import Service

    (tmp_path / "states").touch()
    with pytest.raises(UsageError, match="expected a folder"):
        Service(ServeConfig(state=str(tmp_path / "states")), Models({"bands": random_bands()}))


def test_the_log_tells_where_the_service_is_and_what_it_has() -> None:
    with serving(Models({"bands": random_bands()})) as running:
        started = next(line for line in map(json.loads, running.log.splitlines()) if line["event"] == "started")
    assert started["url"] == running.url + "/" and started["codecs"] == ["bands"] and started["flow"] is None


def test_every_setting_that_the_page_names_is_there() -> None:
    """Names of limits in docs/serve.md are those of the configuration, which is printed with all of them."""
    import re

    page = (Path(__file__).parents[2] / "docs" / "serve.md").read_text(encoding="utf-8")
    printed = yaml.safe_load(CliRunner().invoke(app, ["serve", "--print-config"]).stdout)
    known = {*printed, *printed["limits"], *printed["scheduling"]}
    named = set(re.findall(r"`([a-z]+_(?:bytes|seconds|minutes))`", page))
    assert named <= known and {"upload_bytes", "decoded_seconds", "prompt_seconds", "idle_seconds"} <= named


@pytest.mark.parametrize(("host", "own"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::1", "[::1]")])
@pytest.mark.parametrize("opened", [True, False])
def test_the_page_is_opened_or_its_address_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], host: str, own: str, opened: bool
) -> None:
    import threading
    from types import SimpleNamespace

    from duotone.cli.serve import _show

    launched: list[str] = []
    monkeypatch.setattr("typer.launch", lambda url: launched.append(url) or (0 if opened else 1))
    started = threading.Event()
    started.set()
    _show(SimpleNamespace(started=started, port=8123), host)
    told = capsys.readouterr().err
    assert launched == [f"http://{own}:8123/"] and launched[0] in told
    assert ("No browser" in told) is not opened
    _show(SimpleNamespace(started=started, port=0), host)
    assert len(launched) == 1  # it could not listen
