"""Codes of any codec <-> characters <-> BPE tokens. Needs NumPy, and Numba for training and encoding; never PyTorch."""

from duotone.tokens.alphabet import UNICODE_OFFSET, UNICODE_OFFSET_LARGE, Alphabet
from duotone.tokens.convert import Decoded, chars_to_codes, codes_to_chars, to_codes, to_text
from duotone.tokens.embeddings import resize_embeddings
from duotone.tokens.extend import extend
from duotone.tokens.extended import load_extended, load_text_tokenizer
from duotone.tokens.grammar import FrameGrammar
from duotone.tokens.stream import FrameStream
from duotone.tokens.tokenizer import AudioTokenizer
from duotone.tokens.training import shortfall, train_bpe

__all__ = [
    "UNICODE_OFFSET",
    "UNICODE_OFFSET_LARGE",
    "Alphabet",
    "AudioTokenizer",
    "Decoded",
    "FrameGrammar",
    "FrameStream",
    "chars_to_codes",
    "codes_to_chars",
    "extend",
    "load_extended",
    "load_text_tokenizer",
    "resize_embeddings",
    "shortfall",
    "to_codes",
    "to_text",
    "train_bpe",
]
