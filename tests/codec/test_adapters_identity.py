"""Two identities of a codec of others, which names are sent to the Hub, and what transformers has that is not here."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_adapters_makers import MAKERS, REAL, again, make_dac, make_encodec, make_mimi

from duotone.audio.synth import synthesize
from duotone.codec.adapters.base import digest, is_hub_name
from duotone.codec.adapters.own import Own
from duotone.codec.adapters.table import CODECS, load_codec
from duotone.codec.adapters.transformers_codecs import Mimi, TransformersModel
from duotone.codec.values import Codes, Latents
from duotone.errors import CodecMismatchError, UsageError, WeightsError
from duotone.spec import CodecSpec

#: What transformers' mapping of audio tokenizers has and Duotone does not, with the reason; nothing at present.
LEFT_OUT: dict[str, str] = {}
#: Codecs of transformers that its mapping does not have.
BESIDE = {"encodec", "mimi", "xcodec"}


def test_all_audio_tokenizers_of_transformers_are_here() -> None:
    auto = pytest.importorskip("transformers.models.auto.modeling_auto")
    import transformers

    ours = {}
    for kind, codec in CODECS.items():
        if issubclass(codec, TransformersModel) and hasattr(transformers, codec.model_class):
            ours[codec.model_class] = kind
    theirs = {str(name) for name in auto.MODEL_FOR_AUDIO_TOKENIZATION_NAMES.values()}
    assert theirs - set(ours) == set(LEFT_OUT)
    assert {ours[name] for name in set(ours) - theirs} == BESIDE


@pytest.mark.parametrize("name", REAL)
def test_weights_outside_the_space_decide_no_codes(name: str, tmp_path: Path) -> None:
    """NaN in all weights that the space leaves out changes neither codes nor latents, nor the space."""
    codec: Any = MAKERS[name](tmp_path)
    wave = synthesize(0, 1.5).to_channels(codec.spec.channels)
    before = codec.encode(wave)
    spoilt = 0
    with torch.no_grad():
        for key, value in [*codec.model.named_parameters(), *codec.model.named_buffers()]:
            if value.is_floating_point() and not key.startswith(codec.deciding) and key in codec.model.state_dict():
                value.fill_(torch.nan)
                spoilt += 1
    assert spoilt  # a decoder
    trained = again(codec)
    assert trained.spec.space == codec.spec.space and trained.spec.fingerprint != codec.spec.fingerprint
    found = trained.encode(wave)
    if isinstance(before, Latents):
        assert torch.equal(found.values, before.values)
    else:
        assert isinstance(before, Codes) and torch.equal(found.indices, before.indices)


def test_other_weights_options_and_kinds_are_other_codecs() -> None:
    mimi = make_mimi()
    two, same = Mimi(mimi.model, "other name", n_quantizers=2), Mimi(mimi.model, "other name", n_quantizers=3)
    assert (same.fingerprint, same.spec.space) == (mimi.fingerprint, mimi.spec.space)
    assert two.fingerprint != mimi.fingerprint and two.spec.space != mimi.spec.space
    with pytest.raises(CodecMismatchError):
        mimi.decode(two.encode(synthesize(0, 0.2)))
    for like in (np.int64(2), 2.0):
        assert Mimi(mimi.model, "x", n_quantizers=like).fingerprint == two.fingerprint  # type: ignore[arg-type]
    encodec = make_encodec()
    assert type(encodec)(encodec.model, "x", bandwidth=np.float32(1.5)).fingerprint == encodec.fingerprint  # type: ignore[arg-type]
    assert type(encodec)(encodec.model, "x", bandwidth=3.0).spec.space != encodec.spec.space
    before = encodec.spec.space
    with torch.no_grad():
        next(encodec.model.encoder.parameters()).mul_(1.0001)
    assert again(encodec).spec.space != before


def test_the_identity_does_not_follow_device_and_format() -> None:
    codec = make_dac()
    fingerprint = codec.fingerprint
    codec.to(dtype="bfloat16")
    assert codec.fingerprint == fingerprint
    with pytest.warns(UserWarning, match="encoder is the same, the decoder differs"):
        other = replace(codec.encode(synthesize(0, 0.2)), spec=replace(codec.spec, fingerprint="0" * 16))
        codec.decode(other)


def test_fingerprints_are_the_same_in_every_version() -> None:
    """Pinned: files and tokenizers name them. Names of weights and the order that a library keeps them in do not count."""
    grid = CodecSpec("mimi", "any", "", "", 24_000, 24_000, 1, 1920, codebooks=(2048,) * 2)
    weights = {"a": torch.arange(6.0).reshape(2, 3), "b.c": torch.tensor(True), "d": torch.tensor([7, 8])}
    found = digest(grid, {"n_quantizers": 2}, weights)
    assert found == "b67f3c3daf3bab81"
    assert digest(grid, {"n_quantizers": 2}, dict(reversed([(f"x.{k}", v) for k, v in weights.items()]))) == found
    assert digest(grid, {"n_quantizers": 2}, {k: v.half() if k == "a" else v for k, v in weights.items()}) == found
    others = (
        (grid, {"n_quantizers": 3}, weights),
        (replace(grid, chunk=960), {"n_quantizers": 2}, weights),
        (grid, {"n_quantizers": 2}, {**weights, "a": weights["a"].T}),
        (grid, {"n_quantizers": 2}, {**weights, "d": torch.tensor([7, 9])}),
    )
    assert len({digest(*other) for other in others} | {found}) == 5


def test_a_path_typed_wrong_is_not_sent_to_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    import transformers

    def asked(*arguments: Any, **options: Any) -> Any:
        raise AssertionError(f"the Hub was asked for {arguments}")

    monkeypatch.setattr(transformers.DacModel, "from_pretrained", asked)
    monkeypatch.setattr(transformers.DacConfig, "get_config_dict", asked)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", asked)
    monkeypatch.chdir(tmp_path)
    Path("models").mkdir()
    Path("file").touch()
    for name in (
        "models/dac",
        "./dac",
        "../dac",
        "/dac",
        "~/dac",
        "file/dac",
        "dac_44khz",
        "a/b/c",
        ".hidden/x",
    ):
        with pytest.raises(WeightsError, match=f"No model at {name}"):
            load_codec("dac", name)
        assert not is_hub_name(name)
    with pytest.raises(WeightsError, match="No weights at models/x"):
        load_codec("funcodec", "models/x", repository=_funcodec_like(tmp_path))
    assert is_hub_name("descript/dac_44khz")


def _funcodec_like(folder: Path) -> Path:
    code = folder / "code" / "funcodec" / "bin"
    code.mkdir(parents=True)
    (code / "codec_inference.py").write_text("Speech2Token = None")
    return folder / "code"


def test_the_hub_is_asked_only_after_saying_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    order: list[str] = []

    def gone(*arguments: Any, **options: Any) -> Any:
        order.append("asked")
        raise OSError("no network\nat all")

    monkeypatch.setattr(transformers.DacConfig, "get_config_dict", gone)
    for model in (None, "descript/dac_16khz"):
        order.clear()
        with pytest.raises(WeightsError, match=r"could not be loaded as dac: no network$"):
            load_codec("dac", model, say=order.append)
        said, asked = order
        assert (model or "descript/dac_44khz") in said and "Hugging Face Hub" in said and asked == "asked"
    order.clear()
    make_dac().model.save_pretrained(tmp_path / "dac")
    monkeypatch.undo()
    load_codec("dac", str(tmp_path / "dac"), say=order.append)
    assert order == []


def test_unknown_options_are_named() -> None:
    for kind, options, message in (
        ("encodec", {"n_quantizers": 2}, "n-quantizers is not an option of encodec; it has bandwidth"),
        ("mimi", {"bandwidth": 2.0}, "bandwidth is not an option of mimi; it has n-quantizers"),
        ("oobleck", {"depth": 1, "bandwidth": 3.0}, "depth, bandwidth is not an option of oobleck; it has none"),
        ("simvq", {"seed": 1}, "seed is not an option of simvq; it has none"),
    ):
        with pytest.raises(UsageError, match=message):
            load_codec(kind, None, **options)
    for name in ("8", True):
        with pytest.raises(UsageError, match=f"n_quantizers got {name!r}, expected a number"):
            load_codec("mimi", None, n_quantizers=name)
    for wrong in (0, 4.5, 5):
        with pytest.raises(UsageError, match=rf"n_quantizers got {wrong}, expected 1\.\.4"):
            Mimi(make_mimi().model, "x", n_quantizers=wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="takes no repository"):
        load_codec("same", None, repository=os.curdir)


def test_own_is_the_codec_itself() -> None:
    codec = make_dac()
    with pytest.warns(DeprecationWarning, match="use the codec itself"):
        assert Own(codec, "name") is codec
