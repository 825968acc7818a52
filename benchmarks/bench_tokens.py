"""Acoustic BPE against `codec-bpe`: converters, training, encoding; same codes, on one machine, in turns.

    python benchmarks/bench_tokens.py [--cases 1:4x1024:30:8192 ... | --cases all] [--parts training ...]
                                      [--codes DIR --held-out DIR]

A case of training is HOURS:BOOKSxSIZE:WORD_SECONDS:VOCABULARY; with :ours behind it `codec-bpe` is left out. By default
those run that take a minute or two in all. Rows of results/tokens.json that were not measured again are kept, if the
machine is the same.

Synthetic codes, 75 frames a second: the coarsest codebook is a Zipf draw held for 1 to 5 frames; each finer one follows
the one above by a fixed map half of the time and is a Zipf draw else. Training is timed from codes in memory to the
merges, each side in a process of its own, which gives its peak memory (the codes included), and the merges are compared;
of ours, medians of three. "First": as it is once after an installation, with Numba's import and compilation. --codes and
--held-out: folders of .duo files of our codec. Writes benchmarks/results/tokens.{json,md}.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import machine

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


def one(side: str, case: Case) -> dict[str, Any]:
    """A training in this process alone: its time, its peak memory, and a hash of the merges."""
    words = chunks(synthetic(case.hours, case.books, case.size), case.word_seconds)
    if side != "first":
        ours(words[:2], case.size, case.books * case.size + 20)  # compiled, or loaded from the cache
    if side == "codec-bpe":
        theirs(words[:2], case.size, case.books * case.size + 20)
        spent, merges = theirs(words, case.size, case.vocabulary)
        peak = _peak_mib()
    else:
        spent, made = ours(words, case.size, case.vocabulary)
        peak, tokens = _peak_mib(), made.tokens()
        pairs = zip(made.merges.left.tolist(), made.merges.right.tolist(), strict=True)
        merges = [(tokens[a], tokens[b]) for a, b in pairs]
    digest = hashlib.sha256("\n".join(a + b for a, b in merges).encode()).hexdigest()
    lengths = hashlib.sha256(bytes(str([len(a) for a, _ in merges]), "ascii")).hexdigest()
    return {"seconds": spent, "peak_mib": peak, "merges": digest + lengths}


def apart(side: str, case: Case) -> dict[str, Any]:
    """The same, from a program of its own; "first": where nothing is compiled yet."""
    command = [sys.executable, __file__, "--one", side, case.name]
    with tempfile.TemporaryDirectory() as empty:
        there = {"NUMBA_CACHE_DIR": empty} if side == "first" else {}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **there})
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def _peak_mib() -> float:
    """This program's peak resident memory. (`ru_maxrss` would begin at that of the process which started it.)"""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(text for text in status.read_text().splitlines() if text.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def compile_seconds() -> dict[str, float]:
    """Importing Numba and compiling, with an empty cache: what a first training waits for, and a first encoding then."""
    program = (
        "import time; t = time.perf_counter(); import numpy as np; from duotone.tokens import Alphabet, train_bpe; "
        "x = train_bpe([np.zeros((2, 9), int)], Alphabet(2, 4), vocab_size=12, pad_token='<pad>'); "
        "print(time.perf_counter() - t); x.encode(np.zeros((2, 9), int)); print(time.perf_counter() - t)"
    )
    seen = []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as cache:
            done = subprocess.run(
                [sys.executable, "-c", program], capture_output=True, text=True, check=True,
                env={**os.environ, "NUMBA_CACHE_DIR": cache},
            )  # fmt: skip
        first, both = map(float, done.stdout.split())
        seen.append((first, both - first))
    first, then = (statistics.median(x) for x in zip(*seen, strict=True))
    return {"training": first, "encoding": then}


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
    with tempfile.TemporaryDirectory() as folder:
        made.save(folder)
        their = PreTrainedTokenizerFast.from_pretrained(folder)
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


def training(cases: list[Case]) -> list[dict[str, Any]]:
    """Trainings of both sides."""
    rows = []
    for case in cases:
        their = None if case.ours_only else apart("codec-bpe", case)
        mine, first = ([apart(side, case) for _ in range(3)] for side in ("duotone", "first"))
        row: dict[str, Any] = {
            "case": case.name, "codes": int(case.hours * 3600 * FRAMERATE) * case.books,
            "seconds": statistics.median(m["seconds"] for m in mine),
            "first_seconds": statistics.median(m["seconds"] for m in first),
            "peak_mib": max(m["peak_mib"] for m in mine),
        }  # fmt: skip
        line = f"{case.name}: ours {row['seconds']:.2f} s, {row['peak_mib']:.0f} MiB"
        if their is not None:
            row |= {
                "their_seconds": their["seconds"], "their_peak_mib": their["peak_mib"],
                "ratio": their["seconds"] / row["seconds"], "first_ratio": their["seconds"] / row["first_seconds"],
                "identical": {m["merges"] for m in [*mine, *first]} == {their["merges"]},
            }  # fmt: skip
            line += f"; codec-bpe {their['seconds']:.1f} s, {their['peak_mib']:.0f} MiB; {row['ratio']:.0f}x, first "
            line += f"{row['first_ratio']:.1f}x, identical {row['identical']}"
        rows.append(row)
        print(line, flush=True)
    return rows


@dataclass(frozen=True)
class Case:
    """One training."""

    name: str
    hours: float
    books: int
    size: int
    word_seconds: float
    vocabulary: int
    ours_only: bool

    @classmethod
    def parse(cls, name: str) -> Case:
        """HOURS:BOOKSxSIZE:WORD_SECONDS:VOCABULARY[:ours]."""
        found = re.fullmatch(r"([\d.]+):(\d+)x(\d+):([\d.]+):(\d+)(:ours)?", name)
        if found is None:
            raise SystemExit(f"--cases got {name!r}, expected HOURS:BOOKSxSIZE:WORD_SECONDS:VOCABULARY[:ours], or all.")
        hours, books, size, seconds, vocabulary, only = found.groups()
        return cls(name, float(hours), int(books), int(size), float(seconds), int(vocabulary), only is not None)


QUICK = ["1:4x1024:30:8192", "1:4x1024:30:30000", "4:4x1024:30:30000", "1:1x4096:30:30000", "1:4x1024:5:30000"]
ALL = [
    *(f"{hours}:4x1024:30:{vocabulary}" for hours in (1, 4, 16) for vocabulary in (8192, 30000)),
    "64:4x1024:30:30000:ours",
    *(f"{hours}:1x4096:30:{vocabulary}" for hours in (1, 4, 16) for vocabulary in (8192, 30000)),
    *(f"1:4x1024:{seconds}:30000" for seconds in (5, 120, 600)),
]


def real(train_folder: Path, held_folder: Path) -> dict[str, Any]:
    """Compression of codes of our codec by layout and vocabulary, on recordings that were held out."""
    from duotone.codec.container import read_duo
    from duotone.tokens import train_bpe
    from duotone.tokens.report import report

    sides = []
    for folder in (train_folder, held_folder):
        codes = [read_duo(path) for path in sorted(folder.rglob("*.duo"))]
        about = codes[0].about
        sides.append([c.indices.numpy().reshape(-1, about.latents) for c in codes])
    training_set, held = sides
    rows = []
    for name, (alphabet, lay_out, sizes) in layouts(about.levels).items():
        words = [lay_out(chunks_) for chunks_ in training_set]
        whole = train_bpe(words, alphabet, vocab_size=max(sizes), pad_token="<pad>")
        for size in sizes:
            part = whole.first(size)
            unseen = [lay_out(chunks_) for chunks_ in held]
            told = report(part, unseen)
            tokens = told.tokens / sum(h.size for h in held)
            row = {
                "layout": name, "vocabulary": len(part), "codes_per_token": 1 / tokens, "single_share": told.single_share,
                "fixed_bits": tokens * float(np.log2(len(part))), "bits": tokens * _bits(part, words, unseen),
            }  # fmt: skip
            rows.append(row)
            print(
                f"{name:32} {len(part):6} {row['codes_per_token']:.3f} codes a token, {row['bits']:.2f} bits a code",
                flush=True,
            )
    total = [sum(r.size for r in side) for side in sides]
    return {
        "rows": rows,
        "codes": total,
        "recordings": [len(side) for side in sides],
        "codebook": int(np.prod(about.levels)),
    }


def layouts(levels: tuple[int, ...]) -> dict[str, tuple[Any, Callable[[np.ndarray], np.ndarray], list[int]]]:
    """Ways to write codes `[chunks, positions]` in a row: alphabet, codes -> `[K, T]`, sizes of vocabularies."""
    from duotone.tokens import Alphabet

    place = np.cumprod([1, *levels[:-1]])
    whole, digits, planes = Alphabet(1, int(np.prod(levels))), Alphabet(len(levels), levels[0]), Alphabet(1, levels[0])

    def split(codes: np.ndarray) -> np.ndarray:
        return codes.reshape(1, -1) // place[:, None] % levels[0]

    def by_plane(codes: np.ndarray) -> np.ndarray:
        return split(codes).reshape(len(levels), *codes.shape).swapaxes(0, 1).reshape(1, -1)

    large, small = [16_384, 20_000, 30_000], [1024, 4096, 16_384, 30_000]
    return {
        "codes": (whole, lambda c: c.reshape(1, -1), large),
        "codes, position by position": (whole, lambda c: c.T.reshape(1, -1), large),
        "digits": (digits, split, small),
        "digits, position by position": (digits, lambda c: split(np.ascontiguousarray(c.T)), small),
        "digits, plane by plane": (planes, by_plane, small),
    }


def _bits(tokenizer: Any, training_set: list[np.ndarray], held: list[np.ndarray]) -> float:
    """Bits a token of what was held out, by how frequent each token is in the training (half a count added)."""
    size = len(tokenizer.alphabet) + len(tokenizer.merges)
    counts, unseen = (
        sum(np.bincount(tokenizer.own(tokenizer.encode(r)), minlength=size) for r in side)
        for side in (training_set, held)
    )
    assert isinstance(counts, np.ndarray) and isinstance(unseen, np.ndarray)
    probability = (counts + 0.5) / (counts + 0.5).sum()
    return float(-(unseen * np.log2(probability)).sum() / unseen.sum())


PARTS = ("compilation", "converters", "training", "encoding", "real")


def main() -> int:
    """Run and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--cases", nargs="+", default=QUICK, help=f"default: {' '.join(QUICK)}")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--codes", type=Path, help="folder of .duo files to learn from, for the compression of real codes"
    )
    parser.add_argument("--held-out", type=Path, help="folder of .duo files to measure it on")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(options.one[0], Case.parse(options.one[1]))))
        return 0
    if (options.codes is None) != (options.held_out is None):
        parser.error("--codes and --held-out go together.")
    cases = [Case.parse(name) for name in (ALL if options.cases == ["all"] else options.cases)]
    document = earlier(machine.describe())
    command = machine.command()
    document["commands"] = [c for c in document["commands"] if c != command] + [command]
    if "compilation" in options.parts:
        document["compile_seconds"] = compile_seconds()
    if "converters" in options.parts:
        document["converters"] = converters(options.repeats)
    if "training" in options.parts:
        for case in cases:
            rows = {r["case"]: r for r in document["training"]} | {r["case"]: r for r in training([case])}
            order = [*ALL, *(name for name in rows if name not in ALL)]
            document["training"] = [rows[name] for name in order if name in rows]
            machine.record("tokens", document, page)
    if "encoding" in options.parts:
        document["encoding"] = encoding(1.0, 8192)
    if "real" in options.parts and options.codes is not None:
        document["real"] = real(options.codes, options.held_out)
    machine.record("tokens", document, page)
    return 0


def earlier(here: dict[str, Any]) -> dict[str, Any]:
    """What results/tokens.json holds, if it was measured on this machine; else nothing."""
    empty = {
        "commands": [], "machine": here, "compile_seconds": None, "converters": [], "training": [], "encoding": [],
        "real": None,
    }  # fmt: skip
    found = machine.read("tokens")
    return found if found.keys() == empty.keys() and found["machine"] == here else empty


def page(document: dict[str, Any]) -> str:
    """The tables as Markdown."""
    lines = ["# Acoustic BPE against codec-bpe", "", *(f"`{c}`  " for c in document["commands"]), ""]
    lines += [machine.markdown(document["machine"]).rstrip()]
    compiled = document["compile_seconds"]
    if compiled:
        lines += [
            "", f"Compilation, once for each installation: {compiled['training']:.1f} s before the first training (with the "
            f"imports of Numba and NumPy), {compiled['encoding']:.1f} s more before the first encoding.",
        ]  # fmt: skip
    if document["converters"]:
        lines += ["", "| converters, 4 x 1024 | codec-bpe, M codes/s | ours | ratio |", "|---|---:|---:|---:|"]
        lines += [
            f"| {r['task']} | {r['theirs']:.2f} | {r['ours']:.1f} | {r['ratio']:.1f} |" for r in document["converters"]
        ]
    if document["training"]:
        lines += [
            "", "| training | words, s | vocabulary | codec-bpe s | peak MiB | ours s | peak MiB | ratio | first, s "
            "| ratio | same merges |", "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|",
        ]  # fmt: skip
        lines += [_training_line(r) for r in document["training"]]
    if document["encoding"]:
        lines += ["", "| encoding | codec-bpe, M codes/s | ours | ratio | same ids |", "|---|---:|---:|---:|---|"]
        lines += [
            f"| recordings of 5 minutes, {r['task']} | {r['theirs']:.2f} | {r['ours']:.1f} | {r['ratio']:.1f} "
            f"| {'yes' if r['identical'] else 'NO'} |"
            for r in document["encoding"]
        ]
    if document["real"]:
        lines += _real_lines(document["real"])
    return "\n".join(lines) + "\n"


def _training_line(row: dict[str, Any]) -> str:
    case = Case.parse(row["case"])
    start = f"| {case.hours:g} h, {case.books} x {case.size} | {case.word_seconds:g} | {case.vocabulary} "
    mine, first = f"| {row['seconds']:.2f} | {row['peak_mib']:.0f} ", f"| {row['first_seconds']:.2f} "
    if "their_seconds" not in row:
        return f"{start}| not run | - {mine}| - {first}| - | - |"
    return (
        f"{start}| {row['their_seconds']:.1f} | {row['their_peak_mib']:.0f} {mine}| {row['ratio']:.0f} {first}"
        f"| {row['first_ratio']:.1f} | {'yes' if row['identical'] else 'NO'} |"
    )


def _real_lines(told: dict[str, Any]) -> list[str]:
    """The table of real codes, and how to read it."""
    bits = float(np.log2(told["codebook"]))
    lines = [
        "", f"Codes of `tiny` over the generated collection: learned on {told['recordings'][0]} recordings "
        f"({told['codes'][0]} codes), measured on {told['recordings'][1]} others ({told['codes'][1]} codes), which have "
        "instruments and voices of their own. A code of one codebook of 14641 is 4 digits of 11 levels; *digits* takes each "
        "for a codebook. *Position by position*: the first of the 128 codes of all chunks, then the second, and so on; "
        "*plane by plane*: in each chunk the first digits of its codes, then the second ones. "
        f"A code as it is takes {bits:.2f} bits. *Fixed*: log2 of the vocabulary; *by frequency*: what an entropy coder "
        "takes that knows how frequent each token is in the training.",
        "", "| layout | vocabulary | codes a token | tokens of one symbol | bits a code, fixed | by frequency |",
        "|---|---:|---:|---:|---:|---:|",
    ]  # fmt: skip
    lines += [
        f"| {r['layout']} | {r['vocabulary']} | {r['codes_per_token']:.3f} | {r['single_share']:.0%} "
        f"| {r['fixed_bits']:.2f} | {r['bits']:.2f} |"
        for r in told["rows"]
    ]
    return lines


if __name__ == "__main__":
    sys.exit(main())
