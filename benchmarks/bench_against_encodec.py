"""Speed of the bundled codec against EnCodec 48 kHz stereo through transformers: same sound, in turns, medians.

    python benchmarks/bench_against_encodec.py [--seconds 20] [--repeats 3] [--threads N]

EnCodec gets random weights in the published 48 kHz configuration (speed does not depend on their values). Both run in
float32. Writes benchmarks/results/against_encodec.{json,md}, from which evaluate_bundled.py takes the speeds.
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
    parser.add_argument("--steps", type=int, help="also decode in so many steps of refinement")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    theirs, ours = make_encodec(), hub.load(options.codec, dtype="float32")
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

    codes = latents.codes()
    pairs: dict[str, tuple[str, Any, Any]] = {
        "encode": ("encode", their_encode, lambda: ours.encode(wave).codes()),
        "decode": ("decode (ours with defaults)", their_decode, lambda: ours.decode(codes)),
    }
    if options.steps is not None:
        task = f"decode (ours in {options.steps} steps)"
        pairs[f"decode_{options.steps}"] = (task, their_decode, lambda: ours.decode(codes, steps=options.steps))
    if "autoregressive" in ours.spec.strategies and "autoregressive" not in ours.alike_by_default:
        task = "decode (ours autoregressive)"
        pairs["decode_autoregressive"] = (task, their_decode, lambda: ours.decode(codes, "autoregressive"))
    rows = []
    for key, (task, *pair) in pairs.items():
        their_time, our_time = map(statistics.median, measure((pair[0], pair[1]), options.repeats))
        format = ours.encoding_format if key == "encode" else str(ours.dtype).removeprefix("torch.")
        row = {
            "key": key, "task": task, "their_speed": options.seconds / their_time, "our_speed": options.seconds / our_time,
            "ratio": their_time / our_time, "ours": format,
        }  # fmt: skip
        rows.append(row)
        print(
            f"{task:40} EnCodec {row['their_speed']:6.1f}x  ours {row['our_speed']:6.1f}x  ratio {row['ratio']:.2f}",
            flush=True,
        )
    by_key = {row["key"]: row for row in rows}
    document = {
        "command": machine.command(),
        "codec": options.codec,
        "fingerprint": ours.spec.fingerprint,
        "speeds": {
            **{key: row["our_speed"] for key, row in by_key.items()},
            **{f"{key}_ratio": row["ratio"] for key, row in by_key.items()},
        },
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
