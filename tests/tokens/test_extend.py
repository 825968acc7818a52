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
from duotone.tokens import Alphabet, AudioTokenizer, extend, load_extended, resize_embeddings, to_text, train_bpe

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


def test_truncation_and_padding_become_settings_of_transformers(tmp_path: Path, audio: AudioTokenizer) -> None:
    old = byte_level(False)
    old.add_special_tokens(["<pad>"])
    old.enable_truncation(7, stride=2, direction="left")
    old.enable_padding(length=64, direction="left", pad_id=2, pad_token="<pad>")
    (tmp_path / "text").mkdir()
    old.save(str(tmp_path / "text" / "tokenizer.json"))
    before = AutoTokenizer.from_pretrained(tmp_path / "text")
    extend(tmp_path / "text", audio, tmp_path / "both")
    plain, new = (
        Tokenizer.from_file(str(tmp_path / "both/tokenizer.json")),
        AutoTokenizer.from_pretrained(tmp_path / "both"),
    )
    codes = phrases(0, (audio.alphabet.codebooks, audio.alphabet.size))
    sound, ids = to_text(codes, audio.alphabet), load_extended(tmp_path / "both").encode(codes).tolist()
    assert len(ids) > 7 and plain.encode(sound).ids == new.encode(sound) == ids  # nothing is cut
    assert plain.encode("a").ids == new.encode("a") == before.encode("a")  # nor padded, as in transformers before
    for key in ("pad_token", "padding_side", "truncation_side"):
        assert getattr(new, key) == getattr(before, key)
    for key in ("max_length", "stride", "truncation_strategy", "pad_token_type_id", "pad_to_multiple_of"):
        assert new.init_kwargs[key] == before.init_kwargs[key], key
    asked = {"truncation": True, "max_length": 4, "padding": "max_length"}
    assert new(TEXTS[0], **asked) == before(TEXTS[0], **asked)


@pytest.mark.parametrize("legacy", [False, True])
def test_chat_templates_are_kept(tmp_path: Path, audio: AudioTokenizer, legacy: bool) -> None:
    templates = {"default": "{{ messages }}\n", "tool_use": "{{ tools }} é"}
    text = PreTrainedTokenizerFast(tokenizer_object=byte_level(False), eos_token="</s>")
    text.chat_template = templates
    text.save_pretrained(tmp_path / "text", save_jinja_files=not legacy)
    extend(tmp_path / "text", audio, tmp_path / "both")
    assert AutoTokenizer.from_pretrained(tmp_path / "both").chat_template == templates
    plain = PreTrainedTokenizerFast(tokenizer_object=byte_level(False), eos_token="</s>")
    plain.save_pretrained(tmp_path / "plain")
    extend(tmp_path / "plain", audio, tmp_path / "both")  # none of the tokenizer that was there before
    assert AutoTokenizer.from_pretrained(tmp_path / "both").chat_template is None


FLAGS = {"lstrip": True, "rstrip": False, "single_word": False, "normalized": False, "special": True}
SIDE_FILES: dict[str, tuple[Any, Any, Any]] = {
    "a role": ({"pad_token": "<pad>"}, None, None),
    "an older file": ({}, {"pad_token": {"content": "<pad>", **FLAGS}, "additional_special_tokens": ["<u>"]}, None),
    "extra": ({"additional_special_tokens": ["<u>"]}, None, None),
    "named": ({"extra_special_tokens": {"image_token": "<image>"}}, None, None),
    "by id": ({"added_tokens_decoder": {"999": {"content": "<z>", **FLAGS}}, "pad_token": "<pad>"}, None, None),
    "the oldest file": ({}, None, {"<second>": 501, "<first>": 500}),
}


@pytest.mark.parametrize("name", SIDE_FILES)
def test_tokens_that_only_side_files_name_keep_their_ids(name: str, tmp_path: Path, audio: AudioTokenizer) -> None:
    folder = tmp_path / "text"
    folder.mkdir()
    byte_level(False).save(str(folder / "tokenizer.json"))
    config, roles, added = SIDE_FILES[name]
    for file, values in (
        ("tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", **config}),
        ("special_tokens_map.json", roles), ("added_tokens.json", added),
    ):  # fmt: skip
        if values is not None:
            (folder / file).write_bytes(json.dumps(values).encode("utf-8"))
    old = AutoTokenizer.from_pretrained(folder)
    count = extend(folder, audio, tmp_path / "both")
    new = AutoTokenizer.from_pretrained(tmp_path / "both")
    assert len(old) > byte_level(False).get_vocab_size() and len(new) == len(old) + count
    assert {token: new.get_vocab()[token] for token in old.get_vocab()} == old.get_vocab()
    assert new.special_tokens_map == old.special_tokens_map
    text = "a <pad><u> <z>b<image><first><second>"
    assert new.encode(text) == old.encode(text) and new.decode(new.encode(text)) == old.decode(old.encode(text))


def test_models_need_no_rows_for_such_tokens(tmp_path: Path, audio: AudioTokenizer) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    (tmp_path / "text").mkdir()
    byte_level(False).save(str(tmp_path / "text" / "tokenizer.json"))
    (tmp_path / "text" / "tokenizer_config.json").write_text('{"pad_token": "<pad>"}')
    extend(tmp_path / "text", audio, tmp_path / "both")
    rows = byte_level(False).get_vocab_size()
    size: dict[str, Any] = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    for have in (rows, rows + 1):
        model = LlamaForCausalLM(LlamaConfig(vocab_size=have, **size))
        before = model.get_input_embeddings().weight.detach().clone()
        resize_embeddings(model, tmp_path / "both")
        assert (model.get_input_embeddings().weight[:have] == before).all()
    with pytest.raises(UsageError, match=f"go up to {rows - 1}"):
        resize_embeddings(LlamaForCausalLM(LlamaConfig(vocab_size=rows - 1, **size)), tmp_path / "both")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", b'{"model": {"type": "BPE", "vocab": {"a": 0}}}', "tokenizer.json is not one"),
        ("tokenizer.json", b'{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["b"]]}}', "tokenizer.json is not one"),
        ("tokenizer.json", b"[1]", "JSON object"), ("tokenizer.json", b"\xff\xfe\x00", "damaged"),
        ("tokenizer_config.json", b"{", "tokenizer_config.json is damaged"),
        ("tokenizer_config.json", b'{"added_tokens_decoder": {"x": {}}}', "damaged"),
        ("tokenizer_config.json", b'{"added_tokens_decoder": {"7": {"special": true}}}', "damaged"),
        ("tokenizer_config.json", b'{"pad_token": 7}', "damaged"),
        ("special_tokens_map.json", b"", "special_tokens_map.json is damaged"),
        ("generation_config.json", b"[]", "generation_config.json holds list"),
        ("added_tokens.json", b'{"a": "b", "c": 1}', "damaged"),
        ("chat_template.jinja", b"\xff", "chat_template.jinja is damaged"),
    ],
)  # fmt: skip
def test_damaged_files_are_named(
    name: str, content: bytes, message: str, tmp_path: Path, audio: AudioTokenizer
) -> None:
    folder = tmp_path / "text"
    folder.mkdir()
    byte_level(False).save(str(folder / "tokenizer.json"))
    (folder / name).write_bytes(content)
    with pytest.raises(FormatError, match=message):
        extend(folder, audio, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_files_with_a_byte_order_mark(tmp_path: Path, audio: AudioTokenizer) -> None:
    folder = tmp_path / "text"
    PreTrainedTokenizerFast(tokenizer_object=byte_level(False), eos_token="</s>").save_pretrained(folder)
    extend(folder, audio, tmp_path / "plain")
    (folder / "special_tokens_map.json").write_text("{}")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        text = (folder / name).read_text(encoding="utf-8")
        (folder / name).write_text(text, encoding="utf-16" if name == "tokenizer.json" else "utf-8-sig")
    extend(folder, audio, tmp_path / "both")
    new, plain = (AutoTokenizer.from_pretrained(tmp_path / name) for name in ("both", "plain"))
    assert new.get_vocab() == plain.get_vocab() and new.eos_token == "</s>"


def test_what_cannot_be_extended_says_why(tmp_path: Path, audio: AudioTokenizer) -> None:
    PreTrainedTokenizerFast(tokenizer_object=byte_level(False)).save_pretrained(tmp_path / "text")
    plain = train_bpe([], Alphabet.plain(2, 20), vocab_size=50, pad_token="<pad>")
    with pytest.raises(UsageError, match="read as audio"):
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
    with pytest.raises(UsageError, match=r"cannot be undone in its files: its normalizer"):
        extend(tmp_path / "folding", audio, tmp_path / "x")
    silent = byte_level(False)
    silent.decoder = decoders.Sequence(
        [decoders.ByteLevel(), decoders.Strip("\ue000", 1, 0), decoders.Replace(Regex("."), "-")]
    )
    PreTrainedTokenizerFast(tokenizer_object=silent).save_pretrained(tmp_path / "silent")
    with pytest.raises(UsageError, match="its decoder"):
        extend(tmp_path / "silent", audio, tmp_path / "x")
    document = json.loads((tmp_path / "text" / "tokenizer.json").read_text(encoding="utf-8"))
    for key, value, message in (
        ("dropout", 0.1, "at random"), ("end_of_word_suffix", "</w>", "'</w>' behind each word"),
        ("continuing_subword_prefix", "##", "inside each word"),
    ):  # fmt: skip
        model = {**document["model"], "merges": [], key: value}
        (tmp_path / key).mkdir()
        (tmp_path / key / "tokenizer.json").write_text(json.dumps({**document, "model": model}))
        with pytest.raises(UsageError, match=message):
            extend(tmp_path / key, audio, tmp_path / "x")
    with pytest.raises(FormatError, match="fast tokenizer"):
        extend(tmp_path, audio, tmp_path / "x")
    assert not (tmp_path / "x").exists()
