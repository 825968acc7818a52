"""A language model of a codec's tokens: an ordinary causal model of transformers, its tokenizer, and what they were made for.

A folder of it is one of transformers (`AutoModelForCausalLM` and `AutoTokenizer` read it, `generation_config.json` says how to
sample) with `duotone.json` beside: format, sizes, the spec of the codec, provenance. Nothing executes on load.

Legend: K rows of codes, S steps of a chunk, F numbers a frame.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from duotone.atomic import write_text
from duotone.codec.values import Codes
from duotone.config import LMConfig, LMSampling
from duotone.errors import CodecMismatchError, FormatError, UsageError, WeightsError
from duotone.lm.frames import Int, alphabet, from_frames, to_frames
from duotone.nn.state import fill, read_document, read_weights, told_provenance, write_weights
from duotone.spec import CodecSpec
from duotone.tokens.grammar import FrameGrammar
from duotone.tokens.tokenizer import AudioTokenizer
from duotone.tokens.training import train_bpe

FILE = "duotone.json"
SAMPLING = "generation_config.json"
FORMAT = "duotone-lm"
VERSION = 1
START, PAD = "<sound>", "<pad>"  #: begins every context; fills batches


@dataclass(eq=False)
class LanguageModel:
    """A causal model of transformers over the tokens of one codec."""

    network: Any  #: of transformers, e.g. `LlamaForCausalLM`
    tokenizer: AudioTokenizer
    spec: CodecSpec
    config: LMConfig
    sampling: LMSampling = field(default_factory=LMSampling)
    provenance: dict[str, Any] = field(default_factory=dict)  #: where the weights come from, as far as they tell

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        found: torch.device = next(iter(self.network.parameters())).device
        return found

    @property
    def start(self) -> int:
        """The id that begins every context."""
        return self.tokenizer.id_of(START)

    @property
    def pad(self) -> int:
        """The id that fills batches; never attended to."""
        return self.tokenizer.id_of(PAD)

    @property
    def codes_of_chunk(self) -> int:
        """Numbers of a chunk's frames: the most tokens that a chunk can have."""
        return self.spec.steps * self.tokenizer.alphabet.codebooks

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> LanguageModel:
        """Move or convert the weights, in place; returns itself."""
        self.network.to(device=device, dtype=dtype)
        return self

    def grammar(self) -> FrameGrammar:
        """Which tokens may follow those of a chunk: whole frames, and no token across the chunk's end."""
        return FrameGrammar(self.tokenizer, int(self.network.config.vocab_size), group=self.spec.steps)

    def encode(self, codes: Any) -> list[Int]:
        """Codes `[K, N * S]` -> the ids of each chunk. Chunks are tokenized apart, so that no token spans two."""
        return encode_chunks(self.tokenizer, codes, self.spec, self.config.parts)

    def decode(self, ids: Any) -> Int:
        """The ids of whole chunks -> codes `[K, N * S]`. Raises `FormatError` for ids that are not."""
        found = self.tokenizer.decode(ids, damaged="drop_frame").codes
        asked = int(self.tokenizer.lengths[self.tokenizer.own(ids)].sum()) if len(ids) else 0
        if found.size != asked or found.shape[1] % self.spec.steps:
            raise FormatError(f"{len(ids)} tokens are not whole chunks of {self.codes_of_chunk} codes.")
        return from_frames(found, self.spec, self.config.parts)

    def codes(self, indices: Any) -> Codes:
        """Codes `[K, N * S]` as a value."""
        return Codes(torch.as_tensor(indices), self.spec)

    def check(self, spec: CodecSpec) -> None:
        """Raise `CodecMismatchError` unless a codec's codes are those that the model writes."""
        if spec.space != self.spec.space:
            raise CodecMismatchError(
                f"This language model was trained on codes of {self.spec.model or self.spec.family} ({self.spec.space}), but the codec "
                f"at hand is {spec.model or spec.family} ({spec.space}). Load the codec that made its codes."
            )

    def context(self, chunks: list[Int]) -> Tensor:
        """The ids `[M]` that the network sees before the next chunk: the start, then the chunks given."""
        return torch.from_numpy(np.concatenate([[self.start], *chunks]).astype(np.int64))


def encode_chunks(tokenizer: AudioTokenizer, codes: Any, spec: CodecSpec, parts: int) -> list[Int]:
    """Codes `[K, N * S]` -> the ids of each chunk."""
    frames = to_frames(codes, spec, parts)
    return [tokenizer.encode(frames[:, i : i + spec.steps]) for i in range(0, frames.shape[1], spec.steps)]


def make_tokenizer(config: LMConfig, spec: CodecSpec, chunks: Any = ()) -> AudioTokenizer:
    """A tokenizer for a codec: every number a token, and with `config.vocabulary` merges that are learned from codes `[K, S]` of chunks.

    Raises `UsageError` for codes that cannot be divided into `config.parts`, or a vocabulary smaller than the alphabet.
    """
    letters = alphabet(spec, config.parts)
    least = len(letters) + len((PAD, START))
    return train_bpe(
        (to_frames(chunk, spec, config.parts) for chunk in chunks),
        letters,
        framerate=spec.steps_per_second,
        vocab_size=config.vocabulary or least,
        special_tokens=[PAD, START],
        pad_token=PAD,
        bos_token=START,
        max_token_codebook_ngrams=0 if config.vocabulary is None else spec.steps,
        about={"codec": spec.fingerprint, "space": spec.space, "parts": config.parts},
    )


def make_network(config: LMConfig, tokenizer: AudioTokenizer, steps: int, seed: int = 0) -> Any:
    """A Llama with random weights for a tokenizer and chunks of so many steps. Raises `UsageError` without transformers."""
    transformers = require_transformers()
    longest = 1 + config.context_chunks * steps * tokenizer.alphabet.codebooks
    sizes = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=config.dim, intermediate_size=round(config.mlp * config.dim),
        num_hidden_layers=config.layers, num_attention_heads=config.heads, num_key_value_heads=config.heads,
        max_position_embeddings=longest, tie_word_embeddings=True, pad_token_id=tokenizer.id_of(PAD),
        bos_token_id=tokenizer.id_of(START), eos_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return transformers.LlamaForCausalLM(sizes).eval()


def random(config: LMConfig, spec: CodecSpec, seed: int = 0, chunks: Any = ()) -> LanguageModel:
    """A model with random weights; `chunks` are codes to learn merges from, where `config.vocabulary` asks for them."""
    tokenizer = make_tokenizer(config, spec, chunks)
    return LanguageModel(make_network(config, tokenizer, spec.steps, seed), tokenizer, spec, config)


def save(
    model: LanguageModel,
    folder: str | os.PathLike[str],
    dtype: torch.dtype | None = None,
    provenance: dict[str, Any] | None = None,
) -> None:
    """Write a folder of transformers, with the tokenizer and `duotone.json`; `dtype` converts the weights (e.g. bfloat16).

    `provenance` replaces the model's own.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    config = model.network.config
    state = {name: tensor for name, tensor in model.network.state_dict().items() if not _is_tied(name, config)}
    if dtype is not None:
        state = {name: tensor.to(dtype) for name, tensor in state.items()}
    write_weights(state, target)
    described = {
        **config.to_dict(), "architectures": [type(model.network).__name__],
        "dtype": str(dtype or model.network.dtype).removeprefix("torch."),
    }  # fmt: skip
    sampling = {
        "do_sample": True, **model.sampling.to_dict(), "pad_token_id": model.pad, "bos_token_id": model.start, "eos_token_id": None,
    }  # fmt: skip
    about = {
        "format": FORMAT, "version": VERSION, "config": model.config.to_dict(), "spec": model.spec.to_dict(short=True),
        "provenance": model.provenance if provenance is None else provenance,
    }  # fmt: skip
    for name, document in (("config.json", described), (SAMPLING, sampling), (FILE, about)):
        write_text(target / name, json.dumps(document, indent=2, sort_keys=True) + "\n")
    model.tokenizer.save(target)


def is_language_model(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder was written by `save`."""
    return (Path(folder) / FILE).is_file()


def load(folder: str | os.PathLike[str]) -> LanguageModel:
    """Read a folder written by `save`, as float32 on the CPU in evaluation mode.

    Raises `WeightsError`, `ConfigError` or `FormatError` for damaged folders, `UsageError` without transformers.
    """
    source = Path(folder)
    document = read_document(source / FILE, "language model", FORMAT, VERSION)
    config = LMConfig.parse(document.get("config", {}), str(source / FILE))
    spec = CodecSpec.from_dict(document.get("spec", {}), f"The spec in {source / FILE}")
    transformers = require_transformers()
    try:
        sizes = transformers.AutoConfig.from_pretrained(source, local_files_only=True)
        network = transformers.AutoModelForCausalLM.from_config(sizes, dtype=torch.float32)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{source} holds no causal model that transformers knows: {error}") from None
    state = read_weights(source)
    embedding = next(n for n, p in network.named_parameters() if p is network.get_input_embeddings().weight)
    state |= {name: state[embedding] for name in network.state_dict() if _is_tied(name, sizes) and embedding in state}
    fill(network, state, str(source))
    network.tie_weights()
    tokenizer = AudioTokenizer.load(source)
    if sizes.vocab_size < len(tokenizer):
        raise WeightsError(
            f"{source}: the network has {sizes.vocab_size} tokens, its tokenizer {len(tokenizer)}. Export it again."
        )
    told = told_provenance(document)
    return LanguageModel(network.eval(), tokenizer, spec, config, _sampling(source / SAMPLING), told)


def _sampling(path: Path) -> LMSampling:
    """The settings in transformers' file; what it leaves out, or has as null, is not used."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        values = {name: found[name] for name in LMSampling.model_fields if found.get(name) is not None}
    except (FileNotFoundError, ValueError, TypeError) as error:
        raise WeightsError(f"{path} cannot be read ({error}). Export the model again.") from None
    return LMSampling.parse(values, str(path))


def _is_tied(name: str, config: Any) -> bool:
    """Whether a tensor is the embedding a second time."""
    return bool(config.tie_word_embeddings) and name == "lm_head.weight"


def fingerprint(model: LanguageModel) -> str:
    """16 hexadecimal digits of a hash over the tokenizer and every weight in float32."""
    digest = hashlib.blake2b(model.config.to_json().encode(), digest_size=8)
    digest.update("\0".join(model.tokenizer.tokens()).encode())
    for name, tensor in sorted(model.network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def require_transformers() -> Any:
    """The package. Raises `UsageError` where it is not installed."""
    try:
        import transformers
    except ImportError:
        raise UsageError(
            "Language models need transformers. Install it with the tokens' extra: pip install 'duotone[tokens]' transformers."
        ) from None
    return transformers
