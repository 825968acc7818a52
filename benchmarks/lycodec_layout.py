"""Which layout of Lycodec's codes acoustic BPE does best with: 256 codebooks of 11, 128 of 121, or 64 of 14 641.

    python benchmarks/lycodec_layout.py --codec lycodec-tiny --train FOLDER --heldout FOLDER

Without a codec: the encoder of `lycodec-tiny` with random weights, its values calibrated on the training sounds. Prints the tables, and
writes benchmarks/results/lycodec_layout.json and .md, where the table of the other encoder stays.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import duotone
import machine
from duotone.codec.lycodec.codec import Lycodec
from duotone.codec.lycodec.frontend import chunk_spectra
from duotone.config import lycodec_preset
from duotone.errors import UsageError
from duotone.tokens.alphabet import Alphabet
from duotone.tokens.training import train_bpe

NAME = "lycodec_layout"
SECONDS = 9.0
PACKED = (1, 2, 4)
SPECIAL: dict[str, Any] = {"special_tokens": ["<pad>"], "pad_token": "<pad>"}


def sounds(folder: Path, count: int) -> list[duotone.Waveform]:
    """The beginnings of files spread over a folder, at 48 kHz."""
    files = sorted(f for f in folder.rglob("*") if f.suffix in (".wav", ".flac", ".ogg", ".opus"))
    picked = [files[i * len(files) // count] for i in range(min(count, len(files)))]
    waves = [duotone.read(f).resample(48_000) for f in picked]
    return [duotone.Waveform(w.samples[:, : int(SECONDS * 48_000)], 48_000) for w in waves]


def calibrated(waves: list[duotone.Waveform]) -> Lycodec:
    """An untrained encoder whose values have mean 0 and deviation .8 before the bound, over these sounds."""
    codec = Lycodec.random(lycodec_preset("lycodec-tiny"))
    config = codec.config
    length = config.overlap + config.chunk_samples
    chunks = [chunk_spectra(w.samples.expand(2, -1)[None, :, :length], config) for w in waves if w.length >= length]
    codec.network.encoder.calibrate(torch.cat(chunks), 0.8)
    return codec


def levels_of(codec: Lycodec, waves: list[duotone.Waveform]) -> list[np.ndarray]:
    """The level of each value, from 0: `[256, S]` of each sound."""
    fsq = codec.network.fsq
    found = []
    for value in codec.encode_many(waves):
        flat = value.values.flatten(0, 1)
        found.append((torch.round(flat * fsq.half) + fsq.half).long().T.numpy())
    return found


def pack(levels: np.ndarray, count: int) -> np.ndarray:
    """`[256, S]` -> `[256 / count, S]` codes of `count` values."""
    weights = 11 ** np.arange(count)
    return (levels.reshape(-1, count, levels.shape[1]) * weights[None, :, None]).sum(1)


def measure(train: list[np.ndarray], heldout: list[np.ndarray], packed: int, vocabulary: int) -> dict[str, Any]:
    """Tokens and bits a second of held-out sound, with a tokenizer of this size."""
    row: dict[str, Any] = {"codebooks": 256 // packed, "size": 11**packed, "vocabulary": vocabulary}
    try:
        alphabet = Alphabet(256 // packed, 11**packed)
        began = time.perf_counter()
        bpe = train_bpe([pack(c, packed) for c in train], alphabet, vocab_size=vocabulary, **SPECIAL)
        row["training_seconds"] = round(time.perf_counter() - began, 1)
    except UsageError as error:
        return {**row, "refused": str(error)}
    ids = [np.asarray(bpe.encode(pack(c, packed))) for c in heldout]
    seconds = sum(c.shape[1] for c in heldout) / (18 * 48_000 / 71_680)
    tokens = np.concatenate(ids)
    counts = np.bincount(np.concatenate([np.asarray(bpe.encode(pack(c, packed))) for c in train]), minlength=len(bpe))
    share = (counts + 0.5) / (
        counts.sum() + 0.5 * len(bpe)
    )  # of the training sounds, so that the held-out ones are not known
    return {
        **row, "tokens": len(bpe), "characters_per_second": round(256 / packed * 18 * 48_000 / 71_680),
        "tokens_per_second": round(len(tokens) / seconds), "kbit_per_second": round(float(-np.log2(share[tokens]).sum()) / seconds / 1000, 3),
        "unseen": round(float((counts[tokens] == 0).mean()), 4),
    }  # fmt: skip


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--codec", help="bundled name or folder of a Lycodec (default: random weights)")
    parser.add_argument("--train", type=Path, required=True, nargs="+")
    parser.add_argument("--heldout", type=Path, required=True, nargs="+")
    parser.add_argument("--sounds", type=int, default=60)
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[4_000, 16_000, 32_000])
    options = parser.parse_args()
    train = [w for folder in options.train for w in sounds(folder, options.sounds)]
    heldout = [w for folder in options.heldout for w in sounds(folder, 12)]
    codec = calibrated(train) if options.codec is None else duotone.load(options.codec)
    seen, new = levels_of(codec, train), levels_of(codec, heldout)
    rows = [measure(seen, new, packed, size) for packed in PACKED for size in options.vocabulary]
    table = {
        "command": machine.command(), "machine": machine.describe(), "trained": options.codec is not None,
        "fingerprint": codec.fingerprint, "entropy": entropy(new),
        "seconds": {"train": seconds(train), "heldout": seconds(heldout)}, "rows": rows,
    }  # fmt: skip
    others = [t for t in machine.read(NAME).get("tables", []) if t["trained"] != table["trained"]]
    document = {"tables": sorted([table, *others], key=lambda t: not t["trained"])}
    machine.record(NAME, document, page)
    print(page(document))


def entropy(levels: list[np.ndarray]) -> float:
    """Mean over the values of their entropy over time, in bits; `log2(11)` is the most."""
    shares = [np.bincount(value, minlength=11) / value.size for value in np.concatenate(levels, 1)]
    return round(float(np.mean([-(p[p > 0] * np.log2(p[p > 0])).sum() for p in shares])), 3)


def seconds(waves: list[duotone.Waveform]) -> int:
    """Their duration."""
    return round(sum(w.length / w.rate for w in waves))


def page(document: dict[str, Any]) -> str:
    """The tables."""
    return "\n".join(["# Layouts of Lycodec's codes for acoustic BPE", "", *(section(t) for t in document["tables"])])


def section(table: dict[str, Any]) -> str:
    """The table of one encoder."""
    name = "A trained encoder" if table["trained"] else "An encoder with random, calibrated weights"
    heard = table["seconds"]
    spread = f"; a value has {table['entropy']:.2f} of its 3.46 bits on average" if "entropy" in table else ""
    lines = [
        f"## {name}", "",
        f"`{table['command']}`", "",
        f"Tokenizers of {heard['train']} s of sound, applied to {heard['heldout']} s of other sound{spread}. Bits are those of each "
        "token's frequency in training.", "",
        "| layout | vocabulary | tokens/s | kbit/s |", "|---|---|---|---|",
    ]  # fmt: skip
    for row in table["rows"]:
        found = f"{row['tokens_per_second']} | {row['kbit_per_second']:.1f}" if "tokens" in row else "refused | "
        lines.append(f"| {row['codebooks']} x {row['size']} | {row['vocabulary']} | {found} |")
    refused = {row["size"]: row["refused"] for row in table["rows"] if "refused" in row}
    lines += ["", *(f"Refused ({size}): {why}" for size, why in refused.items())]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
