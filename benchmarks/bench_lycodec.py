"""How fast Lycodec encodes and decodes (one step), and the shares of its parts; writes benchmarks/results/lycodec_speed.json and .md.

    python benchmarks/bench_lycodec.py [--seconds 12] [--rounds 5] [--threads 2]

The bundled `lycodec-tiny`, and the preset `lycodec` with random weights; in float32, and in the number format that decoding picks on this
machine. Speeds are medians of rounds in which all alternate. Shares are times inside a part's forward pass, in one more round.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

import duotone
import machine
from duotone.audio.synth import synthesize
from duotone.codec.lycodec.codec import Lycodec
from duotone.config import lycodec_preset

NAME = "lycodec_speed"
#: What has to be reached with two cores, in times real time.
LEAST = {"lycodec-tiny": 20.0, "lycodec": 1.0}


def codecs() -> dict[tuple[str, str], Lycodec]:
    """By name and number format."""
    made = {
        "lycodec-tiny": lambda: duotone.load("lycodec-tiny"),
        "lycodec": lambda: Lycodec.random(lycodec_preset("lycodec")),
    }
    out: dict[tuple[str, str], Lycodec] = {}
    for name, make in made.items():
        for dtype in ("float32", "auto"):
            codec = make()
            assert isinstance(codec, Lycodec)
            codec.to(dtype=dtype)
            if dtype == "float32" or codec.dtype != torch.float32:  # auto may be float32, too
                out[name, dtype] = codec
    return out


def parts(codec: Lycodec) -> dict[str, nn.Module]:
    """The parts whose times are told, by name."""
    network = codec.network
    found = {
        "stem": network.encoder.stem, "encoder": network.encoder.layers, "fusion": network.fusion, "stereo head": network.stereo,
        "conditioner": network.decoder.conditioner, "decoder blocks": network.decoder.blocks, "band-split head": network.decoder.split,
    }  # fmt: skip
    return {name: part for name, part in found.items() if part is not None}


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what the work gives."""
    start = time.perf_counter()
    made = work()
    return time.perf_counter() - start, made


def shares(codec: Lycodec, wave: duotone.Waveform) -> dict[str, dict[str, float]]:
    """Share of the time of encoding and of decoding that is spent inside each part; the rest is transforms and noise."""
    spent: dict[str, float] = {}
    began: dict[int, float] = {}
    handles = []
    for name, part in parts(codec).items():
        for module in part if isinstance(part, nn.ModuleList) else [part]:

            def before(module: nn.Module, _: Any) -> None:
                began[id(module)] = time.perf_counter()

            def after(module: nn.Module, _: Any, __: Any, name: str = name) -> None:
                spent[name] = spent.get(name, 0.0) + time.perf_counter() - began[id(module)]

            handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    out = {}
    value = codec.encode(wave)
    for way, work in (("encode", lambda: codec.encode(wave)), ("decode", lambda: codec.decode(value.codes()))):
        spent.clear()
        total, _ = timed(work)
        out[way] = {name: seconds / total for name, seconds in spent.items()}
    for handle in handles:
        handle.remove()
    return out


def page(document: dict[str, Any]) -> str:
    """The tables as Markdown."""
    lines = [
        "# Speed of Lycodec", "", machine.markdown(document["machine"]), f"By `{document['command']}`: {document['seconds']:g} s of sound, "
        f"{document['threads']} threads, medians of {document['rounds']} alternating rounds, one step of decoding.", "",
        "| codec | decodes in | encode, x real time | decode, x real time | at least |", "| --- | --- | ---: | ---: | --- |",
    ]  # fmt: skip
    for row in document["rows"]:
        bar = LEAST[row["codec"]]
        missed = bar - min(row["encode"], row["decode"])
        told = "reached" if missed <= 0 else f"**missed by {missed:.1f}**"
        lines.append(
            f"| {row['codec']} | {row['dtype']} | {row['encode']:.1f} | {row['decode']:.1f} | {bar:g}: {told} |"
        )
    lines += [
        "",
        "Shares of the time (the rest is transforms and noise):",
        "",
        "| codec | decodes in | encode | decode |",
        "| --- | --- | --- | --- |",
    ]
    for row in document["rows"]:
        told_shares = [
            ", ".join(f"{name} {share:.0%}" for name, share in row["shares"][way].items())
            for way in ("encode", "decode")
        ]
        lines.append(f"| {row['codec']} | {row['dtype']} | {' | '.join(told_shares)} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write the tables; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=12.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    wave, loaded = synthesize(0, options.seconds), codecs()
    times: dict[tuple[str, str], dict[str, list[float]]] = {key: {"encode": [], "decode": []} for key in loaded}
    for round_number in range(options.rounds + 1):  # the first is not counted
        for key, codec in loaded.items():
            encode, value = timed(lambda codec=codec: codec.encode(wave))
            codes = value.codes()
            decode, _ = timed(lambda codec=codec, codes=codes: codec.decode(codes))
            if round_number:
                times[key]["encode"].append(encode)
                times[key]["decode"].append(decode)
    rows = [
        {
            "codec": name, "dtype": str(codec.dtype).removeprefix("torch."), "shares": shares(codec, wave),
            **{way: options.seconds / statistics.median(found) for way, found in times[name, dtype].items()},
        }
        for (name, dtype), codec in loaded.items()
    ]  # fmt: skip
    document = {
        "command": machine.command(arguments, __file__), "machine": machine.describe(), "seconds": options.seconds, "threads": options.threads,
        "rounds": options.rounds, "rows": rows,
    }  # fmt: skip
    machine.record(NAME, document, page)
    print(page(document))
    return 0


if __name__ == "__main__":
    sys.exit(main())
