"""Validation listens to any codec: a row for each face that it has and each way of decoding, or one where there is one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from duotone.audio.files import write
from duotone.audio.synth import synthesize
from duotone.audio.waveform import Waveform
from duotone.codec.codicodec import CoDiCodec
from duotone.codec.contract import Codec
from duotone.train.codec_objective import CodecObjective
from duotone.train.data import Crops
from duotone.train.draws import Draws
from duotone.train.index import build_index
from duotone.train.sections import SoundSection
from duotone.train.task import Batch
from duotone.train.validation import CodecValidation
from small import SMALL
from toys import Features, Grouped, Pcm


class Stub(CodecObjective):
    """An objective with one weight that leaves a codec which was made elsewhere."""

    def __init__(self, codec: Codec) -> None:
        super().__init__()
        self.codec, self.weight = codec, torch.nn.Parameter(torch.zeros(1))

    @property
    def rate(self) -> int:
        return self.codec.rate

    @property
    def crop(self) -> int:
        return 4_000

    def forward(self, batch: Batch, progress: float, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        raise AssertionError("validation does not train")

    def fresh(self) -> CodecObjective:
        return Stub(self.codec)

    def begin_from(self, codec: Codec) -> None:
        raise AssertionError("validation begins from nothing")

    def export(self, provenance: dict[str, object]) -> Codec:
        return self.codec

    def save(self, codec: Codec, folder: Path) -> None:
        raise AssertionError("validation saves nothing")


def length(one: Waveform, other: Waveform) -> dict[str, float]:
    assert (one.rate, one.channels, one.length) == (other.rate, other.channels, other.length)
    return {"log_mel": float(one.length), "mr_stft": float("inf")}


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("held")
    write(folder / "a.wav", synthesize(1, 0.6))
    return folder


@pytest.mark.parametrize(
    ("codec", "ways"),
    [
        (Pcm(), {("discrete", None)}),
        (Features(), {("continuous", None)}),
        (Grouped(), {("continuous", None), ("discrete", None)}),
        (
            CoDiCodec.random(SMALL),
            {(face, way) for face in ("continuous", "discrete") for way in ("parallel", "autoregressive")},
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_codec_has_a_row_for_each_face_and_way(
    codec: Codec, ways: set[tuple[str, Any]], held: Path, tmp_path: Path
) -> None:
    section = SoundSection(validation_share=0)
    stub = Stub(codec)
    crops = Crops(build_index(held, section).training, codec.rate, stub.crop, section, 0)
    validation = CodecValidation(stub, crops, tmp_path, 1, listen_every=5, clips=2, measure=length, decoded=3)
    metrics = validation(4, {"weight": torch.ones(1)})
    assert metrics == {"validation_log_mel": 4_000, "validation_mr_stft": float("inf"), "validation_loss": 4_000}
    assert validation(5, {"weight": torch.ones(1)})["listen_log_mel"] == 4_000
    folder = tmp_path / "samples" / "step-000000005"
    rows = json.loads((folder / "metrics.json").read_text())
    assert {(row["face"], row["strategy"]) for row in rows} == ways and len(rows) == 2 * len(ways)
    assert all(row["mr_stft"] is None for row in rows)  # infinite
    names = {"-".join(filter(None, ("clip-1", *way))) for way in ways} | {"clip-1-original"}
    assert {path.stem for path in folder.glob("clip-1-*.wav")} == names
    validation(5, {"weight": torch.ones(1)})  # the same step once more, after a resume


def test_averaged_weights_are_those_that_are_exported(held: Path) -> None:
    stub = Stub(Pcm())
    out = stub.with_weights({"weight": torch.full((1,), 7.0)})
    assert (
        isinstance(out, Stub)
        and float(out.weight.detach()) == 7
        and not out.training
        and float(stub.weight.detach()) == 0
    )
    with pytest.raises(AssertionError, match="weight"):
        stub.with_weights({"other": torch.zeros(1)})
