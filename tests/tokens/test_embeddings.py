"""Room for audio tokens in models of transformers: text rows untouched, composites from their codes, by seed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from duotone.errors import FormatError, UsageError
from duotone.tokens import Alphabet, extend, load_extended, resize_embeddings, train_bpe

WIDTH = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """50 text tokens, 24 codes, merges, two special tokens."""
    path = tmp_path_factory.mktemp("folder")
    words = {"[UNK]": 0, **{f"word{i}": i for i in range(1, 50)}}
    text = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    text.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=text).save_pretrained(path / "text")
    phrases = np.random.default_rng(0).integers(0, 12, (4, 2, 5))
    codes = np.concatenate([phrases[i % 4] for i in range(20)], axis=1)
    audio = train_bpe([codes], Alphabet(2, 12), vocab_size=40, pad_token="<pad>")
    extend(path / "text", audio, path / "both")
    return path / "both"


def llama(tied: bool = False, rows: int = 50) -> Any:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=rows, hidden_size=WIDTH, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=2, tie_word_embeddings=tied,
        )
    )  # fmt: skip


def bert(kind: Any) -> Any:
    return kind(
        BertConfig(
            vocab_size=50, hidden_size=WIDTH, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
        )
    )  # fmt: skip


def t5() -> Any:
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=50, d_model=WIDTH, d_kv=8, d_ff=16, num_layers=1, num_heads=2,
            decoder_start_token_id=0,
        )
    )  # fmt: skip


MODELS: dict[str, Any] = {
    "llama": llama,
    "llama-tied": lambda: llama(tied=True),
    "bert": lambda: bert(BertModel),
    "bert-mlm": lambda: bert(BertForMaskedLM),
    "t5": t5,
}


def matrices(model: Any) -> list[Any]:
    head = model.get_output_embeddings()
    inputs = model.get_input_embeddings().weight
    return [inputs] if head is None or head.weight is inputs else [inputs, head.weight]


@pytest.mark.parametrize("name", MODELS)
def test_new_rows_are_sensible_and_old_ones_untouched(name: str, folder: Path) -> None:
    torch.manual_seed(0)
    model = MODELS[name]()
    before = [m.detach().clone() for m in matrices(model)]
    audio = load_extended(folder)
    assert audio.special_ids is not None
    rows = resize_embeddings(model, folder)
    assert rows == 50 + len(audio.audio_ids) + 2 == model.config.vocab_size == len(model.get_input_embeddings().weight)
    after = matrices(model)
    assert len(before) == len(after) == (2 if name == "llama" else 1)
    ends, spelt = audio.spelling
    for old, new in zip(before, after, strict=True):
        assert new.shape == (rows, WIDTH) and torch.equal(new[:50], old)
        mean, deviation = old.mean(0), old.std(0)
        fresh = new[[*audio.audio_ids.tolist(), *audio.special_ids]]
        assert ((fresh - mean).abs() < 0.6 * deviation).all()  # six times a tenth
        codes = new[audio.audio_ids[:24].tolist()]
        assert torch.cdist(codes, codes).add(torch.eye(24)).min() > 0.01 * deviation.mean()  # no two alike
        for i in range(24, len(ends)):
            want = codes[spelt[ends[i - 1] : ends[i]].tolist()].mean(0)
            assert torch.allclose(new[int(audio.audio_ids[i])], want, atol=1e-5)
    ids = torch.tensor([[3, *audio.special_ids, int(audio.audio_ids[-1])]])
    more = {"decoder_input_ids": ids} if name == "t5" else {}
    assert torch.isfinite(model(input_ids=ids, **more)[0]).all()


def test_text_is_predicted_as_before(folder: Path) -> None:
    torch.manual_seed(1)
    model = llama()
    ids = torch.arange(1, 30)[None]
    with torch.no_grad():
        before = model(input_ids=ids).logits
        resize_embeddings(model, folder)
        after = model(input_ids=ids).logits
    assert torch.allclose(after[..., :50], before, atol=1e-6)
    assert (after[..., 50:].mean(-1) - before.mean(-1)).abs().max() < before.std()


def test_the_seed_decides(folder: Path) -> None:
    def made(seed: int) -> Any:
        torch.manual_seed(2)
        model = llama()
        torch.manual_seed(seed + 100)  # of no influence
        resize_embeddings(model, folder, seed=seed)
        return model.get_input_embeddings().weight

    assert torch.equal(made(0), made(0)) and not torch.equal(made(0), made(1))


def test_padded_models_and_half_precision(folder: Path) -> None:
    model = llama(rows=512).to(torch.bfloat16)  # more rows than tokens, as T5 and Qwen have
    assert resize_embeddings(model, folder) == 512
    ids = load_extended(folder).audio_ids
    weight = model.get_input_embeddings().weight
    assert weight.dtype == torch.bfloat16 and len({tuple(weight[i].tolist()) for i in ids[:24]}) == 24
    assert resize_embeddings(llama(), folder, pad_to_multiple_of=64) == 128
    still = llama()
    resize_embeddings(still, folder, noise=0)
    rows = still.get_input_embeddings().weight
    assert torch.allclose(rows[50:], rows[:50].mean(0).expand(len(rows) - 50, -1), atol=1e-6)


def test_byte_level_tokenizers_have_tokens_of_bytes_too(tmp_path: Path) -> None:
    text = Tokenizer(models.BPE({letter: i for i, letter in enumerate(pre_tokenizers.ByteLevel.alphabet())}, []))
    text.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(tokenizer_object=text).save_pretrained(tmp_path / "text")
    audio = train_bpe([np.tile(np.arange(6), 9)[None]], Alphabet(1, 6), vocab_size=12, pad_token="<pad>")
    count = extend(tmp_path / "text", audio, tmp_path / "both")
    assert count > len(audio.tokens()) + 2  # the beginnings of characters
    model = llama(rows=256)
    before = model.get_input_embeddings().weight.detach().clone()
    assert resize_embeddings(model, tmp_path / "both") == 256 + count
    after = model.get_input_embeddings().weight
    assert torch.equal(after[:256], before)
    assert ((after[256:] - before.mean(0)).abs() < 0.6 * before.std(0)).all()


def test_a_model_of_another_tokenizer(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"40 embeddings.*49"):
        resize_embeddings(llama(rows=40), folder)
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    del config["duotone"]["text_ids"]
    shutil.copytree(folder, tmp_path / "old")
    (tmp_path / "old" / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(FormatError, match="which of its ids are text"):
        resize_embeddings(llama(), tmp_path / "old")
    with pytest.raises(UsageError, match="noise got -1"):
        resize_embeddings(llama(), folder, noise=-1)
