"""The studio's files and the requests that only it makes: parts of sounds, what is inside a `.duo`, Opus."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the service needs the extra serve")

import httpx
import numpy as np
import torch

from duotone.audio.files import read, write
from duotone.audio.synth import synthesize
from duotone.audio.waveform import Waveform
from duotone.codec.codicodec import CoDiCodec
from duotone.codec.container import write_duo
from duotone.codec.values import Codes, Latents
from duotone.evaluate import opus
from duotone.evaluate.picture import stops
from serving import Running, serving

PAGE = Path(str(files("duotone"))) / "serve" / "studio"
SHARED = PAGE.parents[1] / "evaluate" / "assets" / "shared"


@pytest.fixture(scope="module")
def running(codec: CoDiCodec) -> Iterator[Running]:
    with serving(codec, limits={"compared_seconds": 0.5}) as found:
        yield found


def as_duo(value: Codes | Latents) -> bytes:
    buffer = io.BytesIO()
    write_duo(buffer, value)
    return buffer.getvalue()


def as_wav(wave: Waveform, path: Path) -> bytes:
    write(path, wave, subtype="FLOAT" if path.suffix == ".wav" else None)
    return path.read_bytes()


def post(running: Running, path: str, data: bytes) -> httpx.Response:
    return httpx.post(running.url + path, content=data, timeout=600)


def refused(found: httpx.Response, status: int, words: str) -> None:
    assert found.status_code == status and words in found.json()["message"], found.text


def test_the_page_and_its_files_are_served(running: Running) -> None:
    page = httpx.get(running.url + "/", timeout=600)
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    assert (
        page.headers["cache-control"] == "no-cache" and "default-src 'self'" in page.headers["content-security-policy"]
    )
    assert httpx.get(running.url + "/studio/shared/colours.json", timeout=600).json() == stops()
    assert httpx.get(running.url + "/studio/clips/clips.json", timeout=600).json()[0]["file"].endswith(".flac")
    script = httpx.get(running.url + "/studio/main.js", timeout=600)
    assert script.headers["content-type"].startswith("text/javascript")
    assert script.headers["cross-origin-embedder-policy"] == "require-corp"
    for path in ("/studio/../app.py", "/studio/%2e%2e/app.py", "/studio/clips/../../errors.py", "/studio/"):
        assert httpx.get(running.url + path, timeout=600).status_code == 404, path


def test_the_page_asks_for_nothing_from_elsewhere() -> None:
    """Every address in the page's own files is of this service, and every module that is imported is there."""
    assert len(list(PAGE.glob("*.js"))) > 8
    for path in [*PAGE.rglob("*.js"), *PAGE.rglob("*.html"), *PAGE.rglob("*.css")]:
        text = path.read_text(encoding="utf-8")
        assert not re.findall(r"https?://(?!www\.w3\.org/)[^\s\"'`)]+", re.sub(r"/\*.*?\*/", "", text, flags=re.S)), (
            path
        )
        for name in re.findall(r"""(?:from |import\()["']([^"']+)["']""", text):
            target = SHARED / Path(name).name if name.startswith("/studio/shared/") else path.parent / name
            assert target.is_file(), (path, name)
    html = (PAGE / "index.html").read_text(encoding="utf-8")
    assert not re.search(
        r"\sstyle=|\son[a-z]+=|<script(?![^>]*src=)", html
    )  # the content security policy allows none of them


def test_elements_that_the_scripts_ask_for_are_there() -> None:
    html = (PAGE / "index.html").read_text(encoding="utf-8")
    named = set(re.findall(r'\bid="([^"]+)"', html))
    for path in PAGE.glob("*.js"):
        asked = set(re.findall(r"""\$\("([\w-]+)"\)""", path.read_text(encoding="utf-8")))
        assert asked <= named, (path.name, asked - named)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_a_part_of_a_sound_is_given_as_wav(running: Running, tmp_path: Path, suffix: str) -> None:
    data = as_wav(synthesize(5, 1.4), tmp_path / f"sound.{suffix}")
    own = read(io.BytesIO(data))
    found = post(running, "/v1/sound?start=0.3&seconds=0.25", data)
    assert found.status_code == 200 and found.headers["content-type"] == "audio/wav"
    heard = read(io.BytesIO(found.content))
    first, count = round(0.3 * own.rate), round(0.25 * own.rate)
    assert (heard.rate, heard.channels, heard.length) == (own.rate, own.channels, count)
    assert (heard.samples - own.samples[:, first : first + count].clamp(-1, 1)).abs().max() < 2**-14
    assert read(io.BytesIO(post(running, "/v1/sound?start=1.3&seconds=9", data).content)).length == own.length - round(
        1.3 * own.rate
    )
    assert read(io.BytesIO(post(running, "/v1/sound?seconds=9", data).content)).seconds == pytest.approx(0.5, abs=1e-4)


def test_parts_that_are_not_there_are_refused(running: Running, tmp_path: Path) -> None:
    data = as_wav(synthesize(5, 0.4), tmp_path / "sound.wav")
    refused(post(running, "/v1/sound?start=0.4", data), 422, "lasts 0.40 s")
    refused(post(running, "/v1/sound?start=-1", data), 400, "start")
    refused(post(running, "/v1/sound?seconds=nan", data), 400, "seconds")
    refused(post(running, "/v1/sound", b"nothing that sounds"), 422, "not a sound file")


def test_what_is_inside_tokens_and_latents(running: Running, codec: CoDiCodec, wave: Waveform) -> None:
    latents = codec.encode(wave)
    codes, steps = latents.codes(), codec.spec.steps
    tokens = post(running, "/v1/values?start=2&chunks=3", as_duo(codes)).json()
    assert (tokens["kind"], tokens["start"], tokens["chunks"]) == ("tokens", 2, 3)
    assert tokens["codes"]["values"] == codes.indices[:, 2 * steps : 5 * steps].tolist()
    assert tokens["codes"]["sizes"] == list(codec.spec.codebooks) and tokens["codes"]["streams"] == 1
    rows = tokens["latents"]["rows"]
    shown = np.array(tokens["latents"]["values"])
    assert shown.shape == (3 * tokens["latents"]["columns"], rows)
    assert np.abs(shown - codes.latents().channels(rows)[2:5].reshape(-1, rows).numpy()).max() < 6e-4
    exact = post(running, "/v1/values", as_duo(latents)).json()
    assert exact["kind"] == "latents" and exact["chunks"] == len(latents)
    assert np.abs(np.array(exact["latents"]["values"]) - latents.channels(rows).reshape(-1, rows).numpy()).max() < 2e-3
    assert exact["codes"]["values"] == codes.indices.tolist()


def test_values_that_are_not_there_are_refused(running: Running, codec: CoDiCodec, wave: Waveform) -> None:
    data = as_duo(codec.encode(wave).codes())
    refused(post(running, "/v1/values?start=100000", data), 400, "start got 100000")
    refused(post(running, "/v1/values?chunks=100000", data), 400, "chunks")
    refused(post(running, "/v1/values", data[:-40]), 422, "")
    refused(post(running, "/v1/values", b"RIFF"), 422, "is not a .duo")


@pytest.mark.skipif(bool(opus.missing_programs()), reason="needs opus-tools")
def test_opus_of_a_size_and_of_a_rate(running: Running, tmp_path: Path) -> None:
    data = as_wav(synthesize(7, 0.5), tmp_path / "sound.wav")
    own = read(io.BytesIO(data))
    for wish, asked in (("kbps=12", "12"), ("bytes=300", None)):
        found = post(running, f"/v1/opus?{wish}", data)
        assert found.status_code == 200, found.text
        heard = read(io.BytesIO(found.content))
        assert (heard.rate, heard.channels, heard.length) == (own.rate, own.channels, own.length)
        assert torch.corrcoef(torch.stack([heard.samples.mean(0), own.samples.mean(0)]))[0, 1] > 0.5
        assert 100 < int(found.headers["duotone-bytes"]) < 5_000 and int(found.headers["duotone-bandwidth"]) >= 4_000
        assert asked is None or found.headers["duotone-bitrate"] == asked
    refused(post(running, "/v1/opus", data), 400, "one of the two")
    refused(post(running, "/v1/opus?bytes=1&kbps=6", data), 400, "one of the two")
    refused(post(running, "/v1/opus?kbps=6", as_wav(synthesize(7, 0.6), tmp_path / "long.wav")), 413, "0.5 s")


def test_a_machine_without_opus_says_so(running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert httpx.get(running.url + "/v1/models", timeout=600).json()["opus"] is False
    found = post(running, "/v1/opus?kbps=6", as_wav(synthesize(7, 0.2), tmp_path / "sound.wav"))
    refused(found, 501, "apt install opus-tools")


def described(running: Running) -> Any:
    return httpx.get(running.url + "/openapi.json", timeout=600).json()["paths"]


def test_they_are_described(running: Running) -> None:
    paths = described(running)
    for path in ("/v1/sound", "/v1/values", "/v1/opus"):
        assert paths[path]["post"]["requestBody"]["content"]["application/octet-stream"]
    assert "/" not in paths


def test_what_is_held_is_limited_in_bytes(codec: CoDiCodec, tmp_path: Path) -> None:
    data = as_wav(synthesize(5, 0.4), tmp_path / "sound.wav")
    with serving(codec, limits={"decoded_bytes": 10_000}) as running:
        refused(post(running, "/v1/sound", data), 413, "decoded_bytes")
        refused(post(running, "/v1/opus?kbps=6", data), 413 if not opus.missing_programs() else 501, "")
