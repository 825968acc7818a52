"""info of files and codecs; convert there and back; train and evaluate reach their rooms."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from duotone.audio.files import write
from duotone.audio.waveform import Waveform
from duotone.codec.codicodec import CoDiCodec
from duotone.codec.codicodec.weights import export_codicodec
from duotone.codec.lycodec.weights import save_lycodec
from duotone.hub import save
from small_lycodec import random_lycodec


def test_info_of_a_duo_file(here: Path, duotone: Any, codec: CoDiCodec) -> None:
    duotone("encode", "a.wav", "-o", "a.duo")
    told = json.loads(duotone("info", "a.duo", "--json").stdout)
    size = Path("a.duo").stat().st_size
    assert (told["codec"], told["number_format"]) == ("small", "float32") and told["fingerprint"] == codec.fingerprint
    assert told["space"] == codec.spec.space and told["kind"] == "tokens" and told["framing"] == "exact"
    assert (told["samples"], told["rate"], told["channels"], told["chunks"]) == (2_400, 48_000, 2, 5)
    assert told["bytes"] == size and told["kbit_per_second"] == pytest.approx(size * 8 / 0.05 / 1000)
    text = duotone("info", "a.duo").stdout
    assert "0.050 s" in text and codec.fingerprint in text and "none" in text


def test_info_of_a_sound_and_of_a_codec(here: Path, duotone: Any, codec: CoDiCodec, codec_folder: str) -> None:
    told = json.loads(duotone("info", "a.wav", "--json").stdout)
    assert (told["type"], told["samples"], told["rate"], told["channels"]) == ("sound", 2_400, 48_000, 2)
    told = json.loads(duotone("info", codec_folder, "--json").stdout)
    assert told["fingerprint"] == codec.fingerprint and told["config"] == codec.config.to_dict()
    assert told["parameters"] == sum(told["parameters_by_part"].values()) > 0
    assert told["kbit_per_second"] == pytest.approx(codec.config.bit_rate / 1000)
    assert (told["faces"], told["number_format"]) == (["latents", "tokens"], "float32")
    assert "    weights: random, seed 1" in duotone("info", codec_folder).stdout.splitlines()


def test_info_of_a_lycodec(here: Path, duotone: Any) -> None:
    """Its parts are those of its own count; a token is a step, of all codebooks."""
    codec = random_lycodec()
    save_lycodec(codec, "lyco")
    told = json.loads(duotone("info", "lyco", "--json").stdout)
    assert told["parameters_by_part"] == codec.network.parameters_by_part()
    assert told["parameters"] == sum(told["parameters_by_part"].values())
    assert told["bits_per_step"] == pytest.approx(16 * math.log2(11))
    assert told["kbit_per_second"] * 1000 == pytest.approx(6 * told["bits_per_step"] / told["chunk_seconds"])


def test_files_are_described_without_torch(here: Path, duotone: Any) -> None:
    """Which is why `info FILE` answers at once."""
    duotone("encode", "a.wav", "-o", "a.duo")
    for name in ("a.wav", "a.duo"):
        code = (
            f"import sys; from duotone.cli.main import app\ntry: app(['info', {name!r}])\n"
            "except SystemExit as left: sys.exit('torch was imported' if 'torch' in sys.modules else left.code)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "") and "0.050 s" in done.stdout


def test_history_is_shown_as_lines(here: Path, duotone: Any, codec: CoDiCodec) -> None:
    former = {"fingerprint": "c851340eb5836fbd", "provenance": {"steps": 4000, "machine": {"cpu": "x" * 90}}}
    save(CoDiCodec(codec.network, provenance={"steps": 200, "began_from": former}), "further")
    told = duotone("info", "further").stdout
    began = next(line for line in told.splitlines() if "began_from" in line)
    assert began.endswith("steps") and "{" not in began and max(map(len, told.splitlines())) <= 100
    assert json.loads(duotone("info", "further", "--json").stdout)["provenance"]["began_from"] == former
    told = duotone("info", "tiny").stdout
    assert "strategies" in told and max(map(len, told.splitlines())) <= 100


def test_standard_input_has_a_name(here: Path, duotone: Any) -> None:
    for data, code in ((b"no sound at all", 3), (b"", 3), (b"\x89DUO\r\n\x1a\nxx", 4)):
        told = duotone("info", "-", stdin=data)
        assert told.exit_code == code and "standard input" in told.stderr, told.stderr


def test_a_tokenizer_is_no_codec(here: Path, duotone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        pass

    monkeypatch.setattr("duotone.hub._find", lambda *_: Other())
    told = duotone("info", "words")
    assert told.exit_code == 2 and "words is a Other, expected a codec" in told.stderr


def test_convert_there_and_back_is_byte_equal(here: Path, duotone: Any, codec: CoDiCodec) -> None:
    extras = {"unused.weight": torch.arange(6.0).reshape(2, 3)}
    published = CoDiCodec(codec.network, extras=extras)
    export_codicodec(published, "first.pt")
    Path("sizes.yaml").write_text(codec.config.to_json())
    assert duotone("convert", "first.pt", "folder", "--config", "sizes.yaml").exit_code == 0
    assert duotone("convert", "folder", "second.pt").exit_code == 0
    first, second = (torch.load(name, weights_only=True)["gen_state_dict"] for name in ("first.pt", "second.pt"))
    assert first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)
    assert duotone("info", "folder", "--json").exit_code == 0


def test_convert_refuses(here: Path, duotone: Any, codec_folder: str) -> None:
    Path("again.pt").touch()
    assert duotone("convert", codec_folder, "again.pt").exit_code == 2
    result = duotone("convert", codec_folder, "new.pt")
    assert result.exit_code == 6 and "published" in result.stderr and not Path("new.pt").exists()
    assert duotone("convert", codec_folder, "elsewhere").exit_code == 2
    Path("junk.pt").write_text("junk")
    assert duotone("convert", "junk.pt", "folder").exit_code == 6
    assert duotone("convert", "absent.pt", "folder").exit_code == 6
    assert duotone("convert", "absent.pt", "folder.pt").exit_code == 2


def test_latents_of_codicodec_flow_are_converted_to_a_store(here: Path, duotone: Any, codec_folder: str) -> None:
    for name in ("a", "deep/b"):
        path = Path("latents", name).with_suffix(".pt")
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"latent": torch.randn(5, 8, 8), "sample_rate": 48_000, "samples": 2500, "source": "x.wav"}, path)
    assert "--codec" in duotone("convert", "latents", "store").stderr
    assert duotone("convert", "latents", "store", "--codec", codec_folder, "--dtype", "bfloat16").exit_code == 2
    done = duotone("convert", "latents", "store", "--codec", codec_folder)
    assert done.exit_code == 0 and "2 recordings, 10 chunks" in done.stderr
    done = duotone("convert", "latents/a.pt", "one", "--codec", codec_folder)
    assert done.exit_code == 0 and json.loads(duotone("info", "one", "--json").stdout)["recordings"] == 1
    assert "--codec is for latents" in duotone("convert", codec_folder, "back.pt", "--codec", codec_folder).stderr


def test_evaluate_prints_a_table_or_json(here: Path, duotone: Any, codec_folder: str) -> None:
    Path("sounds").mkdir()
    time = torch.arange(9_600) / 48_000
    write("sounds/tone.wav", Waveform(0.2 * torch.sin(2 * torch.pi * 330 * time)[None], 48_000))
    told = duotone("evaluate", codec_folder, "--data", "sounds", "--json")
    assert told.exit_code == 0 and len({row["system"] for row in json.loads(told.stdout)["rows"]}) >= 4
    assert "SI-SDR" in duotone("evaluate", codec_folder, "--data", "sounds", "--quiet").stdout
    assert duotone("evaluate", codec_folder, "--data", "absent").exit_code == 3
    assert (
        duotone("evaluate", codec_folder, "--data", "sounds", "--against", "vinyl:1").exit_code == 6
    )  # no codec of that name


def test_a_pipe_is_described_as_a_file_is(here: Path, duotone: Any) -> None:
    assert duotone("encode", "a.wav", "-o", "a.duo").exit_code == 0
    os.mkfifo("pipe")
    for name in ("a.duo", "a.wav"):
        expected = json.loads(duotone("info", name, "--json").stdout)
        writer = threading.Thread(target=lambda name=name: Path("pipe").write_bytes(Path(name).read_bytes()))
        writer.start()
        found = json.loads(duotone("info", "pipe", "--json").stdout)
        writer.join()
        assert {**found, "file": name} == expected
    empty = duotone("info", os.devnull)
    assert empty.exit_code == 3 and f"{os.devnull} is empty" in empty.stderr
