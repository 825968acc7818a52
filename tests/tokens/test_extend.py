"""Text tokenizers that also know audio: exactly the trained BPE in sound, exactly the old one in text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from duotone.errors import FormatError, UsageError
from duotone.tokens import Alphabet, AudioTokenizer, to_text, train_bpe
from duotone.tokens.extend import extend

TEXTS = [
    "The quick brown fox jumps over the lazy dog. The dog sleeps, the fox does not!",
    "Grüße aus Köln: 12 345 naïve cafés, 100 % Ω.",
    "音乐和语音都是声音。你好，世界！中文文本不能被当作音频。",
    "def f(x):\n    return x ** 2  # code",
    "🎵🎶 emoji \ue0a0 nerd font, and a private character",
]


def byte_level(regex: bool) -> Tokenizer:
    """As GPT-2's, or (with its regex apart) as Llama 3's and Qwen's."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=regex))
    if regex:
        pattern = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(pattern), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(TEXTS * 5, trainer)
    return tokenizer


def sentencepiece() -> Tokenizer:
    """As Llama 2's and Mistral's: no pre-tokenizer, a mark in place of spaces, bytes for what is not known."""
    base = Tokenizer(models.BPE())
    base.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256))],
        show_progress=False,
    )  # fmt: skip
    base.train_from_iterator(TEXTS[:3] * 5, trainer)
    model = json.loads(base.to_str())["model"]
    tokenizer = Tokenizer(
        models.BPE(
            model["vocab"], [tuple(m) for m in model["merges"]], unk_token="<unk>", fuse_unk=True, byte_fallback=True
        )
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


MAKERS: dict[str, Any] = {
    "gpt": lambda: byte_level(False), "llama3": lambda: byte_level(True), "sentencepiece": sentencepiece,
}  # fmt: skip


def phrases(seed: int, shape: tuple[int, int], frames: int = 300) -> np.ndarray:
    k, size = shape
    some = np.random.default_rng(99).integers(0, size, (6, k, 6))
    return np.concatenate([some[i] for i in np.random.default_rng(seed).integers(0, 6, frames // 6)], axis=1)


@pytest.fixture(scope="module", params=[(2, 20), (1, 7000)], ids=["few", "many"])  # many: of another plane of Unicode
def audio(request: pytest.FixtureRequest) -> AudioTokenizer:
    shape = request.param
    size = shape[0] * shape[1] + 80
    return train_bpe([phrases(i, shape) for i in range(5)], Alphabet(*shape), vocab_size=size, pad_token="<pad>")


@pytest.mark.parametrize("kind", MAKERS)
def test_sound_as_trained_and_text_as_before(kind: str, audio: AudioTokenizer, tmp_path: Path) -> None:
    old = MAKERS[kind]()
    PreTrainedTokenizerFast(tokenizer_object=old, eos_token="</s>").save_pretrained(tmp_path / "text")
    count = extend(tmp_path / "text", audio, tmp_path / "both")
    new = AutoTokenizer.from_pretrained(tmp_path / "both")
    assert len(new) == len(AutoTokenizer.from_pretrained(tmp_path / "text")) + count
    for text in TEXTS[:4]:
        assert new.encode(text) == old.encode(text).ids
    start, end = new.convert_tokens_to_ids(["<|audio|>", "<|/audio|>"])
    alphabet = audio.alphabet
    for seed in range(3):
        codes = phrases(seed, (alphabet.codebooks, alphabet.size), 60)
        sound, ids = to_text(codes, alphabet), audio.encode(codes)
        lengths = audio.lengths[audio.own(ids)].tolist()
        alone = new.encode(sound, add_special_tokens=False)
        assert [len(new.decode([i])) for i in alone] == lengths
        around = new.encode(f"{TEXTS[2]}<|audio|>{sound}<|/audio|>{TEXTS[0]}", add_special_tokens=False)
        assert around[around.index(start) + 1 : around.index(end)] == alone
        assert new.decode(alone, skip_special_tokens=True) == sound  # they are no special tokens
        assert new.decode(around, skip_special_tokens=False).count(sound) == 1
    more = new.add_tokens(["brandnew"])
    assert more == 1 and new.convert_tokens_to_ids("brandnew") == len(new) - 1  # no id is given twice


def test_added_tokens_of_the_text_tokenizer_keep_their_ids(tmp_path: Path, audio: AudioTokenizer) -> None:
    for kind, maker in MAKERS.items():  # Llama 3 and Qwen have theirs behind the words of the model
        old = maker()
        old.add_special_tokens(["<|im_start|>", "<|im_end|>"])
        old.add_tokens(["brandnew"])
        PreTrainedTokenizerFast(tokenizer_object=old, eos_token="</s>").save_pretrained(tmp_path / f"{kind}-text")
        extend(tmp_path / f"{kind}-text", audio, tmp_path / kind)
        new = AutoTokenizer.from_pretrained(tmp_path / kind)
        vocabulary = new.get_vocab()
        assert {t: vocabulary[t] for t in old.get_vocab()} == old.get_vocab()
        assert sorted(vocabulary.values()) == list(range(len(new)))
        text = f"<|im_start|>{TEXTS[0]} brandnews<|im_end|>"
        assert new.encode(text) == old.encode(text).ids


def test_the_seeds_way_behind_a_flag(tmp_path: Path, audio: AudioTokenizer) -> None:
    PreTrainedTokenizerFast(tokenizer_object=byte_level(False)).save_pretrained(tmp_path / "text")
    extend(tmp_path / "text", audio, tmp_path / "both", ["<audio>"], as_added_tokens=True)
    new = AutoTokenizer.from_pretrained(tmp_path / "both")
    sound = audio.tokens()[-1]
    assert len(new.encode(sound)) == 1 and new.decode(new.encode(sound), skip_special_tokens=True) == ""


def test_what_cannot_be_extended_says_why(tmp_path: Path, audio: AudioTokenizer) -> None:
    PreTrainedTokenizerFast(tokenizer_object=byte_level(False)).save_pretrained(tmp_path / "text")
    plain = train_bpe([], Alphabet.plain(2, 20), vocab_size=50, pad_token="<pad>")
    with pytest.raises(UsageError, match="taken for sound"):
        extend(tmp_path / "text", plain, tmp_path / "x")
    with pytest.raises(UsageError, match="already"):
        extend(tmp_path / "text", audio, tmp_path / "x", ["<s>"])
    with pytest.raises(UsageError, match="at least one special"):
        extend(tmp_path / "text", audio, tmp_path / "x", [])
    spaced = byte_level(False)
    spaced.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    PreTrainedTokenizerFast(tokenizer_object=spaced).save_pretrained(tmp_path / "spaced")
    with pytest.raises(UsageError, match="add_prefix_space"):
        extend(tmp_path / "spaced", audio, tmp_path / "x")
    folding = byte_level(False)
    folding.normalizer = normalizers.Replace(Regex("[^a-z]"), "")
    PreTrainedTokenizerFast(tokenizer_object=folding).save_pretrained(tmp_path / "folding")
    with pytest.raises(UsageError, match="cannot be undone"):
        extend(tmp_path / "folding", audio, tmp_path / "x")
    with pytest.raises(FormatError, match="fast tokenizer"):
        extend(tmp_path, audio, tmp_path / "x")
    assert not (tmp_path / "x").exists()
