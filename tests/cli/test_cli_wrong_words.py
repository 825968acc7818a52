"""Words on the command line that do not go together: one sentence that helps, and nothing is left on disk."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from duotone.errors import ConfigError


def _all(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_file_given_twice_is_one_file(here: Path, duotone: Any) -> None:
    assert duotone("encode", "a.wav", "./a.wav", "-o", "a.duo").exit_code == 0 and Path("a.duo").is_file()
    shutil.copy("a.wav", "b.wav")
    result = duotone("encode", "a.wav", "b.wav", "a.wav", "-o", "both.duo")
    assert result.exit_code == 2 and "2 files cannot all go into both.duo" in result.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["demo", "a.wav", "-o"],
        ["prepare", "a.wav", "-o"],
        ["latents", "a.wav", "-o"],
        ["store", "join", "store", "-o"],
        ["store", "export", "store", "-o"],
        ["report", "run", "-o"],
        ["train", "tiny-demo", "train.steps=1", "--data", "a.wav", "--out"],
        ["tokens", "train", "--codes-path", ".", "--save-path"],
        ["evaluate", "tiny", "--data", ".", "--html"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
@pytest.mark.parametrize(("output", "says"), [("-", "standard output"), ("", "name is empty")], ids=["dash", "empty"])
def test_folders_and_pages_have_names(words: list[str], output: str, says: str, here: Path, duotone: Any) -> None:
    result = duotone(*words, output)
    assert result.exit_code == 2 and says in " ".join(result.stderr.split())
    assert _all(here) == ["a.wav"]


@pytest.mark.parametrize("sound", ["missing.wav", "text.wav"])
def test_no_store_is_left_where_nothing_was_encoded(sound: str, here: Path, duotone: Any, codec_folder: str) -> None:
    Path("text.wav").write_text("no sound")
    words = ["latents", sound, "-o", "store", "--codec", codec_folder]
    assert duotone(*words).exit_code == 3 and not Path("store").exists()
    Path("store").mkdir()  # the user's own folder stays
    assert duotone(*words).exit_code == 3 and _all(Path("store")) in ([], [".duotone-lock"])
    assert duotone("latents", sound, "a.wav", "-o", "store", "--codec", codec_folder).exit_code == 3
    assert Path("store/a.npy").is_file(), "what can be encoded is kept"


def test_a_folder_of_other_files_is_refused_untouched(here: Path, duotone: Any, codec_folder: str) -> None:
    result = duotone("latents", "a.wav", "-o", ".", "--codec", codec_folder)
    assert result.exit_code == 2 and "store.json" in result.stderr and _all(here) == ["a.wav"]


def test_channels_name_their_choices(here: Path, duotone: Any, codec_folder: str) -> None:
    result = duotone("latents", "a.wav", "-o", "store", "--channels", "7", "--codec", codec_folder)
    assert result.exit_code == 2 and "Take one of 1, 2" in result.stderr and not Path("store").exists()


def test_names_with_line_breaks_take_one_line(here: Path, duotone: Any) -> None:
    shutil.copy("a.wav", "two\nlines\x1b[2J.wav")
    result = duotone("encode", "two\nlines\x1b[2J.wav", "-o", "out/")
    assert result.exit_code == 0 and Path("out/two\nlines\x1b[2J.duo").is_file()
    assert result.stderr.count("\n") == 1 and "two\\nlines\\x1b[2J.wav" in result.stderr and "\x1b" not in result.stderr


def test_a_refused_name_is_the_one_that_was_given(here: Path, duotone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", ".duotone-secret.part")

    monkeypatch.setattr("duotone.atomic.tempfile.mkstemp", refused)
    result = duotone("encode", "a.wav", "-o", "mine.duo")
    assert result.exit_code == 7 and "mine.duo" in result.stderr and ".part" not in result.stderr


def test_a_training_that_cannot_begin_leaves_no_folder(here: Path, duotone: Any) -> None:
    result = duotone("train", "tiny-demo", "--data", "nothing/", "--out", "run", "train.steps=1")
    assert result.exit_code == 3 and not Path("run").exists()
    Path("run").mkdir()
    assert duotone("train", "tiny-demo", "--data", "nothing/", "--out", "run", "train.steps=1").exit_code == 3
    assert Path("run").is_dir()


def test_a_codec_does_not_start_from_a_flow(tmp_path: Path) -> None:
    from duotone.flow.model import FlowModel
    from duotone.train.run import train

    flow = FlowModel.__new__(FlowModel)
    with pytest.raises(ConfigError, match="got a FlowModel, expected a codec"):
        train(
            "tiny-demo", tmp_path, tmp_path / "run",
            ["model.start_from=flow-tiny", "train.device=cpu"], load=lambda name: flow,
        )  # fmt: skip


def test_a_flow_is_not_listed_as_a_codec_and_refused_as_one(here: Path, duotone: Any) -> None:
    assert "flow-tiny (flow)" in duotone("encode", "a.wav", "-o", "a.duo", "--codec", "nonsense").stderr
    result = duotone("encode", "a.wav", "-o", "a.duo", "--codec", "flow-tiny")
    assert result.exit_code == 2 and "--codec names the codec" in result.stderr


def test_options_that_a_codec_lacks_are_named(here: Path, duotone: Any) -> None:
    result = duotone("encode", "a.wav", "-o", "a.duo", "--n-quantizers", "3")
    assert result.exit_code == 2 and "has no option n_quantizers. Leave it out." in result.stderr


def test_context_needs_a_chunk_size(here: Path, duotone: Any) -> None:
    result = duotone("encode", "a.wav", "-o", "a.duo", "--context-secs", "1")
    assert result.exit_code == 2 and "--chunk-size-secs" in result.stderr and not Path("a.duo").exists()


@pytest.mark.parametrize("output", ["out.txt", "nowhere/out.wav"])
def test_a_name_that_no_sound_can_have_is_a_wrong_argument(output: str, here: Path, duotone: Any) -> None:
    result = duotone("generate", "--seconds", "1", "-o", output)
    assert result.exit_code == 2 and output.split("/")[0] in result.stderr and _all(here) == ["a.wav"]


def test_including_a_prompt_needs_one(here: Path, duotone: Any) -> None:
    result = duotone("generate", "--seconds", "1", "-o", "out.wav", "--include-prompt")
    assert result.exit_code == 2 and "--prompt" in result.stderr and not Path("out.wav").exists()
