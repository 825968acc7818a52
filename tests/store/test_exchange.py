"""Stores to Parquet and back, published shards to stores, stores joined: not a bit changes on the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from collections_of_sound import LENGTHS, contents, fill, make_sounds

from duotone.audio.synth import synthesize
from duotone.codec.codicodec import CoDiCodec
from duotone.codec.values import Latents
from duotone.errors import FormatError, UsageError, WeightsError
from duotone.spec import Source
from duotone.store import LatentStore, LatentWriter, StoreInfo, prepare
from duotone.store.encode import settings_for
from duotone.store.join import join
from duotone.store.manifest import LAYOUTS, Layout
from duotone.store.parquet import export_parquet, import_parquet, import_rows
from duotone.store.published import import_shards, is_shard, read_shard
from small_bands import random_bands
from toys import Grouped, Scaled


@pytest.fixture
def store(tmp_path: Path) -> LatentStore:
    return fill(tmp_path / "s", make_sounds(tmp_path / "sounds"), Grouped(), workers=0, shard_bytes=10_000)


def test_to_parquet_and_back(store: LatentStore, tmp_path: Path) -> None:
    files = export_parquet(store, tmp_path / "p", 10_000)
    assert [f.name for f in files] == [f"train-{i:05d}-of-{len(files):05d}.parquet" for i in range(len(files))]
    assert len(files) > 1 and sorted((tmp_path / "p").iterdir()) == files
    import_parquet(tmp_path / "p", tmp_path / "back", shard_bytes=10_000)
    assert contents(tmp_path / "back") == contents(tmp_path / "s")
    with pytest.raises(UsageError, match="exists already"):
        export_parquet(store, tmp_path / "p")


def test_codecs_with_loudness_go_to_parquet_too(tmp_path: Path) -> None:
    jobs = make_sounds(tmp_path / "sounds")
    with LatentWriter(tmp_path / "s", settings_for(Scaled(), codes=True, latents=False)) as writer:
        for _, outcome in prepare(writer, jobs, Scaled()):
            outcome.check()
    export_parquet(LatentStore(tmp_path / "s"), tmp_path / "p")
    import_parquet(tmp_path / "p", tmp_path / "back")
    assert contents(tmp_path / "back") == contents(tmp_path / "s")


def test_columns_are_those_of_the_page(store: LatentStore, tmp_path: Path) -> None:
    import pyarrow.parquet as parquet

    (path,) = export_parquet(store, tmp_path / "p")
    table = parquet.read_table(path)
    page = (Path(__file__).resolve().parents[2] / "docs" / "store-format.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in page for name in table.column_names)
    row = table.slice(store.index("d"), 1).to_pylist()[0]
    assert (row["name"], row["chunks"], row["rate"], row["samples"]) == ("d", LENGTHS["d"], 48_000, LENGTHS["d"] * 720)
    assert np.array_equal(np.array(row["latents"], np.float32), store.values("d"))


def test_datasets_reads_it_and_gives_it_back(store: LatentStore, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    export_parquet(store, tmp_path / "p")
    found = datasets.load_dataset(str(tmp_path / "p"), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(found) == len(store) and "latents" in found.column_names
    import_rows(found, tmp_path / "back", shard_bytes=10_000)
    found.to_parquet(tmp_path / "again.parquet")
    import_parquet(tmp_path / "again.parquet", tmp_path / "again", shard_bytes=10_000)
    assert contents(tmp_path / "back") == contents(tmp_path / "again") == contents(tmp_path / "s")


def test_rows_of_lists_are_taken(store: LatentStore, tmp_path: Path) -> None:
    import pyarrow.parquet as parquet

    (path,) = export_parquet(store, tmp_path / "p")
    import_rows(parquet.read_table(path).to_pylist(), tmp_path / "back", shard_bytes=10_000)
    assert contents(tmp_path / "back") == contents(tmp_path / "s")


def test_other_parquet_is_refused(store: LatentStore, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    parquet.write_table(pa.table({"name": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(FormatError, match=r"Row 0 of .* does not have the columns"):
        import_parquet(tmp_path / "other.parquet", tmp_path / "back")
    (tmp_path / "text.parquet").write_text("none")
    with pytest.raises(FormatError, match="cannot be read as Parquet"):
        import_parquet(tmp_path / "text.parquet", tmp_path / "back")
    with pytest.raises(UsageError, match="no Parquet file"):
        import_parquet(tmp_path / "sounds", tmp_path / "back")
    with pytest.raises(FormatError, match="no rows"):
        import_rows([], tmp_path / "back")
    path = tmp_path / "s" / store.recordings[0].file
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(FormatError, match="damaged"):
        export_parquet(LatentStore(tmp_path / "s"), tmp_path / "p")
    assert not (tmp_path / "p").exists()


# --- published shards


def shard(path: Path, latent: torch.Tensor, **more: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"latent": latent, "sample_rate": 48_000, "samples": 1000, "source": "x.wav", **more}, path)


def test_published_shards_become_a_store(codec: CoDiCodec, tmp_path: Path) -> None:
    made = {}
    for seed, (name, samples) in enumerate((("a", 3050), ("deep/b", 5100), ("c", 7777))):
        generator = torch.Generator().manual_seed(seed)
        framing: Any = "published" if name == "c" else "exact"
        chunks = codec.spec.framed(framing).chunks(samples)
        made[name] = torch.randn(chunks, 1, 64, generator=generator)
        shard(tmp_path / "pt" / f"{name}.pt", made[name], samples=samples, source=f"{name}.flac")
    store = import_shards([tmp_path / "pt"], tmp_path / "s", codec)
    assert [r.name for r in store.recordings] == ["a", "c", "deep/b"] and store.damaged() == []
    for recording in store.recordings:
        latent = made[recording.name]
        assert np.allclose(store.channels(recording.name), latent.numpy(), atol=1e-4)
        assert store[recording.name] == Latents.from_channels(latent, codec.spec, recording.source)
        assert recording.sound == f"{recording.name}.flac"
    assert store.recordings[0].source == Source(48_000, 2, 3050)
    assert store.recordings[1].source == Source(48_000, 2, 7777, "published")
    assert codec.decode(store["a"]).length == 3050
    before = contents(tmp_path / "s")
    import_shards([tmp_path / "pt"], tmp_path / "s", codec)
    assert contents(tmp_path / "s") == before


def test_shards_are_read_as_they_are(tmp_path: Path) -> None:
    latent = torch.randn(5, 8, 64)
    shard(tmp_path / "1.pt", latent.half(), samples=5 * 32768, source="a/song.wav", text="more")
    found = read_shard(tmp_path / "1.pt")
    assert (found.rate, found.samples, found.source) == (48_000, 163_840, "a/song.wav")
    assert found.latents.dtype == torch.float32 and torch.equal(found.latents, latent.half().float())
    torch.save({"latent": latent, "sample_rate": 44_100.0}, tmp_path / "2.pt")
    found = read_shard(tmp_path / "2.pt")
    assert (found.rate, found.samples, found.source) == (44_100, None, "")
    assert is_shard(tmp_path / "2.pt")


def test_shards_are_values_of_the_codec_that_made_them(codec: CoDiCodec, tmp_path: Path) -> None:
    wave = synthesize(5, 0.1)
    latents = codec.encode(wave, framing="published")
    shard(tmp_path / "1.pt", latents.channels(8), samples=wave.length)
    found = read_shard(tmp_path / "1.pt").in_space(codec.spec)
    torch.testing.assert_close(found.values, latents.values, rtol=0, atol=1e-5)
    assert (found.source.samples, found.source.framing) == (wave.length, "published")
    for samples in (10**9, None):
        shard(tmp_path / "1.pt", latents.channels(8), samples=samples)
        assert read_shard(tmp_path / "1.pt").in_space(codec.spec).source.samples is None
    bands = random_bands().spec  # has no published framing
    shard(tmp_path / "1.pt", torch.zeros(2, 1, 64), samples=1000)
    assert read_shard(tmp_path / "1.pt").in_space(bands).source == Source(
        48_000, 2, None if bands.chunks(1000) != 2 else 1000
    )
    shard(tmp_path / "1.pt", torch.zeros(2, 3, 5))
    with pytest.raises(UsageError, match="chunks of 3 x 5 values"):
        read_shard(tmp_path / "1.pt").in_space(codec.spec)


def test_other_pt_files_are_refused(codec: CoDiCodec, tmp_path: Path) -> None:
    path, latent = tmp_path / "1.pt", torch.zeros(3, 1, 64)
    wrong: list[tuple[dict[str, object], str]] = [
        ({"latent": torch.zeros(3, 4)}, r"\[3, 4\]"),
        ({"latent": torch.zeros(0, 1, 64)}, r"\[0, 1, 64\]"),
        ({"latent": None}, "NoneType"),
        ({"latent": torch.full((1, 8, 64), torch.nan)}, "not finite"),
        ({"samples": "many"}, "samples 'many'"),
        ({"sample_rate": 0}, "sample_rate 0"),
        ({"samples": float("inf")}, "samples inf"),
    ]
    for change, message in wrong:
        shard(path, **{"latent": latent, **change})  # type: ignore[arg-type]
        with pytest.raises(FormatError, match=message):
            read_shard(path)
    torch.save({"params": 3}, tmp_path / "params.pt")
    with pytest.raises(FormatError, match="is no published shard"):
        read_shard(tmp_path / "params.pt")
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")
    (tmp_path / "text.pt").write_text("text")
    torch.save({"latent": LatentStore}, tmp_path / "code.pt")
    for name in ("tensor", "text", "code", "absent"):
        with pytest.raises(WeightsError, match="published shard of latents"):
            read_shard(tmp_path / f"{name}.pt")
        assert not is_shard(tmp_path / f"{name}.pt")
    with pytest.raises(UsageError, match="no file or folder"):
        import_shards([tmp_path / "absent"], tmp_path / "s", codec)


# --- joined


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout != "npy"])
def test_stores_are_joined_in_any_layout(layout: Layout, store: LatentStore, tmp_path: Path) -> None:
    jobs = make_sounds(tmp_path / "sounds")
    one = fill(tmp_path / "one", jobs[:4], Grouped(), workers=0)
    two = fill(tmp_path / "two", jobs[3:], Grouped(), workers=0)
    both = join([one, two], tmp_path / "both", layout)
    assert [r.name for r in both.recordings] == sorted(LENGTHS) and both.damaged() == []
    for name in LENGTHS:
        assert both[name] == store[name] and both.codes(name) == store.codes(name)
    assert np.array_equal(both.mean, store.mean) and np.array_equal(both.deviation, store.deviation)
    again = join([both], tmp_path / "again", "shards", 10_000)
    assert (tmp_path / "again" / "store.json").read_bytes() == (tmp_path / "s" / "store.json").read_bytes()
    assert len(again) == len(LENGTHS)


def test_stores_that_do_not_go_together(store: LatentStore, tmp_path: Path) -> None:
    other = tmp_path / "other"
    with LatentWriter(other, settings_for(Grouped(), channels=16)) as writer:
        writer.add("z", np.zeros((1, 18, 8)), Source(48_000, 2, 720), "z.wav", None)
    with pytest.raises(UsageError, match="differ in channels, holds"):
        join([store, LatentStore(other)], tmp_path / "both")
    changed = tmp_path / "changed"
    with LatentWriter(changed, settings_for(Grouped(), codes=True)) as writer:
        writer.add("a", np.zeros((1, 18, 8)), Source(48_000, 2, 720), "a.wav", None, codes=np.zeros((1, 2, 18)))
    with pytest.raises(UsageError, match="a is in several stores with different content"):
        join([store, LatentStore(changed)], tmp_path / "both2")
    with pytest.raises(UsageError, match="at least one"):
        join([], tmp_path / "both3")


def test_the_settings_survive_json(store: LatentStore) -> None:
    told = json.loads(json.dumps(store.info.to_dict()))
    assert StoreInfo.from_dict(told, "x") == store.info
