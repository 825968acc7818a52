"""Embeddings for audio tokens in a language model of transformers, which the caller passes in (no PyTorch is imported).

New rows near the mean of the text rows leave the model's predictions on text nearly as they were (Hewitt, "Initializing
New Word Embeddings", 2021). A token of several codes gets the mean of its codes' rows, so that a code and the tokens that
contain it start close to each other.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from duotone.errors import FormatError, UsageError
from duotone.tokens.extend_parts import CONFIG, EXPECTED, vocabulary_of
from duotone.tokens.extended import load_extended
from duotone.tokens.jsonfiles import read_json
from duotone.tokens.tokenizer import AudioTokenizer

Rows = NDArray[np.float32]


def resize_embeddings(
    model: Any,
    folder: str | os.PathLike[str],
    *,
    noise: float = 0.1,
    pad_to_multiple_of: int | None = None,
    seed: int = 0,
) -> int:
    """Resize a transformers model's embeddings for an extended tokenizer's folder; returns their number, never fewer than before.

    The rows of text stay as they are. Codes and special tokens get the mean of the text rows, plus normal noise of
    `noise` times their standard deviation (drawn with `seed`); a token of several codes gets the mean of its codes' rows. An output head that is not
    tied gets the same from its own rows. Raises `UsageError` for a model with fewer rows than the text tokenizer's ids.
    """
    if noise < 0:
        raise UsageError(f"noise got {noise}, expected 0 or more: 0.1 is a tenth of the text rows' deviation.")
    audio, vocabulary = load_extended(folder), vocabulary_of(read_json(Path(folder) / "tokenizer.json", EXPECTED))
    told = read_json(Path(folder) / CONFIG, EXPECTED)["duotone"]
    text, added = told.get("text_ids"), told.get("added_ids", 0)  # ids below `text` are of the text tokenizer
    if not isinstance(text, int) or not isinstance(added, int):
        raise FormatError(f"{folder} does not say which of its ids are text. Extend the text tokenizer anew.")
    have, need = len(model.get_input_embeddings().weight), max(vocabulary.values()) + 1
    if have < text - added:
        raise UsageError(
            f"The model has {have} embeddings, but the ids of the text tokenizer go up to {text - added - 1}. Extend the "
            f"tokenizer that belongs to this model."
        )
    text = min(text, have)  # models often have no rows for tokens that only a tokenizer's configuration adds
    model.resize_token_embeddings(max(have, need), pad_to_multiple_of=pad_to_multiple_of, mean_resizing=False)
    rng = np.random.default_rng(seed)
    inputs, head = model.get_input_embeddings(), model.get_output_embeddings()
    _fill(inputs.weight.data, audio, text, need, noise, rng)
    if head is not None:
        if head.weight is not inputs.weight:
            _fill(head.weight.data, audio, text, need, noise, rng)
        if getattr(head, "bias", None) is not None:
            head.bias.data[text:need] = head.bias.data[:text].mean()
    return len(inputs.weight)


def _fill(weight: Any, audio: AudioTokenizer, text: int, need: int, noise: float, rng: np.random.Generator) -> None:
    """Fill the new rows, from `text` to `need`, of one matrix `[rows, width]`, a tensor of PyTorch."""
    mean, deviation = (value.cpu().numpy() for value in (weight[:text].float().mean(0), weight[:text].float().std(0)))
    scatter = rng.standard_normal((need - text, len(mean)), dtype=np.float32)
    weight[text:need] = weight.new_tensor(mean + noise * deviation * scatter)
    base, ids = len(audio.alphabet), audio.audio_ids
    sums: Rows = np.empty((len(ids), len(mean)), np.float32)
    sums[:base] = weight[ids[:base].tolist()].float().cpu().numpy()
    for i, (a, b) in enumerate(zip(audio.merges.left.tolist(), audio.merges.right.tolist(), strict=True), base):
        sums[i] = sums[a] + sums[b]
    composite = np.flatnonzero(ids[base:] >= text) + base
    weight[ids[composite].tolist()] = weight.new_tensor(sums[composite] / audio.lengths[composite, None])
