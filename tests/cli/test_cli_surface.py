"""The command line's surface: commands, options, help, version, and what it costs to start."""

from __future__ import annotations

import subprocess
import sys
from typing import Any, get_args

import pytest
import typer

from duotone.cli.decode import FormatName, StrategyName
from duotone.cli.encode import FramingName, Kind
from duotone.cli.latents import LayoutName
from duotone.cli.main import app, share_cores

_OF_OTHERS = ("--bandwidth", "--n-quantizers", "--codec-repo")
COMMANDS = {
    "encode": {
        "--output", "--codec", "--kind", "--compact", "--framing", "--chunk-size-secs", "--context-secs", *_OF_OTHERS, "--device",
        "--dtype", "--server", "--force", "--skip-existing", "--json", "--quiet",
    },
    "decode": {
        "--output", "--codec", "--strategy", "--steps", "--iterations", "--seed", "--time-prompt", "--format", "--native-rate",
        "--salvage", *_OF_OTHERS, "--device", "--dtype", "--server", "--force", "--skip-existing", "--json", "--quiet",
    },
    "info": {*_OF_OTHERS, "--json"},
    "convert": {"--codec", "--config", "--dtype", "--force"},
    "latents": {
        "--output", "--codec", "--format", "--channels", "--stereo", "--shard-mb", "--chunk-size-secs",
        "--context-secs", *_OF_OTHERS, "--device", "--dtype", "--overwrite", "--workers", "--json", "--quiet",
    },
    "prepare": {
        "--output", "--codec", "--codes", "--no-latents", "--workers", "--engine", "--format", "--channels", "--stereo",
        "--shard-mb", "--chunk-size-secs", "--context-secs", *_OF_OTHERS, "--device", "--dtype", "--overwrite",
        "--verify", "--json", "--quiet",
    },
    "generate": {
        "--output", "--seconds", "--flow", "--lm", "--codec", "--prompt", "--include-prompt", "--takes", "--seed", "--temperature",
        "--top-k", "--top-p",
        "--steps", "--solver", "--shift", "--guidance", "--context", "--exact", "--format", "--device", "--dtype", "--force",
        "--json", "--quiet",
    },
    "jam": {
        "--flow", "--codec", "--prompt", "--seed", "--lookahead", "--sink", "--stdio", "--clock", "--seconds", "--input", "--osc",
        "--midi", "--schema", "--device", "--dtype",
    },
    "serve": {
        "--config", "--host", "--port", "--codec", "--flow", "--tokens", "--origin", "--state", "--device", "--dtype", "--open", "--print-config",
    },
    "doctor": {"--device", "--json"},
    "demo": {
        "--output", "--start", "--seconds", "--codec", "--seed", "--open", *_OF_OTHERS, "--device", "--dtype", "--force",
        "--json",
    },
    "train": {"--data", "--out", "--json", "--quiet"},
    "report": {"--output", "--open"},
    "fetch-sounds": {"--split", "--only", "--mirror", "--licences", "--force", "--quiet"},
    "make-sounds": {
        "--minutes", "--split", "--seed", "--kinds", "--soundfont", "--workers", "--plain", "--force", "--quiet",
    },
    "evaluate": {
        "--data", "--against", "--limit", "--seconds", "--rate", "--speech", "--frechet", "--bandwidth",
        "--n-quantizers", "--codec-repo", "--seed", "--intervals", "--html", "--force", "--device", "--dtype", "--json",
        "--quiet",
    },
    "codes": {
        "--output", "--codec", "--codec-type", "--codec-model", "--chunk-size-secs", "--context-secs", "--batch-size",
        "--bandwidth", "--n-quantizers", "--stereo", "--file-per-chunk", "--audio-filter", "--overwrite",
        "--codec-info-only", "--device", "--dtype", "--json", "--quiet", "--codes-path", "--audio-path", "--codec-repo",
        "--extensions", "--decode", "--scale",
    },
}  # fmt: skip
_SOURCE = {"--codes-path", "--num-codebooks", "--codebook-size", "--codec-framerate", "--codes-filter", "--num-files"}
TOKENS = {
    "train": {
        *_SOURCE, "--chunk-size-secs", "--vocab-size", "--min-frequency", "--special-tokens", "--bos-token",
        "--eos-token", "--unk-token", "--pad-token", "--max-token-codebook-ngrams", "--unicode-offset", "--save-path",
        "--force", "--json", "--quiet",
    },
    "report": {"--codes-path", "--num-codebooks", "--codes-filter", "--num-files", "--json"},
    "advise": {*_SOURCE, "--chunk-size-secs", "--min-frequency", "--vocab-sizes", "--json"},
    "extend": {
        "--existing-tokenizer", "--codec-bpe-tokenizer", "--save-path", "--additional-special-tokens",
        "--as-added-tokens", "--num-codebooks", "--force", "--json",
    },
    "dataset": {
        *_SOURCE - {"--codec-framerate", "--num-files"}, "--tokenizer", "--audio-start-token", "--audio-end-token",
        "--unicode-offset", "--sequence-length", "--overlap-length", "--grid", "--drop-last", "--channels", "--pack",
        "--save-path", "--num-examples", "--force", "--json",
    },
    "decode": {
        "--tokenizer", "--output", "--format", "--codec", "--num-codebooks", "--damaged", "--channels", "--scale",
        "--bandwidth", "--n-quantizers", "--codec-repo", "--seed", "--device", "--force", "--json", "--quiet",
    },
    "stats": {
        "--dataset-path", "--tokenizer", "--num-codebooks", "--codec-framerate", "--overlap-length", "--num-examples",
        "--json",
    },
}  # fmt: skip


STORE = {
    "verify": set(),
    "join": {"--output", "--format", "--shard-mb"},
    "export": {"--output", "--file-mb"},
    "import": {"--output", "--codec", "--format", "--shard-mb"},
}  # fmt: skip


def _options(command: Any) -> set[str]:
    flags = {flag for parameter in command.params for flag in parameter.opts if flag.startswith("--")}
    return flags - {"--help"}


def test_commands_and_options_are_pinned() -> None:
    group: Any = typer.main.get_command(app)
    groups = {name: group.commands[name] for name in ("tokens", "store")}
    assert {name: _options(command) for name, command in group.commands.items() if name not in groups} == COMMANDS
    for name, options in (("tokens", TOKENS), ("store", STORE)):
        assert {each: _options(command) for each, command in groups[name].commands.items()} == options
    assert _options(group) == {"--version", "--debug"}


def test_choices_are_those_of_the_library() -> None:
    from duotone.audio.files import FORMATS
    from duotone.codec.codicodec import STRATEGIES
    from duotone.codec.container import Kind as StoredKind
    from duotone.config import Framing
    from duotone.store.manifest import LAYOUTS

    assert {s.value for s in StrategyName} == set(STRATEGIES)
    assert {k.value for k in Kind} == set(get_args(StoredKind))
    assert {f.value for f in LayoutName} == set(LAYOUTS)
    assert {f.value for f in FramingName} == set(get_args(Framing))
    assert {f".{f.value}" for f in FormatName} == set(FORMATS) - {".oga"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_has_examples(name: str, duotone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    result = duotone(name, "--help")
    assert result.exit_code == 0
    assert "Examples" in result.stdout and f"duotone {name} " in result.stdout.split("Examples")[1]


def test_the_default_codec_in_help_is_the_library_s(duotone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from duotone.hub import DEFAULT

    monkeypatch.setenv("COLUMNS", "200")
    for name in ("encode", "decode", "demo"):
        assert f"(default: {DEFAULT})" in duotone(name, "--help").stdout


def test_version(duotone: Any) -> None:
    from duotone import __version__

    assert duotone("--version").stdout.strip() == f"duotone {__version__}"


def test_help_needs_no_torch_and_the_module_runs() -> None:
    script = "import sys, duotone.cli.main; heavy = {'torch', 'numpy', 'soundfile'} & set(sys.modules); sys.exit(str(heavy) if heavy else 0)"
    subprocess.run([sys.executable, "-c", script], check=True)
    helped = subprocess.run([sys.executable, "-m", "duotone", "--help"], capture_output=True, text=True, check=True)
    assert "Usage: duotone" in helped.stdout


@pytest.mark.parametrize(
    "words",
    [
        ["nonsense"], ["encode"], ["encode", "a.wav"], ["encode", "a.wav", "-o", "b.duo", "--kind", "pictures"],
        ["decode", "a.duo", "-o", "a.wav", "--time-prompt", "2", "--strategy", "autoregressive"],
        ["decode", "a.duo", "-o", "a.wav", "--format", "aac"], ["info"], ["train", "x.yaml"],
    ],
)  # fmt: skip
def test_wrong_arguments_exit_with_2(words: list[str], duotone: Any) -> None:
    assert duotone(*words).exit_code == 2


def test_threads_share_cores_unless_the_user_says_otherwise() -> None:
    for before, after in (
        ({}, {"GOMP_SPINCOUNT": "3000"}),
        ({"OMP_WAIT_POLICY": "active"}, {"OMP_WAIT_POLICY": "active"}),
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
    ):
        environment = dict(before)
        share_cores(environment)
        assert environment == after


def test_pytorch_is_not_loaded_before_a_command_runs() -> None:
    """Else `share_cores` would come too late, and --help would take seconds."""
    code = "import duotone.cli.main, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
