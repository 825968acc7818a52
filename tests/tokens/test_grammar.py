"""The grammar allows well-formed frames only; a model that it guards, even an untrained one, writes sound."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from duotone.errors import UsageError
from duotone.tokens import Alphabet, AudioTokenizer, FrameGrammar, FrameStream, extend, load_extended, train_bpe
from duotone.tokens.dataset import Plan, windows

K = 3
RECORDINGS = [np.random.default_rng(i).integers(0, 4, (K, 120)) for i in range(3)]
TOKENIZER = train_bpe(
    RECORDINGS, Alphabet(K, 4), vocab_size=60, pad_token="<pad>", special_tokens=["<a>", "</a>"], framerate=10.0
)


@given(st.lists(st.integers(0, 10**6), max_size=30))
def test_a_walk_through_the_grammar_is_whole_frames(choices: list[int]) -> None:
    grammar = FrameGrammar(TOKENIZER, len(TOKENIZER), "<a>", "</a>")
    ids = [TOKENIZER.id_of("<a>")]
    for choice in choices:
        allowed = np.flatnonzero(grammar.allowed(ids))
        assert len(allowed)
        ids.append(int(allowed[choice % len(allowed)]))
        if ids[-1] == grammar.end:
            break
    while grammar.due(ids):  # complete the frame
        allowed = np.flatnonzero(grammar.allowed(ids))
        ids.append(int(allowed[0]))
    told = TOKENIZER.decode(ids)
    assert told.begin == told.end == "" and told.dropped <= 2  # the special tokens


@given(st.lists(st.integers(0, 10**6), min_size=12, max_size=40), st.sampled_from([1, 2, 5]))
def test_sound_ends_only_with_a_whole_group(choices: list[int], group: int) -> None:
    grammar = FrameGrammar(TOKENIZER, len(TOKENIZER), "<a>", "</a>", group=group)
    ids, borders = [TOKENIZER.id_of("<a>")], set()
    for choice in choices:
        written = grammar.written(ids)
        assert written is not None
        borders.add(written)
        allowed = grammar.allowed(ids)
        assert allowed[grammar.end] == (written % (K * group) == 0)
        allowed[grammar.end] = False
        fitting = np.flatnonzero(allowed)
        assert np.array_equal(np.unique(grammar.lengths[fitting] <= K * group - written % (K * group)), [True])
        ids.append(int(fitting[choice % len(fitting)]))
    assert set(range(0, max(borders) + 1, K * group)) <= borders  # no token reached over one
    assert max(borders) >= 11


def test_groups_encoded_one_by_one_are_allowed() -> None:
    grammar = FrameGrammar(TOKENIZER, len(TOKENIZER), group=10)
    ids = np.concatenate([TOKENIZER.encode(RECORDINGS[0][:, i : i + 10]) for i in range(0, 120, 10)])
    assert all(grammar.allowed(ids[:i])[ids[i]] for i in range(len(ids)))
    whole = TOKENIZER.encode(RECORDINGS[0])  # some token of it reaches from one group into the next
    assert not all(grammar.allowed(whole[:i])[whole[i]] for i in range(len(whole)))


def test_what_was_written_is_allowed() -> None:
    grammar = FrameGrammar(TOKENIZER, len(TOKENIZER), "<a>", "</a>")
    plan = Plan(900, 0, "<a>", "</a>").of(TOKENIZER)
    ids = next(windows(TOKENIZER, RECORDINGS[0], plan)).ids
    for i in range(1, len(ids)):
        assert grammar.allowed(ids[:i])[ids[i]]
    assert grammar.due(ids) is None and not grammar.allowed(ids)[ids[1]]  # no sound outside of sound


def test_an_untrained_llama_writes_frames(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    letters = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    text = Tokenizer(models.BPE(letters, []))
    text.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    (tmp_path / "text").mkdir()
    text.save(str(tmp_path / "text" / "tokenizer.json"))
    extend(tmp_path / "text", TOKENIZER, tmp_path / "both", ["<s>", "</s>"])
    audio = load_extended(tmp_path / "both")
    assert np.array_equal(audio.decode(audio.encode(RECORDINGS[0])).codes, RECORDINGS[0])
    torch.manual_seed(0)
    size = max(int(audio.audio_ids.max()), audio.id_of("</s>")) + 1
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=size, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
            bos_token_id=None, eos_token_id=None, pad_token_id=0,
        )
    )  # fmt: skip
    grammar = FrameGrammar(audio, size, "<s>", "</s>")
    prompt = torch.tensor([[5, audio.id_of("<s>")], [audio.id_of("<s>"), int(audio.encode(RECORDINGS[0])[0])]])
    out = model.generate(prompt, max_new_tokens=25, do_sample=True, logits_processor=[grammar])
    for row in out.tolist():
        end = row.index(grammar.end) if grammar.end in row else len(row)
        stream = FrameStream(audio.alphabet, "drop_code", audio)
        codes = stream.push_ids(row[row.index(grammar.start) + 1 : end])
        assert codes.shape[0] == K and codes.shape[1] > 3 and stream.dropped == 0


def test_bad_grammars() -> None:
    with pytest.raises(UsageError, match="resize_token_embeddings"):
        FrameGrammar(TOKENIZER, 10)
    with pytest.raises(UsageError, match="not a special token"):
        FrameGrammar(TOKENIZER, 100, "<b>")
    with pytest.raises(UsageError, match="1 or more"):
        FrameGrammar(TOKENIZER, 100, group=0)
    delayed = AudioTokenizer(TOKENIZER.alphabet, TOKENIZER.merges, pattern="delay")
    with pytest.raises(UsageError, match="delay"):
        FrameGrammar(delayed, 100)
