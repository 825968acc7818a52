"""Speed of the bundled codec against EnCodec 48 kHz stereo through transformers: same sound, in turns, medians.

    python benchmarks/bench_against_encodec.py [--seconds 20] [--repeats 3] [--threads N]

EnCodec gets random weights in the published 48 kHz configuration (speed does not depend on their values) and runs in
float32. Ours encodes in float32 and decodes in the format that is fastest on this machine. Writes benchmarks/results/against_encodec.{json,md}.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from typing import Any

import torch

import machine
from bench_against_codicodec import measure
from duotone import hub
from duotone.audio.synth import synthesize

#: The published configuration of facebook/encodec_48khz, as far as it differs from the defaults of the class.
ENCODEC_48 = {
    "target_bandwidths": [3.0, 6.0, 12.0, 24.0], "sampling_rate": 48_000, "audio_channels": 2, "normalize": True,
    "chunk_length_s": 1.0, "overlap": 0.01, "norm_type": "time_group_norm", "use_causal_conv": False,
}  # fmt: skip


def make_encodec() -> Any:
    """EnCodec 48 kHz with random weights."""
    from transformers import EncodecConfig, EncodecModel

    torch.manual_seed(0)
    return EncodecModel(EncodecConfig(**ENCODEC_48)).eval()


def main() -> int:
    """Run and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codec", default="tiny")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    theirs, ours = make_encodec(), hub.load(options.codec, dtype="auto")
    wave = synthesize(0, options.seconds)
    batch = wave.samples[None]
    mask = torch.ones(1, 1, wave.length, dtype=torch.bool)
    with torch.no_grad():
        made = theirs.encode(batch, mask, bandwidth=3.0)
    latents = ours.encode(wave)

    def their_encode() -> None:
        with torch.no_grad():
            theirs.encode(batch, mask, bandwidth=3.0)

    def their_decode() -> None:
        with torch.no_grad():
            theirs.decode(made.audio_codes, made.audio_scales, mask, last_frame_pad_length=made.last_frame_pad_length)

    pairs = {
        "encode": (their_encode, lambda: ours.encode(wave).codes()),
        "decode (ours parallel, 4 steps)": (their_decode, lambda: ours.decode(latents, "parallel", steps=4)),
        "decode (ours autoregressive, 2 steps)": (their_decode, lambda: ours.decode(latents, "autoregressive")),
    }
    rows = []
    for task, pair in pairs.items():
        their_time, our_time = map(statistics.median, measure(pair, options.repeats))
        format = ours.encoding_format if task == "encode" else str(ours.dtype).removeprefix("torch.")
        row = {
            "task": task, "their_speed": options.seconds / their_time, "our_speed": options.seconds / our_time,
            "ratio": their_time / our_time, "ours": format,
        }  # fmt: skip
        rows.append(row)
        print(
            f"{task:40} EnCodec {row['their_speed']:6.1f}x  ours {row['our_speed']:6.1f}x  ratio {row['ratio']:.2f}",
            flush=True,
        )
    document = {
        "command": machine.command(),
        "seconds_of_sound": options.seconds,
        "machine": machine.describe(),
        "rows": rows,
    }
    machine.record("against_encodec", document, page)
    return 0


def page(document: dict[str, Any]) -> str:
    """The table as Markdown."""
    lines = [
        "# Speed against EnCodec 48 kHz stereo (transformers)", "",
        f"`{document['command']}`: {document['seconds_of_sound']:g} s of stereo, bandwidth 3 kbit/s, medians, in turns.", "",
        machine.markdown(document["machine"]), "",
        "| task | EnCodec, x real time | ours, x real time | ours in | ratio |", "|---|---:|---:|---|---:|",
    ]  # fmt: skip
    for row in document["rows"]:
        lines.append(
            f"| {row['task']} | {row['their_speed']:.1f} | {row['our_speed']:.1f} | {row['ours']} | {row['ratio']:.2f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
