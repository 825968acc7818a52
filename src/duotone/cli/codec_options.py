"""The options that name a codec, the same in every command, and loading what they name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import typer

from duotone.cli.failures import tell
from duotone.errors import UsageError
from duotone.spec import CodecSpec

if TYPE_CHECKING:
    from duotone.codec.contract import Codec as LoadedCodec

Codec = Annotated[
    str | None,
    typer.Option(
        "--codec", metavar="CODEC",
        help="Bundled name, folder, .pt file, codec of another project (mimi, dac, ...) or org/name on the Hub "
        "(default: tiny).",
    ),
]  # fmt: skip
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:N or mps.")]
Dtype = Annotated[str, typer.Option(help="auto (the fastest that the device has), float32, bfloat16 or float16.")]
EncodeDtype = Annotated[
    str,
    typer.Option(
        help="Number format of the encoder. auto means float32, for reproducible codes; bfloat16 and float16 are faster on "
        "some devices and change up to a fifth of the codes."
    ),
]
Bandwidth = Annotated[
    float | None,
    typer.Option(
        "--bandwidth", help="Bit rate in kbit/s (funcodec: bit/s), for encodec, xcodec, higgs_audio_v2, funcodec."
    ),
]
Quantizers = Annotated[
    int | None, typer.Option("--n-quantizers", help="Number of codebooks, for dac, mimi, lycodec and similar codecs.")
]
Repository = Annotated[
    str | None,
    typer.Option("--codec-repo", help="Folder with the cloned code of wavtokenizer, simvq or magicodec."),
]


class Particular(TypedDict):
    """Options of other projects' codecs; None where not given."""

    bandwidth: float | None
    n_quantizers: int | None
    repository: str | None


def particular(bandwidth: float | None, n_quantizers: int | None, repository: str | None) -> Particular:
    """The values of `--bandwidth`, `--n-quantizers` and `--codec-repo`."""
    return {"bandwidth": bandwidth, "n_quantizers": n_quantizers, "repository": repository}


def load_codec(name: str | None, device: str, dtype: str, options: Particular | None = None) -> LoadedCodec:
    """Load the codec of that name, or the default one. Raises `UsageError` if the name is that of an audio tokenizer."""
    from duotone.hub import DEFAULT, load

    wanted: dict[str, Any] = {**(options or {})}
    return checked_codec(load(DEFAULT if name is None else name, device, dtype, say=tell, **wanted), name)


def checked_codec(found: object, name: str | None) -> LoadedCodec:
    """What was loaded by that name. Raises `UsageError` if it is no codec."""
    from duotone.codec.contract import Codec as LoadedCodec

    if not isinstance(found, LoadedCodec):
        hint = "--codec names the codec that made its latents or codes, such as tiny."
        raise UsageError(f"{name} is a {type(found).__name__}, expected a codec. {hint}")
    return found


def title(spec: CodecSpec) -> str:
    """A codec's name in a sentence."""
    return spec.model or spec.family


def require_face(spec: CodecSpec, face: str) -> None:
    """Raise `UsageError` if a codec has no tokens, or no latents, but `face` asks for them."""
    if face not in spec.faces:
        raise UsageError(
            f"{title(spec)} has no {face}, only {spec.faces[0]}. Choose another --codec, or use its {spec.faces[0]}."
        )


def decoding_format(codec: LoadedCodec) -> str:
    """The number format that a codec decodes in (that of the encoder is in the source of each encoding)."""
    return str(getattr(codec, "dtype", "float32")).removeprefix("torch.")
