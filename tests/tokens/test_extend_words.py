"""WordPiece and Unigram text tokenizers that know audio: exactly the trained BPE, in an ordinary `tokenizer.json`."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers.decoders import DecodeStream
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from duotone.errors import UsageError
from duotone.tokens import (
    Alphabet,
    AudioTokenizer,
    FrameStream,
    extend,
    load_extended,
    load_text_tokenizer,
    to_text,
    train_bpe,
)

TEXTS = [
    "The quick brown fox jumps over the lazy dog. The dog sleeps, the fox does not!",
    "Grüße aus Köln: 12 345 naïve cafés, 100 % Ω.",
    "音乐和语音都是声音。你好，世界！中文文本不能被当作音频。",
    "  def f(x):\n    return x ** 2  # code\u200b\x07\u3000",
    "emoji 🎵🎶, ﬁne ligatures, and e\u0301 combined",
]


def wordpiece(lowercase: bool = True, decoder: bool = True) -> Tokenizer:
    """As BERT's."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=specials, show_progress=False)
    tokenizer.train_from_iterator(TEXTS[:3] * 5, trainer)
    if decoder:
        tokenizer.decoder = decoders.WordPiece(cleanup=True)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def unigram(scheme: str = "always", albert: bool = False) -> Tokenizer:
    """As T5's, XLM-R's and ALBERT's."""
    tokenizer = Tokenizer(models.Unigram())
    steps: list[Any] = [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    if albert:
        steps = [
            normalizers.Replace("``", '"'), normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase(),
            *steps,
        ]  # fmt: skip
    tokenizer.normalizer = normalizers.Sequence(steps)
    space: Any = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer.pre_tokenizer = (
        pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), space]) if albert else space  # type: ignore[list-item]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS[:3] * 5, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return tokenizer


MAKERS: dict[str, Any] = {
    "bert": wordpiece,
    "bert-cased": lambda: wordpiece(lowercase=False, decoder=False),
    "t5": unigram,
    "xlmr": lambda: unigram("first"),
    "albert": lambda: unigram("never", albert=True),
}


def phrases(seed: int, shape: tuple[int, int], frames: int = 300) -> np.ndarray:
    k, size = shape
    some = np.random.default_rng(99).integers(0, size, (6, k, 6))
    rng = np.random.default_rng(seed)
    cut = [some[i][:, : rng.integers(1, 7)] for i in rng.integers(0, 6, frames // 4)]
    return np.concatenate([np.repeat(c, rng.integers(1, 4), axis=1) for c in cut], axis=1)[:, :frames]


@pytest.fixture(scope="module", params=[(2, 20), (1, 7000)], ids=["few", "many"])  # many: of another plane of Unicode
def audio(request: pytest.FixtureRequest) -> AudioTokenizer:
    shape = request.param
    size = shape[0] * shape[1] + 200
    return train_bpe([phrases(i, shape) for i in range(5)], Alphabet(*shape), vocab_size=size, pad_token="<pad>")


def saved(tokenizer: Tokenizer, folder: Path, **options: Any) -> Path:
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **options).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", MAKERS)
def test_sound_as_trained_and_text_as_before(kind: str, audio: AudioTokenizer, tmp_path: Path) -> None:
    old = MAKERS[kind]()
    count = extend(saved(old, tmp_path / "text"), audio, tmp_path / "both")
    plain = Tokenizer.from_file(str(tmp_path / "both" / "tokenizer.json"))
    automatic = AutoTokenizer.from_pretrained(tmp_path / "both")
    fast = load_text_tokenizer(tmp_path / "both")
    ids_there = load_extended(tmp_path / "both")
    assert len(automatic) == old.get_vocab_size() + count == len(audio.tokens()) + old.get_vocab_size() + 2
    for text in TEXTS:
        want = old.encode(text).ids
        assert plain.encode(text).ids == automatic.encode(text) == fast.encode(text) == want
        assert plain.decode(want) == old.decode(want)
    alphabet = audio.alphabet
    start, end = automatic.convert_tokens_to_ids(["<|audio|>", "<|/audio|>"])
    for seed in range(3):
        codes = phrases(seed, (alphabet.codebooks, alphabet.size), 60)
        sound, ids = to_text(codes, alphabet), ids_there.encode(codes).tolist()
        assert len(ids) < 0.8 * codes.size  # merges did something
        for tokenizer in (automatic, fast):
            assert tokenizer.encode(sound, add_special_tokens=False) == ids
        assert plain.encode(sound, add_special_tokens=False).ids == ids
        assert plain.decode(ids) == sound == automatic.decode(ids, skip_special_tokens=True) == fast.decode(ids)
        before, behind = (old.encode(t, add_special_tokens=False).ids for t in (TEXTS[2], TEXTS[0]))
        around = automatic.encode(f"{TEXTS[2]}<|audio|>{sound}<|/audio|>{TEXTS[0]}", add_special_tokens=False)
        assert around[: len(before) + 1] == [*before, start]
        assert around[len(before) + 1 : len(before) + 1 + len(ids)] == ids
        if kind != "xlmr":  # prepend "first": behind a special token no mark is written, as ever
            assert around[-len(behind) - 1 :] == [end, *behind]
        mixed = f"{TEXTS[0]} {sound} {TEXTS[1]}"  # nothing but a space between
        got = plain.encode(mixed).ids
        assert fast(mixed)["input_ids"] == automatic(mixed)["input_ids"] == got
        assert [i for i in got if ids_there.own([i])[0] >= 0] == ids
        spans = [(a, b) for i, (a, b) in zip(got, plain.encode(mixed).offsets, strict=True) if i in set(ids)]
        lengths = ids_there.lengths[ids_there.own(ids)]
        assert [b - a for a, b in spans] == lengths.tolist() and mixed[spans[0][0] : spans[-1][1]] == sound
        assert plain.decode(around, skip_special_tokens=True).count(sound) == 1
        stream, pieces = DecodeStream(skip_special_tokens=True), []
        for i in around:
            pieces.append(stream.step(plain, i) or "")
        assert "".join(pieces) == plain.decode(around, skip_special_tokens=True)
        frames = FrameStream(alphabet)
        assert np.array_equal(np.concatenate([frames.push(piece) for piece in pieces], axis=1), codes)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Any, Any]]:
    """Text tokenizer, plain extended one, and the fast one, for two text models; with runs and merges that compete."""
    folder = tmp_path_factory.mktemp("pair")
    rng = np.random.default_rng(3)
    codes = [np.minimum(rng.geometric(0.5, (1, 400)) - 1, 3) for _ in range(4)]
    audio = train_bpe(codes, Alphabet(1, 4), vocab_size=80, pad_token="<pad>")
    out = {}
    for kind in ("bert", "t5"):
        old = MAKERS[kind]()
        pad = {"bert": "[PAD]", "t5": "<pad>"}[kind]
        extend(saved(old, folder / f"{kind}-text", pad_token=pad), audio, folder / kind)
        fast = load_text_tokenizer(folder / kind)
        out[kind] = old, Tokenizer.from_file(str(folder / kind / "tokenizer.json")), fast
    out["audio"] = (load_extended(folder / "bert"), load_extended(folder / "t5"), None)
    return out


@given(st.lists(st.integers(0, 3), min_size=1, max_size=80))
def test_any_sound_is_merged_as_trained(pair: dict[str, tuple[Any, Any, Any]], codes: list[int]) -> None:
    for kind, audio in zip(("bert", "t5"), pair["audio"], strict=False):
        _, plain, fast = pair[kind]
        sound = to_text(np.array([codes]), audio.alphabet)
        want = audio.encode(np.array([codes])).tolist()
        assert plain.encode(sound, add_special_tokens=False).ids == want
        assert fast.encode(sound, add_special_tokens=False) == want
        assert plain.decode(want) == sound


@given(st.text(st.characters(exclude_categories=("Cs", "Co")), max_size=60))
def test_any_text_is_read_as_before(pair: dict[str, tuple[Any, Any, Any]], text: str) -> None:
    for kind in ("bert", "t5"):
        old, plain, fast = pair[kind]
        want = old.encode(text)
        assert plain.encode(text).ids == want.ids == fast(text)["input_ids"]
        assert plain.encode(text).offsets == want.offsets
        assert plain.decode(want.ids) == old.decode(want.ids)


def test_cleaning_is_that_of_bert_for_every_character(pair: dict[str, tuple[Any, Any, Any]]) -> None:
    old, _, fast = pair["bert"]
    sound = {chr(c) for c in pair["audio"][0].alphabet.points} | {"\U0010fffd"}
    text = "".join(c for c in map(chr, [*range(0xD800), *range(0xE000, 0x110000)]) if c not in sound)
    assert fast.backend_tokenizer.normalizer.normalize_str(text) == old.normalizer.normalize_str(text)


def test_the_fast_one_does_what_a_tokenizer_of_transformers_does(
    pair: dict[str, tuple[Any, Any, Any]], tmp_path: Path
) -> None:
    audio, (_, plain, fast) = pair["audio"][0], pair["bert"]
    sound = to_text(np.array([[0, 1, 0, 1, 1, 2, 3]]), audio.alphabet)
    texts = [f"the fox {sound}", "the dog"]
    batch = fast(texts, texts[::-1], padding=True, truncation=True, max_length=20)
    want = [plain.encode(a, b).ids for a, b in zip(texts, texts[::-1], strict=True)]
    assert [i for i, m in zip(batch["input_ids"][0], batch["attention_mask"][0], strict=True) if m] == want[0]
    assert fast.tokenize(texts[0]) == plain.encode(texts[0], add_special_tokens=False).tokens
    with pytest.raises(UsageError, match="AutoTokenizer"):
        fast(texts, return_offsets_mapping=True)
    for again in (pickle.loads(pickle.dumps(fast)), copy.deepcopy(fast)):
        assert again(texts)["input_ids"] == [plain.encode(t).ids for t in texts]
    fast.save_pretrained(tmp_path / "again")
    for again in (AutoTokenizer.from_pretrained(tmp_path / "again"), load_text_tokenizer(tmp_path / "again")):
        assert again(texts)["input_ids"] == fast(texts)["input_ids"]
    config = json.loads((tmp_path / "again" / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"  # the one that transformers 4 knows, too


@pytest.mark.parametrize("kind", MAKERS)
def test_added_tokens_of_the_text_tokenizer_keep_their_ids(kind: str, tmp_path: Path) -> None:
    audio = train_bpe([phrases(0, (2, 20))], Alphabet(2, 20), vocab_size=90, pad_token="<pad>")
    old = MAKERS[kind]()
    old.add_special_tokens(["<|im_start|>"])
    old.add_tokens(["Köln"])
    saved(old, tmp_path / "text")
    if kind == "albert":  # lower case makes an added token of "<|IM_START|>" if the model has it as a word, as it must
        with pytest.raises(UsageError, match=r"<\|IM_START\|>"):
            extend(tmp_path / "text", audio, tmp_path / "both")
        return
    extend(tmp_path / "text", audio, tmp_path / "both")
    new = AutoTokenizer.from_pretrained(tmp_path / "both")
    vocabulary = new.get_vocab()
    assert {t: vocabulary[t] for t in old.get_vocab()} == old.get_vocab()
    assert sorted(vocabulary.values()) == list(range(len(new)))
    for text in (f"<|im_start|>{TEXTS[1]}", "Kölner", "köln"):
        assert new.encode(text) == old.encode(text).ids


def test_the_seeds_way_behind_a_flag(audio: AudioTokenizer, tmp_path: Path) -> None:
    extend(saved(wordpiece(), tmp_path / "text"), audio, tmp_path / "both", ["<audio>"], as_added_tokens=True)
    new, sound = load_text_tokenizer(tmp_path / "both"), audio.tokens()[-1]
    assert new.encode(sound, add_special_tokens=False) == [load_extended(tmp_path / "both").audio_ids[-1]]
    assert new.decode(new.encode(sound), skip_special_tokens=True) == ""


def test_what_cannot_be_extended_says_why(audio: AudioTokenizer, tmp_path: Path) -> None:
    words = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    with pytest.raises(UsageError, match="WordLevel, expected BPE"):
        extend(saved(words, tmp_path / "words"), audio, tmp_path / "x")
    silence = train_bpe([np.zeros((1, 900), int)], Alphabet(1, 2), vocab_size=10, pad_token="<pad>")
    with pytest.raises(UsageError, match=r"128 codes.*max-token-codebook-ngrams 99"):
        extend(saved(wordpiece(), tmp_path / "bert"), silence, tmp_path / "x")
    extend(saved(unigram(), tmp_path / "t5"), silence, tmp_path / "long")  # which has no such limit
    deaf = unigram()
    deaf.normalizer = normalizers.Replace(Regex("[^a-z]"), "")
    with pytest.raises(UsageError, match="cannot be undone"):
        extend(saved(deaf, tmp_path / "deaf"), audio, tmp_path / "x")
    plain = train_bpe([], Alphabet.plain(2, 20), vocab_size=50, pad_token="<pad>")
    with pytest.raises(UsageError, match="read as audio"):
        extend(tmp_path / "bert", plain, tmp_path / "x")
    with pytest.raises(UsageError, match="is already extended with audio"):
        extend(tmp_path / "long", audio, tmp_path / "x", ["<other>"])
    assert not (tmp_path / "x").exists()
