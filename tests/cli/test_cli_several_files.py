"""encode and decode of several files: counts, sums, going on after a stop, outputs that are checked before the work."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from duotone.audio.files import write
from duotone.audio.synth import synthesize
from duotone.cli.common import check_outputs, size, table


@pytest.fixture
def album(here: Path) -> Path:
    """Three short recordings and a text that only looks like sound."""
    folder = here / "album"
    folder.mkdir()
    for number, name in enumerate("abd"):
        write(folder / f"{name}.wav", synthesize(number, 0.03))
    (folder / "c.wav").write_text("no sound")
    return folder


def test_counts_and_the_sum(album: Path, duotone: Any) -> None:
    told = duotone("encode", "album", "-o", "out")
    lines = told.stderr.splitlines()
    assert told.exit_code == 3 and lines[0].startswith("[1/4] album/a.wav -> out/a.duo: 0.030 s")
    assert lines[2].startswith("[3/4] error: album/c.wav is not a sound file") and lines[3].startswith("[4/4] ")
    sound = sum(os.path.getsize(album / f"{name}.wav") for name in "abd")
    coded = sum(os.path.getsize(f"out/{name}.duo") for name in "abd")
    assert lines[-1] == f"3 files encoded ({size(sound)} in, {size(coded)} out), 1 failed."


def test_it_goes_on_with_what_is_missing(album: Path, duotone: Any) -> None:
    (album / "c.wav").unlink()
    assert duotone("encode", "album", "-o", "out").exit_code == 0
    Path("out/b.duo").unlink()
    refused = duotone("encode", "album", "-o", "out")
    assert refused.exit_code == 2 and "--skip-existing" in refused.stderr
    before = os.stat("out/a.duo").st_mtime_ns
    told = duotone("encode", "album", "-o", "out", "--skip-existing", "--json")
    found = {Path(line["input"]).name: line for line in map(json.loads, told.stdout.splitlines())}
    assert told.exit_code == 0 and found["a.wav"]["skipped"] and found["d.wav"]["skipped"] and found["b.wav"]["bytes"]
    assert os.stat("out/a.duo").st_mtime_ns == before
    done = duotone("encode", "album", "-o", "out", "--skip-existing")
    assert done.exit_code == 0 and "3 of 3 outputs exist already and are kept" in done.stderr
    assert duotone("decode", "out", "-o", "back").exit_code == 0
    Path("back/a.wav").unlink()
    told = duotone("decode", "out", "-o", "back", "--skip-existing")
    assert told.exit_code == 0 and Path("back/a.wav").is_file() and "2 of 3 outputs" in told.stderr
    both = duotone("decode", "out", "-o", "back", "--skip-existing", "--force")
    assert both.exit_code == 2 and "Choose one" in both.stderr


def test_one_file_needs_no_sum(here: Path, duotone: Any) -> None:
    told = duotone("encode", "a.wav", "-o", "a.duo")
    assert len(told.stderr.splitlines()) == 1 and not told.stderr.startswith("[")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs folders without rights to write")
def test_a_folder_without_rights_is_found_before_the_work(here: Path, duotone: Any) -> None:
    Path("locked").mkdir(mode=0o500)
    told = duotone("encode", "a.wav", "-o", "locked/deeper/a.duo")
    assert told.exit_code == 7 and "Check the rights" in told.stderr


def test_outputs_are_judged_by_the_nearest_folder(here: Path) -> None:
    check_outputs(["-", "new/deeper/a.duo", "b.duo"])
    with pytest.raises(NotADirectoryError):
        check_outputs(["a.wav/b.duo"])
    assert not Path("new").exists()


def test_a_table_is_aligned_text() -> None:
    lines = table(["way", "SI-SDR\ndB", "bytes"], [["latents", "-49.5", "1,234"], ["tokens", "3.1", "9"]])
    assert lines == [
        "         SI-SDR",
        "way          dB  bytes",
        "-------  ------  -----",
        "latents   -49.5  1,234",
        "tokens      3.1      9",
    ]
    assert size(2_400_000_000) == "2.4 GB" and size(999) == "999 bytes"
