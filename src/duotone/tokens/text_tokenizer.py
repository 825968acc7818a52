"""A transformers tokenizer for extended folders, which merges audio with Duotone's encoder, not with normalizer passes.

Imports transformers, so it is itself imported only where it is used: by `load_text_tokenizer`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from duotone.errors import UsageError
from duotone.tokens.convert import to_points
from duotone.tokens.extend_parts import AUDIO, CONFIG, EXPECTED, Part
from duotone.tokens.extend_words import mark_of, without_merging
from duotone.tokens.jsonfiles import read_json, write_json
from duotone.tokens.tokenizer import AudioTokenizer


class TextTokenizer(PreTrainedTokenizerFast):
    """Gives the ids of `AutoTokenizer` for an extended WordPiece or Unigram tokenizer, without a pass for each merge."""

    @classmethod
    def marking(cls, folder: Path, document: Part, audio: AudioTokenizer) -> TextTokenizer:
        """Make the tokenizer from a folder's `tokenizer.json` and audio tokenizer, which were read already."""
        own: TextTokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        own.__class__ = cls  # the folder names the ordinary class, and from_pretrained would warn of another
        own._audio, own._mark = audio, mark_of(audio.alphabet)
        own._sound = re.compile(audio.alphabet.regex + "+")
        own._words = [token + own._mark for token in audio.tokens()]
        own._whole = own.backend_tokenizer.normalizer
        own._short = Tokenizer.from_str(json.dumps(without_merging(document))).normalizer
        own._saved_audio = AudioTokenizer.load(folder / AUDIO)
        own.backend_tokenizer.normalizer = own._short
        return own

    def marked(self, text: Any) -> Any:
        """A text, or lists of texts, with a mark after each audio token."""
        if isinstance(text, (list, tuple)):
            return type(text)(self.marked(one) for one in text)
        return self._sound.sub(self._marked_sound, text) if isinstance(text, str) else text

    def _marked_sound(self, found: re.Match[str]) -> str:
        numbers = self._audio.alphabet.numbers(to_points(found[0]))
        return "".join(self._words[i] for i in self._audio.encode_numbers(numbers).tolist())

    def _encode_plus(self, text: Any, text_pair: Any = None, *args: Any, **options: Any) -> Any:
        """Transformers 5: all texts come through here."""
        if hasattr(PreTrainedTokenizerFast, "_batch_encode_plus"):
            return super()._encode_plus(text, text_pair, *args, **options)
        _refuse_offsets(options)
        return super()._encode_plus(self.marked(text), self.marked(text_pair), *args, **options)

    def _batch_encode_plus(self, *args: Any, **options: Any) -> Any:
        """Transformers 4: all texts come through here, the first argument, under this name or none."""
        _refuse_offsets(options)
        name = "batch_text_or_text_pairs"
        if name in options:
            options[name] = self.marked(options[name])
        else:
            args = (self.marked(args[0]), *args[1:])
        return super()._batch_encode_plus(*args, **options)  # type: ignore[misc]

    def save_pretrained(self, save_directory: Any, *args: Any, **options: Any) -> Any:
        """Write the ordinary tokenizer, with its passes, and the audio tokenizer."""
        self.backend_tokenizer.normalizer = self._whole
        try:
            files = super().save_pretrained(save_directory, *args, **options)
        finally:
            self.backend_tokenizer.normalizer = self._short
        config = read_json(Path(save_directory) / CONFIG, EXPECTED)
        write_json(Path(save_directory) / CONFIG, {**config, "tokenizer_class": "PreTrainedTokenizerFast"})
        self._saved_audio.save(Path(save_directory) / AUDIO)
        return files


def _refuse_offsets(options: dict[str, Any]) -> None:
    if options.get("return_offsets_mapping"):
        raise UsageError(
            "Offsets would count the marks that load_text_tokenizer writes behind audio tokens. Load the folder with "
            "AutoTokenizer.from_pretrained to get them."
        )
