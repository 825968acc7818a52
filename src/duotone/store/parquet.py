"""Stores to and from Parquet, as Hugging Face `datasets` reads and writes it: a row for each recording.

Columns: ``name``, ``seconds``, ``rate``, ``audio_channels``, ``samples``, ``chunks``, ``latents`` (a list of chunks, each nested
lists of fixed length as the codec's latents are), ``codes`` (a list of chunks `[K, steps]`), ``scale`` (a list of chunks
`[streams]`), ``recording`` (JSON: name, source, sound and stamp without loss) and ``store`` (JSON: `store.json`, the same in every
row). The last two make the way back exact, also where a tool drops the metadata of the file. Needs pyarrow.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from duotone.atomic import replacing_folder
from duotone.errors import FormatError, UsageError
from duotone.spec import Source
from duotone.store.folders import Folder, PathLike
from duotone.store.manifest import Layout, StoreInfo
from duotone.store.reader import LatentStore
from duotone.store.writer import SHARD_BYTES, LatentWriter

FILE_BYTES = 256 << 20


def export_parquet(store: LatentStore, folder: PathLike, file_bytes: int = FILE_BYTES) -> list[Path]:
    """Write a store as ``train-00000-of-00003.parquet`` and so on, which `datasets.load_dataset(folder)` reads; the files.

    The folder appears when it is complete. Raises `UsageError` if it exists already, or where pyarrow is missing, and
    `FormatError` for a damaged store.
    """
    pa, parquet = _pyarrow()
    if Path(folder).exists():
        raise UsageError(f"{folder} exists already. Choose another name.")
    groups = _groups(store, file_bytes)
    Path(folder).absolute().parent.mkdir(parents=True, exist_ok=True)
    names = [f"train-{i:05d}-of-{len(groups):05d}.parquet" for i in range(len(groups))]
    with replacing_folder(folder) as temporary:
        for name, group in zip(names, groups, strict=True):
            with parquet.ParquetWriter(temporary / name, _schema(pa, store.info)) as writer:
                for index in group:
                    writer.write_table(_row(pa, store, index))
    return [Path(folder) / name for name in names]


def import_parquet(
    path: PathLike, output: PathLike | Folder, layout: Layout | None = None, shard_bytes: int = SHARD_BYTES
) -> LatentStore:
    """Make a store of a Parquet file, or of all in a folder, of the form that `export_parquet` writes.

    Raises `FormatError` for files without its columns, `UsageError` where pyarrow is missing or there is no such file.
    """
    _, parquet = _pyarrow()
    found = Path(path)
    files = sorted(found.rglob("*.parquet")) if found.is_dir() else [found]
    if not files or not files[0].is_file():
        raise UsageError(f"There is no Parquet file at {path}. Give a file, or a folder of files ending in .parquet.")

    def rows() -> Iterator[dict[str, Any]]:
        for file in files:
            try:
                opened = parquet.ParquetFile(file)
            except (OSError, ValueError) as error:
                raise FormatError(f"{file} cannot be read as Parquet ({error}).") from None
            with opened:
                for batch in opened.iter_batches(batch_size=1):
                    for i in range(batch.num_rows):
                        yield {name: batch.column(name)[i] for name in batch.schema.names}

    return import_rows(rows(), output, layout, shard_bytes, str(path))


def import_rows(
    rows: Iterable[dict[str, Any]],
    output: PathLike | Folder,
    layout: Layout | None = None,
    shard_bytes: int = SHARD_BYTES,
    where: str = "The dataset",
) -> LatentStore:
    """Make a store of rows with the columns of `export_parquet`, for example of a `datasets.Dataset`.

    Values may be lists, arrays or scalars of pyarrow. Raises `FormatError` for rows of another form.
    """
    writer: LatentWriter | None = None
    try:
        for number, row in enumerate(rows):
            try:
                told = json.loads(_plain(row["store"]))
                about = json.loads(_plain(row["recording"]))
                info = StoreInfo.from_dict(told, f"The column store of {where}")
                arrays = {str(name): _array(row[name], info, name) for name in info.holds}
                source, stamp = Source(**about["source"]), about["stamp"]
                name, sound = str(about["name"]), str(about["sound"])
            except (KeyError, TypeError, ValueError) as error:
                if isinstance(error, FormatError):
                    raise
                raise FormatError(
                    f"Row {number} of {where} does not have the columns of an exported store ({error!r}). Export one with: "
                    f"duotone store export"
                ) from None
            if writer is None:
                writer = LatentWriter(
                    output, replace(info, layout=layout or info.layout, statistics=None), shard_bytes
                ).__enter__()
            with writer.part(name, sound, None if stamp is None else (stamp[0], stamp[1])) as part:
                part.push(arrays)
                writer.take(part.finish(source))
    except BaseException as error:
        if writer is not None:
            writer.__exit__(type(error), error, error.__traceback__)
        raise
    if writer is None:
        raise FormatError(f"{where} has no rows, so it does not tell which codec a store would be of.")
    writer.__exit__(None, None, None)
    return LatentStore(writer.folder)


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UsageError("Parquet needs pyarrow, which is not installed. Install duotone[datasets].") from None
    return pyarrow, pyarrow.parquet


def _groups(store: LatentStore, file_bytes: int) -> list[Sequence[int]]:
    """Recordings of each file; at least one file, which may be empty."""
    each = sum(store.info.chunk_bytes(name) for name in store.info.holds)
    groups: list[list[int]] = [[]]
    size = 0
    for i, recording in enumerate(store.recordings):
        if size >= file_bytes:
            groups.append([])
            size = 0
        groups[-1].append(i)
        size += recording.chunks * each
    return list(groups)


def _value_type(pa: Any, kind: np.dtype[Any]) -> Any:
    return {"<f4": pa.float32(), "<u2": pa.uint16(), "<u4": pa.uint32()}[kind.str]


def _column_type(pa: Any, info: StoreInfo, name: str) -> Any:
    kind, shape = info.array(name)
    inner = _value_type(pa, kind)
    for length in reversed(shape):
        inner = pa.list_(inner, length)
    return pa.list_(inner)


def _schema(pa: Any, info: StoreInfo) -> Any:
    plain = [
        ("name", pa.string()), ("seconds", pa.float64()), ("rate", pa.int64()), ("audio_channels", pa.int64()),
        ("samples", pa.int64()), ("chunks", pa.int64()),
    ]  # fmt: skip
    arrays = [(name, _column_type(pa, info, name)) for name in info.holds]
    return pa.schema([*plain, *arrays, ("recording", pa.string()), ("store", pa.string())])


def _row(pa: Any, store: LatentStore, index: int) -> Any:
    """A table of one row. Raises `FormatError` if the recording is damaged."""
    recording, source = store.recordings[index], store.recordings[index].source
    store.verify([index])
    shown = recording.name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    about = {"name": recording.name, "source": asdict(source), "sound": recording.sound, "stamp": recording.stamp}
    info = replace(store.info, statistics=None, recordings=0, chunks=0)
    plain = [shown, source.seconds, source.rate, source.channels, source.samples, recording.chunks]
    columns = [pa.array([value]) for value in plain]
    for name in store.info.holds:
        kind, shape = store.info.array(name)
        column = pa.array(store.stored(name, index, 0, None).reshape(-1), _value_type(pa, kind))
        for length in reversed(shape):
            column = pa.FixedSizeListArray.from_arrays(column, length)
        columns.append(pa.ListArray.from_arrays(pa.array([0, recording.chunks], pa.int32()), column))
    columns += [pa.array([json.dumps(about)]), pa.array([json.dumps(info.to_dict())])]
    schema = _schema(pa, store.info)
    return pa.table([c.cast(field.type) for c, field in zip(columns, schema, strict=True)], schema=schema)


def _plain(value: Any) -> Any:
    """A string or a number out of a scalar of pyarrow."""
    return value.as_py() if hasattr(value, "as_py") else value


def _array(value: Any, info: StoreInfo, name: str) -> np.ndarray[Any, Any]:
    kind, shape = info.array(name)
    if hasattr(value, "as_py"):
        value = value.values
        for _ in shape:
            value = value.flatten()
        value = value.to_numpy(zero_copy_only=False)
    return np.ascontiguousarray(value, dtype=kind).reshape(-1, *shape)
