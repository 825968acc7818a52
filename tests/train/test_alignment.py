"""Alignment with a teacher: its rate and time, gradients, and what is saved; teachers are small random models of the real classes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import duotone
from duotone.audio.files import write
from duotone.audio.synth import synthesize
from duotone.errors import WeightsError
from duotone.train.alignment import Alignment, Teacher, TeacherSection, over_time
from duotone.train.draws import Draws
from duotone.train.lycodec import MAPS, LycodecObjective, LycodecObjectiveSection, token_spans
from duotone.train.recipe import TrainRecipe
from duotone.train.run import train
from small_lycodec import SMALL_LYCODEC

transformers = pytest.importorskip("transformers")
RATE = 16_000
SIZES = {"spectral_sizes": (64, 128), "mel_bands": 8}


@pytest.fixture(scope="module", params=["HubertModel", "Wav2Vec2Model"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of three features a millisecond at most, saved as from the Hub."""
    path = tmp_path_factory.mktemp(request.param)
    model = getattr(transformers, request.param)
    config = model.config_class(
        hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, conv_dim=(16, 16), conv_kernel=(10, 3),
        conv_stride=(5, 2), num_feat_extract_layers=2, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    torch.manual_seed(0)
    model(config).save_pretrained(path)
    transformers.Wav2Vec2FeatureExtractor(sampling_rate=RATE, do_normalize=True).save_pretrained(path)
    return path


def samples(count: int, chunks: int = 1) -> torch.Tensor:
    length = SMALL_LYCODEC.overlap + chunks * SMALL_LYCODEC.chunk_samples
    return 0.1 * torch.randn(count, 2, length, generator=torch.Generator().manual_seed(0))


def test_features_have_the_teachers_own_rate(folder: Path) -> None:
    teacher = Teacher(TeacherSection(model=str(folder)))
    found = teacher.features(torch.rand(3, 2, 48_000), 48_000)
    assert teacher.rate == RATE and found.shape == (3, pytest.approx(RATE / 10, abs=2), 24)
    assert not any(p.requires_grad for p in teacher.model.parameters())


def test_means_over_spans_of_time() -> None:
    features = torch.tensor([[[0.0], [1.0], [2.0], [3.0]]])
    spans = torch.tensor([[0.0, 0.5], [0.5, 1.0], [0.125, 0.375]])
    torch.testing.assert_close(over_time(features, spans), torch.tensor([[[0.5], [2.5], [0.5]]]))


def test_tokens_lie_where_their_frames_do() -> None:
    spans = token_spans(SMALL_LYCODEC, 2) * (SMALL_LYCODEC.overlap + 2 * SMALL_LYCODEC.chunk_samples)
    assert spans.shape == (12, 2) and torch.allclose(spans[1:, 0], spans[:-1, 1])
    middle = SMALL_LYCODEC.n_fft / 2  # of the first frame
    assert spans[0, 0] == middle - SMALL_LYCODEC.hop / 2
    assert spans[-1, 1] == middle + (2 * SMALL_LYCODEC.frames - 0.5) * SMALL_LYCODEC.hop


def test_the_loss_is_zero_where_the_map_gives_the_features(folder: Path) -> None:
    teacher, spans = Teacher(TeacherSection(model=str(folder), weight=0.3)), token_spans(SMALL_LYCODEC, 1)
    given = samples(2)
    wanted = over_time(teacher.features(given, 48_000), spans)
    alignment = Alignment([teacher], 24, spans)
    with torch.no_grad():
        alignment.maps[0].weight.copy_(torch.eye(24))
        alignment.maps[0].bias.zero_()
    ((weight, loss),) = alignment(wanted, given, 48_000)
    assert weight == 0.3 and abs(float(loss.detach())) < 1e-5
    ((_, other),) = alignment(wanted.flip(1), given, 48_000)  # the same features at other times
    assert float(other.detach()) > 1e-3


def test_it_reaches_the_encoder_and_not_the_teacher(folder: Path) -> None:
    section = LycodecObjectiveSection.parse(
        {**SIZES, "chunks": 2, "teachers": [{"model": str(folder), "weight": 1e3}], "teacher_decay": 0.0}
    )
    plain = LycodecObjectiveSection.parse({**SIZES, "chunks": 2, "teacher_decay": 0.0})
    grads = []
    for each in (section, plain):
        torch.manual_seed(0)
        objective = LycodecObjective(SMALL_LYCODEC, each)
        loss, values = objective({"samples": samples(3, 2)}, 0.5, Draws.whole(3, 0))
        loss.backward()
        grads.append(objective.network.encoder.head.weight.grad.clone())
        assert ("teacher 0" in values) == bool(each.teachers)
    assert not torch.allclose(grads[0], grads[1])
    names = dict(LycodecObjective(SMALL_LYCODEC, section).named_parameters())
    assert "alignment.maps.0.weight" in names and not any("hubert" in name or "model." in name for name in names)


def test_a_run_saves_the_maps_and_a_codec_without_them(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "sound").mkdir()
    for i in range(2):
        write(tmp_path / "sound" / f"{i}.wav", synthesize(i, 0.5))
    replaced = {k: v for k, v in SMALL_LYCODEC.to_dict().items() if k not in ("family", "noise", "decode")}
    recipe = TrainRecipe.parse({
        "model": {"kind": "lycodec", "replace": replaced}, "objective": {"kind": "lycodec", **SIZES, "teachers": [{"model": str(folder)}]},
        "data": {"kind": "sound", "workers": 1}, "optim": {"name": "adamw", "rate": 1e-3, "warmup_steps": 1},
        "train": {"steps": 2, "batch_size": 2, "validation_batches": 1, "decoded_clips": 0, "precision": "float32", "device": "cpu"},
    })  # fmt: skip
    train(recipe, [str(tmp_path / "sound")], tmp_path / "run")
    assert load_file(tmp_path / "run" / MAPS)["0.weight"].shape == (24, SMALL_LYCODEC.values)
    codec = duotone.load(str(tmp_path / "run" / "codec"))
    assert codec.decode(codec.encode(synthesize(3, 0.1))).length == 4_800


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"objective\.teachers got .*absent"):
        Teacher(TeacherSection(model=str(tmp_path / "absent")))


#: A repository's own code, as that of MERT: a model class that transformers does not have, named by `auto_map`. Running it leaves a trace.
CODE = """
from pathlib import Path
import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

Path({trace!r}).touch()


class PocketConfig(PretrainedConfig):
    model_type = "pocket-mert"

    def __init__(self, hidden_size=12, hop=160, **others):
        super().__init__(**others)
        self.hidden_size, self.hop = hidden_size, hop


class PocketModel(PreTrainedModel):
    config_class = PocketConfig

    def __init__(self, config):
        super().__init__(config)
        self.frames = torch.nn.Linear(config.hop, config.hidden_size)
        self.post_init()

    def _init_weights(self, module):
        pass

    def forward(self, input_values, **others):
        frames = input_values.unfold(-1, self.config.hop, self.config.hop)
        return BaseModelOutput(last_hidden_state=torch.tanh(self.frames(frames)))
"""


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path, torch.Tensor]:
    """The folder of a small random model with code of its own, the file that running the code makes, and one of its weights."""
    folder, trace = tmp_path / "pocket", tmp_path / "it ran"
    folder.mkdir()
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    (folder / "pocket.py").write_text(CODE.format(trace=str(trace)))
    weights = {
        "frames.weight": 0.1 * torch.randn(12, 160, generator=torch.Generator().manual_seed(0)),
        "frames.bias": torch.zeros(12),
    }
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    names = {"AutoConfig": "pocket.PocketConfig", "AutoModel": "pocket.PocketModel"}
    config = {
        "model_type": "pocket-mert",
        "auto_map": names,
        "hidden_size": 12,
        "hop": 160,
        "architectures": ["PocketModel"],
    }
    (folder / "config.json").write_text(json.dumps(config))
    transformers.Wav2Vec2FeatureExtractor(sampling_rate=RATE, do_normalize=True).save_pretrained(folder)
    return folder, trace, weights["frames.weight"]


def test_code_of_a_repository_runs_only_if_it_is_trusted(repository: tuple[Path, Path, torch.Tensor]) -> None:
    """MERT's class is code of its repository: without `trust_code` it is refused, saying which field to set, and nothing of it runs."""
    folder, trace, weight = repository
    with pytest.raises(WeightsError, match="trust_code: true"):
        Teacher(TeacherSection(model=str(folder)))
    assert not trace.exists()
    teacher = Teacher(TeacherSection(model=str(folder), trust_code=True))
    assert trace.exists() and type(teacher.model).__name__ == "PocketModel"
    assert torch.equal(teacher.model.frames.weight, weight)  # type: ignore[union-attr]
    assert (teacher.rate, teacher.width) == (RATE, 12)
    assert teacher.features(torch.rand(2, 2, 4_800), 48_000).shape == (2, 10, 12)


def test_packages_that_a_repositorys_code_needs_are_named(repository: tuple[Path, Path, torch.Tensor]) -> None:
    """As MERT's needs nnAudio."""
    code = repository[0] / "pocket.py"
    code.write_text("import a_package_for_sound\n" + code.read_text())
    with pytest.raises(WeightsError, match=r"objective\.teachers got .*a_package_for_sound"):
        Teacher(TeacherSection(model=str(repository[0]), trust_code=True))


def test_a_trusted_teacher_aligns_the_tokens(repository: tuple[Path, Path, torch.Tensor]) -> None:
    teachers = [{"model": str(repository[0]), "trust_code": True}]
    section = LycodecObjectiveSection.parse({**SIZES, "teachers": teachers, "teacher_decay": 0.0})
    objective = LycodecObjective(SMALL_LYCODEC, section)
    loss, values = objective({"samples": samples(3)}, 0.5, Draws.whole(3, 0))
    loss.backward()
    assert objective.alignment is not None and 0 < float(values["teacher 0"]) < 2
    gradient = objective.alignment.maps[0].weight.grad
    assert isinstance(gradient, torch.Tensor) and bool(gradient.any())
