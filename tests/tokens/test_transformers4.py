"""Folders written here load in transformers 4 as well, without Duotone, and give the same ids.

DUOTONE_TRANSFORMERS4 names the Python of another environment: transformers 4, and nothing of Duotone.
"""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import numpy as np
import pytest
import test_extend
import test_extend_words
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from duotone.tokens import Alphabet, extend, load_extended, to_text, train_bpe

PYTHON = os.environ.get("DUOTONE_TRANSFORMERS4")
pytestmark = pytest.mark.skipif(
    PYTHON is None,
    reason="DUOTONE_TRANSFORMERS4 is not set: python -m venv tf4; tf4/bin/pip install 'transformers<5'; "
    "DUOTONE_TRANSFORMERS4=tf4/bin/python",
)

THERE = """
import importlib.util, json, sys
import tokenizers, transformers
assert transformers.__version__.startswith("4."), transformers.__version__
assert importlib.util.find_spec("duotone") is None, "this environment should not have Duotone"
folders, texts = json.load(sys.stdin)
out = {}
for folder in folders:
    t = transformers.AutoTokenizer.from_pretrained(folder)
    plain = tokenizers.Tokenizer.from_file(folder + "/tokenizer.json")
    ids = [t.encode(text) for text in texts]
    t.save_pretrained(folder + "/again")
    out[folder] = {
        "ids": ids, "plain": [plain.encode(text).ids for text in texts], "size": len(t),
        "vocabulary": t.get_vocab(), "padded": t(texts, padding=True)["attention_mask"], "inputs": t.model_input_names,
        "decoded": [t.decode(i, skip_special_tokens=True, clean_up_tokenization_spaces=False) for i in ids],
        "again": [transformers.AutoTokenizer.from_pretrained(folder + "/again").encode(text) for text in texts],
    }
print(json.dumps(out))
"""
MAKERS: dict[str, Any] = {**test_extend.MAKERS, **test_extend_words.MAKERS}
KINDS = ["audio", *MAKERS]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Folders of each kind, texts, and what transformers 4 makes of them."""
    root = tmp_path_factory.mktemp("transformers4")
    codes = [test_extend_words.phrases(i, (2, 20)) for i in range(3)]
    audio = train_bpe(codes, Alphabet(2, 20), vocab_size=150, pad_token="<pad>", special_tokens=["<s>"])
    audio.save(root / "audio")
    for kind, maker in MAKERS.items():
        tokenizer = maker()
        tokenizer.add_special_tokens(["<|im_start|>"] if kind != "albert" else [])
        pad = next(t for t in ("<pad>", "[PAD]", "</s>") if tokenizer.token_to_id(t) is not None)
        text = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=pad, extra_special_tokens=[pad])
        text.save_pretrained(root / f"{kind}-text")
        extend(root / f"{kind}-text", audio, root / kind)
    sound = to_text(codes[0][:, :60], audio.alphabet)
    mixed = f"{test_extend_words.TEXTS[2]}<|audio|>{sound}<|/audio|>{test_extend_words.TEXTS[0]}"
    texts = [sound, mixed, f"a fox {sound} and a dog", *test_extend_words.TEXTS, "<|im_start|>x"]
    assert PYTHON is not None
    done = subprocess.run(
        [PYTHON, "-c", THERE], input=json.dumps([[str(root / kind) for kind in KINDS], texts]), capture_output=True,
        text=True, encoding="utf-8", cwd=root, env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return root, texts, json.loads(done.stdout), codes[0][:, :60]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_ids_in_transformers_4(kind: str, both: Any) -> None:
    root, texts, there, codes = both
    told = there[str(root / kind)]
    here = AutoTokenizer.from_pretrained(root / kind)
    ids = [here.encode(text) for text in texts]
    assert told["ids"] == told["plain"] == told["again"] == ids
    assert told["size"] == len(here) and told["vocabulary"] == here.get_vocab()
    assert told["inputs"] == here.model_input_names
    assert told["decoded"] == [
        here.decode(i, skip_special_tokens=True, clean_up_tokenization_spaces=False) for i in ids
    ]
    assert np.array_equal([len(m) for m in told["padded"]], [max(map(len, ids))] * len(texts))
    if kind != "audio":
        own = load_extended(root / kind)
        assert [i for i in ids[0] if own.own([i])[0] >= 0] == own.encode(codes).tolist()
        assert told["decoded"][0] == texts[0]
