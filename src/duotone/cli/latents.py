"""``duotone latents``: a folder of audio -> a store of latents in files of usual formats; `duotone prepare` does the work."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from duotone.cli.codec_options import (
    Bandwidth,
    Codec,
    Device,
    EncodeDtype,
    Quantizers,
    Repository,
    load_codec,
    particular,
)
from duotone.cli.common import Json, Quiet, Reporter
from duotone.cli.encode import ChunkSeconds, ContextSeconds
from duotone.cli.prepare import (
    Channels,
    FileLayout,
    Inputs,
    LayoutName,
    Output,
    Overwrite,
    ShardSize,
    Stereo,
    Wishes,
    collect,
)

NAME = "latents"
EXAMPLES = """
Examples:

    duotone latents sounds/ -o latents/

    duotone latents sounds/ -o shards/ --format tar --shard-mb 256

    duotone latents sounds/ more/ -o latents/ --codec stabilityai/stable-audio-open-1.0

Run again, it continues with what is missing. docs/latents.md describes the files and shows how to train a generator on them.
For a large collection, in parallel, with codes, or on a cluster: duotone prepare.
"""
Workers = Annotated[
    int,
    typer.Option(min=0, help="Worker processes, each with one thread; 0: encode in this process, with all threads."),
]


def command(
    inputs: Inputs,
    output: Output,
    codec: Codec = None,
    layout: FileLayout = LayoutName.npy,
    workers: Workers = 0,
    channels: Channels = None,
    stereo: Stereo = False,
    shard_mb: ShardSize = 64,
    chunk_size_secs: ChunkSeconds = None,
    context_secs: ContextSeconds = 0.0,
    bandwidth: Bandwidth = None,
    n_quantizers: Quantizers = None,
    codec_repo: Repository = None,
    device: Device = "cpu",
    dtype: EncodeDtype = "auto",
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Encode folders of sound to continuous latents, with a manifest and per-channel statistics."""
    wishes = Wishes(layout.value, False, True, channels, stereo, chunk_size_secs, context_secs)
    load = partial(load_codec, codec, device, dtype, particular(bandwidth, n_quantizers, codec_repo))
    collect(
        inputs, output, load, wishes, workers, "local", 0, shard_mb << 20, overwrite, False, Reporter(as_json, quiet)
    )
