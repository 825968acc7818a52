"""Weights in and out: names, folders, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from duotone.codec.codicodec import CoDiCodec
from duotone.codec.codicodec.weights import (
    empty_network,
    export_codicodec,
    fill,
    import_codicodec,
    load_codec,
    published_names,
    save_codec,
)
from duotone.config import preset
from duotone.errors import ConfigError, UsageError, WeightsError
from duotone.hub import bundled, load
from duotone.nn.state import read_weights, write_weights
from small import SMALL

TSV = Path(__file__).resolve().parents[1] / "golden" / "codicodec_state_dict.tsv"


def published() -> dict[str, tuple[int, ...]]:
    rows = [line.split("\t") for line in TSV.read_text().splitlines()[1:]]
    return {name: tuple(int(n) for n in shape.split("x")) for name, shape, _ in rows}


def test_every_tensor_of_ours_is_a_published_one_of_the_same_shape() -> None:
    ours = {name: tuple(t.shape) for name, t in empty_network(preset("base")).state_dict().items()}
    shapes = published()
    assert len(shapes) == 546
    names = published_names(preset("base"))
    assert len(names) == len(set(names.values())) == len(ours)
    for theirs, name in names.items():
        assert ours[name] == shapes[theirs], name


def test_a_folder_round_trip(codec: CoDiCodec, tmp_path: Path) -> None:
    save_codec(codec, tmp_path)
    again = load_codec(tmp_path)
    assert again.fingerprint == codec.fingerprint and again.config == codec.config
    assert again.provenance == codec.provenance
    assert load(tmp_path, dtype="bfloat16").dtype == torch.bfloat16
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_the_bundled_codec_is_small_and_says_where_it_comes_from() -> None:
    assert "tiny" in bundled()
    codec = load("tiny", dtype="float32")
    assert codec.config.family == "codicodec" and codec.provenance["steps"] > 0
    folder = Path(__import__("duotone").__file__).parent / "weights" / "tiny"
    shards = list(folder.glob("*.safetensors"))
    assert shards and all(shard.stat().st_size <= 16 << 20 for shard in shards)
    assert sum(p.numel() for p in codec.network.parameters()) <= 12_000_000


@pytest.mark.parametrize("limit", [1 << 40, 9000])
def test_a_codec_on_the_hub_may_have_one_file_of_weights_or_shards(
    limit: int, codec: CoDiCodec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    there, cache = tmp_path / "there", tmp_path / "cache"
    save_codec(codec, there)
    write_weights(codec.network.state_dict(), there, limit)
    cache.mkdir()

    def fetch(repository: str, name: str) -> str:
        if not (there / name).is_file():
            raise LocalEntryNotFoundError(f"{repository} has no {name}")
        (cache / name).write_bytes((there / name).read_bytes())
        return str(cache / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    monkeypatch.chdir(tmp_path)
    assert load("someone/codec", dtype="float32").fingerprint == codec.fingerprint
    assert {p.name for p in cache.iterdir()} == {p.name for p in there.iterdir()}
    (there / "config.json").unlink()
    with pytest.raises(WeightsError, match="could not be fetched"):
        load("someone/codec")


def test_large_weights_are_divided_and_come_back(tmp_path: Path) -> None:
    state = {f"layer.{i}": torch.randn(10, 100, generator=torch.Generator().manual_seed(i)) for i in range(7)}
    write_weights(state, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]
    write_weights(state, tmp_path, limit=9000)
    assert not (tmp_path / "model.safetensors").exists() and (tmp_path / "model.safetensors.index.json").exists()
    assert all(p.stat().st_size < 10_000 for p in tmp_path.glob("*.safetensors"))
    again = read_weights(tmp_path)
    assert again.keys() == state.keys() and all(torch.equal(again[name], state[name]) for name in state)
    next(iter(sorted(tmp_path.glob("*.safetensors")))).unlink()
    with pytest.raises(WeightsError, match="which its index names"):
        read_weights(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(WeightsError, match="not an index"):
        read_weights(tmp_path)
    write_weights(state, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_what_is_refused(codec: CoDiCodec, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="No codec is called"):
        load("nonesuch")
    with pytest.raises(WeightsError, match=r"config\.json"):
        load(tmp_path)
    with pytest.raises(UsageError, match="device"):
        load("tiny", device="toaster")
    with pytest.raises(UsageError, match="dtype"):
        load("tiny", dtype="int3")
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="CUDA"):
            load("tiny", device="cuda")
    save_codec(codec, tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"garbage")
    with pytest.raises(WeightsError, match="damaged"):
        load(tmp_path)
    document = json.loads((tmp_path / "config.json").read_text())
    document["config"]["wings"] = 2
    (tmp_path / "config.json").write_text(json.dumps(document))
    with pytest.raises(ConfigError, match="wings"):
        load(tmp_path)
    document["version"] = 99
    (tmp_path / "config.json").write_text(json.dumps(document))
    with pytest.raises(ConfigError, match="99"):
        load(tmp_path)
    with pytest.raises(WeightsError, match="not imported"):
        export_codicodec(codec, tmp_path / "x.pt")


def test_foreign_checkpoints_that_are_not(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    with pytest.raises(WeightsError, match="No file"):
        import_codicodec(path)
    path.write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="no PyTorch file"):
        import_codicodec(path)
    torch.save({"weights": {}}, path)
    with pytest.raises(WeightsError, match="gen_state_dict"):
        import_codicodec(path)
    torch.save({"gen_state_dict": {"latents": torch.zeros(1, 128, 512)}}, path)
    with pytest.raises(WeightsError, match="missing"):
        import_codicodec(path)


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (print, ("run",))

    torch.save({"gen_state_dict": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(WeightsError, match="no PyTorch file"):
        import_codicodec(tmp_path / "evil.pt")


def test_misshapen_tensors_are_named() -> None:
    state = dict(empty_network(SMALL).state_dict())
    state["encoder.head.bias"] = torch.zeros(9)
    with pytest.raises(WeightsError, match=r"encoder.head.bias: \(9,\) instead of \(4,\)"):
        fill(empty_network(SMALL), state, "x")
