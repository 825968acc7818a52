"""What docs/serve.md tells a reader to type is run, against a service with small models."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

pytest.importorskip("fastapi", reason="the service needs the extra serve")

import httpx
from test_serve_sessions import CHUNK

from duotone.audio.files import read, write
from duotone.audio.synth import synthesize
from duotone.cli.main import app
from duotone.serve.frames import VERSION
from duotone.serve.hello import Hello
from duotone.serve.models import Models
from flow_toys import PAIRED, stirred
from serving import Running, serving
from small_bands import random_bands

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")
ADDRESS = re.compile(r"http://127\.0\.0\.1:(8777|8000)")


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with serving(Models({"bands": random_bands()}, stirred(PAIRED))) as found:
        yield found


@pytest.fixture(autouse=True)
def _beside_a_song(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "song.wav", synthesize(3, 0.2))
    (tmp_path / "serve.yaml").write_text("limits: {decoded_seconds: 60}\n")
    monkeypatch.chdir(tmp_path)


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def commands() -> list[list[str]]:
    """The lines of shell blocks, and what is written as a command in the text, without comments."""
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    lines += re.findall(r"`(duotone [^`]*)`", PAGE)
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def test_files_go_through_the_commands_of_the_page(running: Running) -> None:
    run = [words for words in commands() if words[:2] in (["duotone", "encode"], ["duotone", "decode"])]
    assert len(run) >= 3
    for words in run:
        done = CliRunner().invoke(app, [*(ADDRESS.sub(running.url, word) for word in words[1:]), "--force"])
        assert done.exit_code == 0, done.output
    assert read("again.wav").length == read("song.wav").length


def test_commands_that_start_a_service_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    served = []
    monkeypatch.setattr("duotone.cli.serve._serve", lambda settings, open_page: served.append(settings))
    starts = [words for words in commands() if words[:2] == ["duotone", "serve"] and "NAME" not in words]
    assert len(starts) >= 3
    for words in starts:
        done = CliRunner().invoke(app, words[1:])
        assert done.exit_code == 0, (words, done.output)
    assert served[0].port == 8777 and (served[0].codecs, served[0].flow) == (("tiny",), "flow-tiny")


def test_the_snippets_of_python_run(running: Running) -> None:
    class Enough(Exception):
        pass

    heard: list[Any] = []

    def play(wave: Any) -> None:
        heard.append(wave)
        if sum(each.length for each in heard) > 4 * CHUNK:
            raise Enough

    snippets = blocks("py")
    assert snippets
    for snippet in snippets:
        with pytest.raises(Enough):
            exec(ADDRESS.sub(running.url, snippet), {"play": play})


def test_the_documents_of_json_are_those_of_the_service(running: Running) -> None:
    documents = [json.loads(line) for block in blocks("json") for line in re.split(r"\n(?=\{)", block.strip())]
    hello = next(each for each in documents if "lookahead" in each and "limits" not in each)
    assert Hello.parse(hello, "The handshake") and set(hello) == set(Hello.model_fields)
    error = next(each for each in documents if each.get("type") == "error")
    assert set(error) == set(httpx.post(running.url + "/v1/info", content=b"", timeout=600).json())
    logged = [each for each in documents if "event" in each]
    own = {line["event"]: line for line in map(json.loads, running.log.splitlines())}
    assert logged and all(set(each) == set(own[each["event"]]) for each in logged)
    assert f"version `u16` ({VERSION})" in PAGE


def test_the_paths_of_the_page_are_those_of_the_service(running: Running) -> None:
    told = set(re.findall(r"`(?:GET|POST) (/[\w/]+)", PAGE))
    described = set(httpx.get(running.url + "/openapi.json", timeout=600).json()["paths"])
    assert {
        "/v1/encode",
        "/v1/decode",
        "/v1/info",
        "/v1/evaluate",
        "/v1/models",
        "/health",
        "/ready",
        "/metrics",
    } <= told
    assert told <= described


def test_the_events_of_the_log_are_told() -> None:
    folder = ROOT / "src" / "duotone" / "serve"
    logged = {
        name for path in folder.glob("*.py")
        for name in re.findall(r'\blog\(\s*"([a-z ]+)"', path.read_text(encoding="utf-8"))
    }  # fmt: skip
    assert "opened" in logged
    assert all(f"`{name}`" in PAGE or f'"event": "{name}"' in PAGE for name in logged), logged
