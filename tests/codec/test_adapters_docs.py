"""docs/codecs.md: its tables name every codec with what it was tested on, and its Python runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_adapters_makers import DOUBLES, LATENTS, TOKENS, make_mimi

from duotone.audio.files import write
from duotone.audio.synth import synthesize
from duotone.codec.adapters.table import CODECS

TEXT = (Path(__file__).parents[2] / "docs" / "codecs.md").read_text(encoding="utf-8")


def rows() -> list[list[str]]:
    lines = [line for line in TEXT.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_tables_name_every_codec_and_how_it_was_tested() -> None:
    named = [(row[0].strip("`"), row[-1]) for row in rows()]
    assert {name for name, _ in named} == set(CODECS)
    doubles = {name.removesuffix("_clone") for name in DOUBLES}
    real = {name.removesuffix("_48khz") for name in (*TOKENS, *LATENTS)}
    assert {name for name, tested in named if tested == "a double"} == doubles
    assert {name for name, tested in named if tested.startswith("random weights")} == real


def test_its_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    make_mimi().model.save_pretrained("mimi")
    write("a.wav", synthesize(0, 3.0))
    blocks = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "docs/codecs.md", "exec"), {"__name__": "example"})
    told = capsys.readouterr().out
    assert "torch.Size([4, 38]) 12.5" in told and "Lengths" not in told and "come back, from one sample on" in told
    assert Path("again.wav").is_file()
