"""Codecs through their authors' code: doubles of their repositories, loaded without a trace in the process."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from test_adapters_makers import (
    _FUNCODEC,
    _WAVTOKENIZER,
    MAKERS,
    make_distill,
    make_funcodec,
    make_magicodec,
    make_simvq,
    make_wavtokenizer_clone,
    write_repository,
)

from duotone.audio.synth import synthesize
from duotone.audio.waveform import Waveform
from duotone.codec.adapters.packages import PUBLISHED, PackageCodec, WavTokenizerClone
from duotone.codec.adapters.repository import Repository
from duotone.codec.adapters.table import load_codec
from duotone.errors import UsageError, WeightsError

CLONED = ("wavtokenizer_clone", "simvq", "magicodec", "funcodec")
INFO = {  # rates of encoder and decoder, codebooks, size, frames a second
    "wavtokenizer_clone": (24_000, 24_000, 1, 64, 40.0), "simvq": (24_000, 24_000, 1, 32, 75.0),
    "magicodec": (16_000, 16_000, 1, 64, 50.0), "funcodec": (16_000, 16_000, 2, 64, 25.0),
    "distill-neucodec": (16_000, 24_000, 1, 65_536, 50.0),
}  # fmt: skip


@pytest.mark.parametrize("name", INFO)
def test_the_spec_is_that_of_the_model(name: str, tmp_path: Path) -> None:
    spec = MAKERS[name](tmp_path).spec
    got = (spec.rate, spec.rate_out, len(spec.codebooks), spec.codebooks[0], spec.steps_per_second)
    assert got == INFO[name] and spec.family == name.removesuffix("_clone")


@pytest.mark.parametrize("name", INFO)
def test_codes_and_sound_are_what_the_double_says(name: str, tmp_path: Path) -> None:
    """A staircase of loudness, three steps of one code each: its codes, and the staircase again from these."""
    codec = MAKERS[name](tmp_path)
    steps = torch.tensor([0.1, 0.4, 0.9])
    wave = Waveform(steps.repeat_interleave(3 * codec.spec.chunk)[None], codec.spec.rate)
    found = codec.encode(wave)
    top = 1.0 if name != "funcodec" else float(steps[-1])  # which divides by its loudness... as peaks of what is given
    size = codec.spec.codebooks[0]
    want = (steps.repeat_interleave(3) * (size - 1)).round().long()
    assert torch.equal(found.indices[0], want)
    back = codec.decode(found, restore=False).samples[0]
    hop = len(back) // 9
    assert torch.allclose(back[::hop] / top, want / (size - 1), atol=1e-6)
    if name == "funcodec":
        assert found.scale is not None and torch.allclose(found.scale[0], torch.tensor(0.9))
        one = codec.decode(codec.codes(found.indices, found.source, 1.0)).samples[0]
        assert torch.allclose(one[::hop], want / (size - 1), atol=1e-6)


@pytest.mark.parametrize("name", CLONED)
def test_nothing_of_a_repository_stays_in_the_process(name: str, tmp_path: Path) -> None:
    path, where, finders, modules = list(sys.path), os.getcwd(), list(sys.meta_path), set(sys.modules)
    codec = MAKERS[name](tmp_path)
    assert isinstance(codec, PackageCodec)
    codec.decode(codec.encode(synthesize(0, 0.1).to_channels(1)))
    assert (sys.path, os.getcwd(), sys.meta_path) == (path, where, finders)
    new = {n for n in set(sys.modules) - modules if n.partition(".")[0] in codec.repository.names}
    assert not new


def test_repositories_and_packages_of_one_name_never_meet(tmp_path: Path) -> None:
    """WavTokenizer and another repository have a `decoder` each, and the process has one, too."""
    ours = ModuleType("decoder")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "decoder", ours)
        one = make_wavtokenizer_clone(tmp_path)
        other = Repository(write_repository(tmp_path / "other", {"decoder/pretrained.py": "NAME = 'other'"}), "x")
        with other.entered():
            assert other.load("decoder.pretrained").NAME == "other"
            assert sys.modules["decoder"] is not ours
        assert sys.modules["decoder"] is ours and "decoder.pretrained" not in sys.modules
        codes = one.encode(synthesize(0, 0.2).to_channels(1)).indices  # imports `decoder.parts` while it runs
        assert len(codes.unique()) > 2 and sys.modules["decoder"] is ours
        with other.entered():  # the very modules of before
            assert sys.modules["decoder.pretrained"].NAME == "other"


def test_a_failing_import_leaves_nothing_either(tmp_path: Path) -> None:
    finders = list(sys.meta_path)
    files = {"broken.py": "import absent_package", "cyclic.py": "from cyclic import nothing", "worse.py": "1 / 0"}
    code = Repository(write_repository(tmp_path / "code", files), "https://example.org/code")
    for name, error, message in (
        ("broken", UsageError, "needs absent_package"), ("cyclic", UsageError, "cannot be imported"),
        ("absent", UsageError, "git clone https://example.org/code"), ("absent.part", UsageError, "got no absent.part"),
        ("worse", ZeroDivisionError, "division"),
    ):  # fmt: skip
        with pytest.raises(error, match=message), code.entered():
            code.load(name)
        assert sys.meta_path == finders and name not in sys.modules


def test_a_repository_cannot_stand_in_for_python_itself(tmp_path: Path) -> None:
    files = {"json.py": "", "utils/a.py": "", "data/readme.txt": "", "setup.py": "", "not-a-name.py": ""}
    assert Repository(write_repository(tmp_path / "code", files), "x").names == {"utils"}
    with pytest.raises(UsageError, match="No folder at"):
        Repository(tmp_path / "absent", "x")


def test_a_repository_that_is_a_package_itself(tmp_path: Path) -> None:
    """A state of WavTokenizer's code reaches for `encoder` through the folder around both."""
    files = dict(_WAVTOKENIZER)
    text = files["decoder/pretrained.py"]
    text = text.replace("from encoder.utils", "from ..encoder.utils").replace("from decoder import", "from . import")
    files |= {"decoder/pretrained.py": text.replace("from decoder.parts", "from .parts"), "__init__.py": ""}
    make_wavtokenizer_clone(tmp_path)  # for its weights
    code = write_repository(tmp_path / "Package", files)
    codec = load_codec("wavtokenizer", str(tmp_path / "weights"), repository=code)
    assert len(codec.encode(synthesize(0, 0.2).to_channels(1)).indices.unique()) > 2
    assert not {"Package", "decoder", "encoder"} & set(sys.modules)


def test_funcodec_as_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_funcodec(tmp_path)
    with pytest.raises(UsageError, match="the installed packages got no funcodec"):
        load_codec("funcodec", str(tmp_path / "weights"))
    monkeypatch.syspath_prepend(write_repository(tmp_path / "site", _FUNCODEC))
    found = {b: load_codec("funcodec", str(tmp_path / "weights"), bandwidth=b).spec for b in (0.5, 1.0, 1000)}
    for name in [n for n in sys.modules if n.partition(".")[0] == "funcodec"]:
        del sys.modules[name]
    assert [len(spec.codebooks) for spec in found.values()] == [2, 4, 4]


def test_code_and_weights_that_are_missing_say_so(tmp_path: Path) -> None:
    make_simvq(tmp_path)
    code, weights = tmp_path / "SimVQ", tmp_path / "weights"
    with pytest.raises(UsageError, match=r"git clone .*SimVQ.*--codec-repo"):
        load_codec("simvq", str(weights))
    with pytest.raises(UsageError, match=r"got no decoder\.pretrained"):
        load_codec("wavtokenizer", str(weights), repository=code)
    with pytest.raises(WeightsError, match=r"No weights at \./absent.*simvq_4k, simvq_8k"):
        load_codec("simvq", "./absent", repository=code)
    checkpoint, config = weights / "epoch=1.ckpt", weights / "1second" / "config.yaml"
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    for change, message in (
        ({"quantize.embedding.weight": None}, "lacks 1 weights"),
        ({"quantize.embedding.weight": torch.zeros(3, 2)}, "does not fit"),
    ):
        torch.save({"state_dict": {k: v for k, v in {**state, **change}.items() if v is not None}}, checkpoint)
        with pytest.raises(WeightsError, match=message):
            load_codec("simvq", str(weights), repository=code)
    checkpoint.write_bytes(b"not a checkpoint")
    with pytest.raises(WeightsError, match="could not be read"):
        load_codec("simvq", str(weights), repository=code)
    (weights / "second.ckpt").touch()
    with pytest.raises(WeightsError, match=r"got epoch=1.ckpt, second.ckpt, expected one file"):
        load_codec("simvq", str(weights), repository=code)
    text = config.read_text()
    for wrong in (text.replace("taming.models", "os.path"), text.replace("normalize: false", "normalize: true"), ""):
        config.write_text(wrong)
        (weights / "second.ckpt").unlink(missing_ok=True)
        with pytest.raises(WeightsError, match=r"expected taming\.models"):
            load_codec("simvq", str(weights), repository=code)


def test_weights_that_would_execute_are_refused(tmp_path: Path) -> None:
    make_magicodec(tmp_path)
    file = tmp_path / "weights" / "MagiCodec-50Hz-Base.ckpt"
    torch.save({"quantizer.codebook.weight": Path("an object")}, file)
    with pytest.raises(WeightsError, match="plain tensors"):
        load_codec("magicodec", str(file.parent), repository=tmp_path / "MagiCodec")


def test_magicodec_takes_its_rate_from_the_file_name(tmp_path: Path) -> None:
    make_magicodec(tmp_path)
    file = tmp_path / "weights" / "MagiCodec-50Hz-Base.ckpt"
    file.rename(file.with_name("MagiCodec-25Hz.ckpt"))
    codec = load_codec("magicodec", str(file.parent), repository=tmp_path / "MagiCodec")
    assert (codec.spec.chunk, codec.spec.steps_per_second) == (640, 25.0)


def test_distill_neucodec_is_its_package_s_alone(tmp_path: Path) -> None:
    assert make_distill(tmp_path).spec.family == "distill-neucodec"
    with pytest.raises(UsageError, match="installed packages got no neucodec"):
        load_codec("distill-neucodec", None)


def test_published_weights_are_fetched_by_their_names_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hub is asked for just the files that the name stands for (here: a stand-in for its client)."""
    import huggingface_hub

    make_wavtokenizer_clone(tmp_path)
    asked: list[tuple[str, str]] = []

    def fetch(repository: str, file: str) -> str:
        asked.append((repository, file))
        return str(next((tmp_path / "weights").glob("*.yaml" if file.endswith("yaml") else "*.ckpt")))

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    name = "WavTokenizer-medium-music-audio-320-24k-4096"
    codec: Any = load_codec(None, name, repository=tmp_path / "WavTokenizer")
    assert isinstance(codec, WavTokenizerClone) and codec.spec.model == name
    assert asked == [source for source in PUBLISHED[name.lower()] if source is not None]
    assert asked[0][1] == "wavtokenizer_mediumdata_music_audio_frame75_3s_nq1_code4096_dim512_kmeans200_attn.yaml"
    with pytest.raises(WeightsError, match="No weights at simvq_4k"):  # another codec's name
        load_codec("wavtokenizer", "simvq_4k", repository=tmp_path / "WavTokenizer")

    def gone(repository: str, file: str) -> str:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", gone)
    with pytest.raises(WeightsError, match="no network"):
        load_codec(None, name, repository=tmp_path / "WavTokenizer")


def test_published_names_are_those_of_codec_bpe() -> None:
    utils = pytest.importorskip("codec_bpe.tools.codec_utils")
    theirs = {**utils.WAVTOKENIZER_MODELS, **utils.MAGICODEC_MODELS}
    assert set(PUBLISHED) == {*theirs, *utils.SIMVQ_MODELS}
    for name, files in theirs.items():
        config, weights = PUBLISHED[name]
        assert weights == (files["ckpt"]["repo_id"], files["ckpt"]["filename"])
        if "config" in files:
            assert config == (files["config"]["repo_id"], files["config"]["filename"])
