"""Acoustic BPE against `codec-bpe`: converters, training, encoding; same codes, in one process, in turns.

    python benchmarks/bench_tokens.py [--hours 1 4] [--vocabularies 8192 30000] [--word-seconds 5 30 120] [--codes DIR]

Synthetic codes, 75 frames a second: the coarsest codebook is a Zipf draw held for 1 to 5 frames; each finer one follows
the one above by a fixed map half of the time and is a Zipf draw else. --codes adds a folder of .duo files. Training of
both is timed from codes in memory to the merges, and the merges are compared. Compilation is not timed, and stated
apart. Peak memory is that of a process of its own. Writes benchmarks/results/tokens.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import machine

RESULTS = Path(__file__).resolve().parent / "results"
FRAMERATE = 75.0


def synthetic(hours: float, books: int = 4, size: int = 1024, seed: int = 0) -> np.ndarray:
    """Codes `[K, T]`; see above."""
    rng = np.random.default_rng(seed)
    frames = int(hours * 3600 * FRAMERATE)
    weights = 1 / np.arange(1, size + 1)
    weights /= weights.sum()
    held = rng.integers(1, 6, frames // 2)
    out = np.empty((books, frames), np.int64)
    out[0] = np.repeat(rng.choice(size, len(held), p=weights), held)[:frames]
    for k in range(1, books):
        follows = (out[k - 1] * 7 + 13 * k) % size
        out[k] = np.where(rng.random(frames) < 0.5, follows, rng.choice(size, frames, p=weights))
    return out


def chunks(codes: np.ndarray, seconds: float) -> list[np.ndarray]:
    """Training words of that length."""
    return np.split(codes, range(int(seconds * FRAMERATE), codes.shape[1], int(seconds * FRAMERATE)), axis=1)


def theirs(words: list[np.ndarray], size: int, vocabulary: int) -> tuple[float, list[tuple[str, str]]]:
    """Seconds and merges of the seed's trainer: its conversion to text, and its tokenizer's training."""
    from codec_bpe.core.converter import codes_to_chars
    from codec_bpe.core.sentencepiece_bpe import SentencePieceBPETokenizer

    books = words[0].shape[0]
    started = time.perf_counter()
    tokenizer = SentencePieceBPETokenizer(unk_token=None, add_prefix_space=False)
    tokenizer.train_from_iterator(
        (codes_to_chars(word, size) for word in words), vocab_size=vocabulary, special_tokens=["<pad>"],
        limit_alphabet=books * size, initial_alphabet=[chr(0x4E00 + i) for i in range(books * size)], show_progress=False,
    )  # fmt: skip
    seconds = time.perf_counter() - started
    return seconds, [tuple(m) for m in json.loads(tokenizer._tokenizer.to_str())["model"]["merges"]]


def ours(words: list[np.ndarray], size: int, vocabulary: int) -> tuple[float, Any]:
    """Seconds and tokenizer."""
    from duotone.tokens import Alphabet, train_bpe

    started = time.perf_counter()
    made = train_bpe(words, Alphabet.plain(words[0].shape[0], size), vocab_size=vocabulary, pad_token="<pad>")
    return time.perf_counter() - started, made


def one(side: str, hours: float, books: int, size: int, vocabulary: int, seconds: float) -> dict[str, Any]:
    """A training in this process alone: its time and peak memory beyond that of the codes."""
    words = chunks(synthetic(hours, books, size), seconds)
    ours(words[:2], size, books * size + 20)  # compiled, or loaded from the cache
    if side == "codec-bpe":
        theirs(words[:2], size, books * size + 20)
    spent, _ = (theirs if side == "codec-bpe" else ours)(words, size, vocabulary)
    return {"seconds": spent, "peak_mib": _peak_mib()}


def _peak_mib() -> float:
    """This program's peak resident memory. (`ru_maxrss` would begin at that of the process which started it.)"""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(text for text in status.read_text().splitlines() if text.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def compile_seconds() -> float:
    """Importing Numba and compiling, with an empty cache."""
    import os
    import tempfile

    program = (
        "import time; t = time.perf_counter(); import numpy as np; from duotone.tokens import Alphabet, train_bpe; "
        "x = train_bpe([np.zeros((2, 9), int)], Alphabet(2, 4), vocab_size=12, pad_token='<pad>'); "
        "x.encode(np.zeros((2, 9), int)); print(time.perf_counter() - t)"
    )
    with tempfile.TemporaryDirectory() as cache:
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True,
            env={**os.environ, "NUMBA_CACHE_DIR": cache},
        )  # fmt: skip
    return float(done.stdout)


def converters(repeats: int) -> list[dict[str, Any]]:
    """Million codes a second both ways, of 4 x 1024 and on text that is foreign or out of order."""
    from codec_bpe.core import converter as seed

    from duotone.tokens import chars_to_codes, codes_to_chars

    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 1024, (4, 250_000))
    text = seed.codes_to_chars(codes, 1024)
    foreign = "".join(map(chr, rng.integers(0x4E00, 0x9000, 1_000_000).tolist()))
    shuffled = "".join(map(chr, rng.integers(0x4E00, 0x5E00, 1_000_000).tolist()))
    cases: list[tuple[str, Callable[[], Any], Callable[[], Any]]] = [
        ("codes to characters", lambda: seed.codes_to_chars(codes, 1024), lambda: codes_to_chars(codes, 1024)),
    ]
    for name, given in (("characters to codes", text), ("foreign text", foreign), ("text out of order", shuffled)):
        for kind in ("np", None) if given is text else ("np",):
            cases.append(
                (
                    f"{name}, {'arrays' if kind else 'lists'}",
                    lambda given=given, kind=kind: seed.chars_to_codes(given, 4, 1024, return_tensors=kind),
                    lambda given=given, kind=kind: chars_to_codes(given, 4, 1024, return_tensors=kind),
                )
            )
    rows = []
    for name, their, our in cases:
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(repeats):
            for call, record in zip((their, our), times, strict=True):
                started = time.perf_counter()
                call()
                record.append(time.perf_counter() - started)
        a, b = map(statistics.median, times)
        rows.append({"task": name, "theirs": 1 / a, "ours": 1 / b, "ratio": a / b})
        print(f"{name:28} {1 / a:7.2f} M/s  ours {1 / b:7.1f} M/s  {a / b:6.1f}x", flush=True)
    return rows


def encoding(hours: float, vocabulary: int) -> list[dict[str, Any]]:
    """Tokenizing recordings of five minutes: the seed one by one and as a batch, ours likewise; ids compared."""
    from transformers import PreTrainedTokenizerFast

    from duotone.tokens import to_text

    codes = synthetic(hours)
    _, made = ours(chunks(codes, 30), 1024, vocabulary)
    folder = RESULTS / ".tokenizer"
    made.save(folder)
    their = PreTrainedTokenizerFast.from_pretrained(folder)
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    recordings = chunks(synthetic(hours, seed=1), 300)
    texts = [to_text(r, made.alphabet) for r in recordings]
    count = sum(r.size for r in recordings) / 1e6
    made.encode(recordings[0])
    rows = []
    for name, their_call, our_call in (
        ("one by one", lambda: [their.encode(t) for t in texts], lambda: [made.encode(r) for r in recordings]),
        ("as a batch", lambda: their(texts)["input_ids"], lambda: made.encode_batch(recordings)),
    ):
        started = time.perf_counter()
        a = their_call()
        middle = time.perf_counter()
        b = our_call()
        ended = time.perf_counter()
        same = all(list(x) == y.tolist() for x, y in zip(a, b, strict=True))
        rows.append(
            {"task": name, "theirs": count / (middle - started), "ours": count / (ended - middle),
             "ratio": (middle - started) / (ended - middle), "identical": same}
        )  # fmt: skip
        print(
            f"{name:28} {rows[-1]['theirs']:7.2f} M/s  ours {rows[-1]['ours']:7.1f} M/s  {rows[-1]['ratio']:6.1f}x",
            flush=True,
        )
    return rows


def training(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Trainings of both sides."""
    plans = [(h, 4, 1024, v, 30.0) for h in options.hours for v in options.vocabularies]
    plans += [(options.hours[0], 1, 4096, options.vocabularies[-1], 30.0)]
    plans += [(options.hours[0], 4, 1024, options.vocabularies[0], s) for s in options.word_seconds if s != 30]
    rows = []
    for hours, books, size, vocabulary, seconds in plans:
        words = chunks(synthetic(hours, books, size), seconds)
        ours(words[:2], size, books * size + 20)  # compiled, or loaded from the cache
        our_time, made = ours(words, size, vocabulary)
        their_time, merges = theirs(words, size, vocabulary)
        tokens = made.tokens()
        pairs = zip(made.merges.left.tolist(), made.merges.right.tolist(), strict=True)
        row = {
            "hours": hours, "codebooks": books, "size": size, "vocabulary": vocabulary, "word_seconds": seconds,
            "codes": int(sum(w.size for w in words)), "their_seconds": their_time, "our_seconds": our_time,
            "ratio": their_time / our_time, "identical": [(tokens[a], tokens[b]) for a, b in pairs] == merges,
        }  # fmt: skip
        for side in ("codec-bpe", "duotone"):
            setting = ["--one", side, str(hours), str(books), str(size), str(vocabulary), str(seconds)]
            done = subprocess.run([sys.executable, __file__, *setting], capture_output=True, text=True, check=True)
            row[f"{side}_peak_mib"] = json.loads(done.stdout.splitlines()[-1])["peak_mib"]
        rows.append(row)
        print(
            f"{hours:g} h of {books} x {size}, words of {seconds:g} s, {vocabulary}: {their_time:.1f} s, ours "
            f"{our_time:.2f} s, {row['ratio']:.0f}x, identical {row['identical']}", flush=True,
        )  # fmt: skip
    return rows


def main() -> int:
    """Run and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, nargs="+", default=[1.0, 4.0])
    parser.add_argument("--vocabularies", type=int, nargs="+", default=[8192, 30_000])
    parser.add_argument("--word-seconds", type=float, nargs="+", default=[5.0, 30.0, 120.0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--codes", type=Path, help="folder of .duo files, for the compression on real codes")
    parser.add_argument("--one", nargs=6, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        side, *numbers = options.one
        hours, books, size, vocabulary, seconds = map(float, numbers)
        print(json.dumps(one(side, hours, int(books), int(size), int(vocabulary), seconds)))
        return 0
    RESULTS.mkdir(exist_ok=True)
    command = " ".join(["python benchmarks/bench_tokens.py", *sys.argv[1:]])
    document: dict[str, Any] = {"command": command, "machine": machine.describe(), "compile_seconds": compile_seconds()}
    document["converters"] = converters(options.repeats)
    document["training"] = training(options)
    document["encoding"] = encoding(min(1.0, options.hours[0]), options.vocabularies[0])
    document["real"] = real(options.codes) if options.codes else []
    (RESULTS / "tokens.json").write_text(json.dumps(document, indent=1) + "\n")
    (RESULTS / "tokens.md").write_text(page(document))
    return 0


def real(folder: Path) -> list[dict[str, Any]]:
    """Compression on codes of our codec: a tenth of the recordings held out, vocabularies of 1.1 and 1.5 times the codes."""
    from duotone.codec.container import read_duo
    from duotone.tokens import Alphabet
    from duotone.tokens.report import advise

    recordings = [read_duo(path).indices.numpy() for path in sorted(folder.rglob("*.duo"))]
    held = recordings[9::10]
    rest = [r for i, r in enumerate(recordings) if i % 10 != 9]
    points = advise(rest, held, Alphabet(1, 14641), [16_000, 20_000], ngrams=(None,), framerate=187.5)
    return [vars(p) | {"recordings": len(recordings), "codes": sum(r.size for r in recordings)} for p in points]


def page(document: dict[str, Any]) -> str:
    """The tables as Markdown."""
    lines = [
        "# Acoustic BPE against codec-bpe",
        "",
        f"`{document['command']}`",
        "",
        machine.markdown(document["machine"]),
    ]
    lines += [
        "", f"Compilation (once for each installation, not in the figures below): {document['compile_seconds']:.1f} s.",
        "", "| converters, 4 x 1024 | codec-bpe, M codes/s | ours | ratio |", "|---|---:|---:|---:|",
        *(f"| {r['task']} | {r['theirs']:.2f} | {r['ours']:.1f} | {r['ratio']:.1f} |" for r in document["converters"]),
        "", "| training | words, s | vocabulary | codec-bpe s | peak MiB | ours s | peak MiB | ratio | with compilation | same merges |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---|",
        *(
            f"| {r['hours']:g} h, {r['codebooks']} x {r['size']} | {r['word_seconds']:g} | {r['vocabulary']} "
            f"| {r['their_seconds']:.1f} | {r['codec-bpe_peak_mib']:.0f} | {r['our_seconds']:.2f} | {r['duotone_peak_mib']:.0f} "
            f"| {r['ratio']:.0f} | {r['their_seconds'] / (r['our_seconds'] + document['compile_seconds']):.1f} "
            f"| {'yes' if r['identical'] else 'NO'} |"
            for r in document["training"]
        ),
        "", "| encoding | codec-bpe, M codes/s | ours | ratio | same ids |", "|---|---:|---:|---:|---|",
        *(
            f"| recordings of 5 minutes, {r['task']} | {r['theirs']:.2f} | {r['ours']:.1f} | {r['ratio']:.1f} "
            f"| {'yes' if r['identical'] else 'NO'} |"
            for r in document["encoding"]
        ),
    ]  # fmt: skip
    if document["real"]:
        lines += [
            "",
            "| codes of `tiny` over the generated collection | vocabulary | codes a token, held out | single codes |",
            "|---|---:|---:|---:|",
        ]
        lines += [
            f"| {r['recordings']} recordings, {r['codes']} codes | {r['vocabulary']} | {r['codes_per_token']:.3f} | {r['single_share']:.0%} |"
            for r in document["real"]
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
