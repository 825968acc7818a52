"""Average the weights of two trainings of a codec of which the second began from the first:

    python -m duotone.train.average FIRST SECOND --share 0.7 -o OUT

`share` is the second's part. Between the weights before and after a further training often lies a decoder that is better than either
(Wortsman et al., *Robust fine-tuning of zero-shot models*, arXiv 2109.01903, section 3).
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from duotone.codec.codicodec.bands.codec import BandCodec
from duotone.codec.codicodec.codec import CoDiCodec
from duotone.codec.codicodec.weights import load_codec, save_codec
from duotone.errors import DuotoneError, UsageError


def average(first: CoDiCodec | BandCodec, second: CoDiCodec | BandCodec, share: float) -> CoDiCodec | BandCodec:
    """A codec with ``(1 - share) * first + share * second`` in place of each weight; its provenance says so.

    Weights that are equal stay as they are, bit for bit, and with them latents and codes. Raises `UsageError` unless both have one configuration
    and one latent space, and `share` is from 0 to 1.
    """
    if not 0 <= share <= 1:
        raise UsageError(f"share got {share:g}, expected 0 (the first codec alone) to 1 (the second alone).")
    shapes = [{name: tensor.shape for name, tensor in each.network.state_dict().items()} for each in (first, second)]
    if type(first) is not type(second) or shapes[0] != shapes[1] or first.spec.space != second.spec.space:
        raise UsageError(
            f"Expected two codecs of one network and latent space, got {first.spec.space} and {second.spec.space}. "
            "Average a codec with one that a training with a frozen encoder made of it."
        )
    out = copy.deepcopy(second)
    begun = first.network.state_dict()
    with torch.no_grad():
        for name, tensor in out.network.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.where(tensor == begun[name], tensor, torch.lerp(begun[name], tensor, share)))
    out.provenance = {**second.provenance, "averaged": {"with": first.fingerprint, "share": share}}
    return out


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m duotone.train.average",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("first", type=Path, help="folder of a codec")
    parser.add_argument("second", type=Path, help="folder of the codec that was trained from it")
    parser.add_argument("--share", type=float, default=0.5, help="the second's part, 0 to 1 (default: 0.5)")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder that is written, in bfloat16")
    options = parser.parse_args(arguments)
    try:
        found = average(load_codec(options.first), load_codec(options.second), options.share)
        save_codec(found, options.out, torch.bfloat16)
    except DuotoneError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
