"""A language model of audio: codes -> acoustic BPE -> a small Llama -> sampled tokens -> audio, decoded during sampling.

python examples/language_model.py [--sounds FOLDER] [--minutes 1] [--seconds 10]

A code of Duotone's codec consists of four digits of eleven levels. The tokenizer treats each digit as a codebook, so that
a code is a frame of four: BPE merges digits that often follow each other, and about 1000 tokens represent all 14641 codes.
The codec decodes whole chunks of 128 codes. Chunks are tokenized separately, and `FrameGrammar` makes the model generate
whole chunks. Needs `pip install 'duotone[tokens]' transformers`.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

import duotone
from duotone.audio.synth import synthesize
from duotone.audio.walk import walk
from duotone.tokens import Alphabet, AudioTokenizer, FrameGrammar, FrameStream, train_bpe


class Result(NamedTuple):
    """Results; losses are in bits per code, on recordings that were held out of the training."""

    file: Path
    bits_before: float  # of the untrained model
    bits: float  # of the trained one
    bits_by_token: float  # of predicting each token by its frequency
    bits_by_code: float  # of predicting each of the 14641 codes by its frequency
    chunks: int  # generated and decoded
    codes_left_over: int  # of an incomplete last chunk


def places(codec: duotone.Codec) -> np.ndarray:
    """Place value of each digit of a code: 1, 11, 121, 1331."""
    return np.cumprod([1, *codec.spec.levels[:-1]])


def recordings(codec: duotone.Codec, folder: Path | None, minutes: float, seed: int) -> Iterator[np.ndarray]:
    """Yield digits `[chunks, digits, codes]` for each file of a folder, or for synthesized pieces of 30 s."""
    if folder is None:
        count = max(2, round(2 * minutes))
        waves = (synthesize(1000 * seed + i, 30.0) for i in range(count))
    else:
        waves = (duotone.read(path) for path in walk(folder).files)
    for wave in waves:
        codes = codec.encode(wave).codes().indices.reshape(-1, 1, codec.spec.steps).numpy()
        yield codes // places(codec)[:, None] % codec.spec.levels[0]


def examples(tokenizer: AudioTokenizer, sounds: Sequence[np.ndarray]) -> list[torch.Tensor]:
    """Token ids of all pairs of consecutive chunks, after the start token: they teach a model to continue a chunk."""
    start = [tokenizer.id_of("<sound>")]
    pairs = itertools.chain(*(itertools.pairwise([tokenizer.encode(chunk) for chunk in sound]) for sound in sounds))
    return [torch.from_numpy(np.concatenate([start, a, b])) for a, b in pairs]


@torch.no_grad()
def bits(model: LlamaForCausalLM, held_out: list[torch.Tensor], codes: int) -> float:
    """The model's loss in bits per code, for examples of `codes` codes each."""
    nats = [float(model(input_ids=x[None], labels=x[None]).loss) * (len(x) - 1) for x in held_out]
    return sum(nats) / len(nats) / codes / math.log(2)


def bits_by_frequency(training: torch.Tensor, held_out: torch.Tensor, size: int) -> float:
    """Bits that `held_out` needs under a model of the symbol frequencies in `training`."""
    counts = torch.bincount(training, minlength=size) + 0.5
    return float(-torch.log2(counts / counts.sum())[held_out].sum())


def train(model: LlamaForCausalLM, training: list[torch.Tensor], codes: int, minutes: float, steps: int | None) -> None:
    """Train on one example per step, for `minutes` or `steps`, with a learning rate that falls to zero."""
    peak, began, losses = 5e-3, time.monotonic(), []
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.1)
    for step in itertools.count():
        spent = (time.monotonic() - began) / 60
        done = step / steps if steps else spent / minutes
        if losses and (step % 100 == 0 or done >= 1):
            mean = sum(losses[-100:]) / len(losses[-100:])
            print(f"step {step:5}, {60 * spent:4.0f} s, {mean:.2f} bits a code", flush=True)
        if done >= 1:
            return
        for group in optimizer.param_groups:
            group["lr"] = peak * min(1.0, (step + 1) / 20) * (1 - done)
        ids = training[int(torch.randint(len(training), ()))][None]
        loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item() * (ids.shape[1] - 1) / codes / math.log(2))


class Listener:
    """A streamer for `generate`: receives tokens as they are sampled, and decodes each chunk as soon as it is complete."""

    def __init__(self, codec: duotone.Codec, tokenizer: AudioTokenizer, seed: int) -> None:
        self.codec, self.place = codec, places(codec)
        self.frames = FrameStream(tokenizer.alphabet, tokenizer=tokenizer)
        self.decoder = codec.stream(seed=seed)
        self.waiting = np.zeros(0, np.int64)
        self.heard: list[torch.Tensor] = []
        self.prompt = True

    def put(self, ids: torch.Tensor) -> None:
        """Receive tokens; `generate` calls this first with the prompt, which is ignored, then with each token."""
        if self.prompt:
            self.prompt = False
            return
        self.waiting = np.append(self.waiting, self.place @ self.frames.push_ids(ids.tolist()))
        size = self.codec.spec.steps
        while len(self.waiting) >= size:
            chunk, self.waiting = torch.from_numpy(self.waiting[:size])[None], self.waiting[size:]
            self.heard.append(self.decoder.push(duotone.Codes(chunk, self.codec.spec)).samples)

    def end(self) -> None:
        """`generate` calls this at its end; the next `put` gets a prompt again."""
        self.prompt = True


def write(
    model: LlamaForCausalLM, tokenizer: AudioTokenizer, codec: duotone.Codec, seconds: float, seed: int
) -> Listener:
    """Sample chunk after chunk, each with the previous one as its prompt, and decode them."""
    grammar = FrameGrammar(tokenizer, len(tokenizer), start="<sound>", group=codec.spec.steps)
    listener = Listener(codec, tokenizer, seed)
    most = codec.spec.steps * tokenizer.alphabet.codebooks
    ids, began = [], time.monotonic()
    for _ in range(math.ceil(seconds * codec.rate / codec.spec.chunk)):
        prompt = torch.tensor([[tokenizer.id_of("<sound>"), *ids]])
        full = most + (grammar.written(prompt[0]) or 0)  # codebook entries after this chunk; most are those of a chunk

        def complete(ids: torch.Tensor, scores: Any, full: int = full, **_: Any) -> torch.Tensor:
            return torch.tensor([grammar.written(ids[0]) == full])  # not by the listener, which hears a token later

        out = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=most, do_sample=True, top_k=0,
            logits_processor=[grammar], stopping_criteria=[complete], streamer=listener,
        )  # fmt: skip
        ids = out[0, prompt.shape[1] :].tolist()
        made = sum(samples.shape[1] for samples in listener.heard) / codec.rate
        print(
            f"{made:5.1f} s of sound after {time.monotonic() - began:5.1f} s, the last from {len(ids)} tokens",
            flush=True,
        )
    return listener


def main(arguments: Sequence[str] | None = None) -> Result:
    """Run all steps and return the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sounds", type=Path, help="folder of audio to train on (default: synthesized pieces)")
    parser.add_argument("--material", type=float, default=10.0, help="minutes of audio to synthesize")
    parser.add_argument("--vocabulary", type=int, default=1024, help="tokens")
    parser.add_argument("--minutes", type=float, default=1.0, help="training time")
    parser.add_argument("--steps", type=int, help="train for this number of steps, not by time")
    parser.add_argument("--seconds", type=float, default=10.0, help="seconds of audio to generate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", type=Path, default=Path("language_model"), help="folder for audio, tokenizer and model"
    )
    options = parser.parse_args(arguments)
    torch.manual_seed(options.seed)
    transformers.logging.disable_progress_bar()
    codec = duotone.load("tiny")
    levels, size = codec.spec.levels, codec.spec.steps

    sounds = list(recordings(codec, options.sounds, options.material, options.seed))
    if len(sounds) < 2:
        raise duotone.UsageError(
            f"{options.sounds} holds {len(sounds)} sound files, expected 2 or more: one is held out."
        )
    kept, held_out = sounds[: -max(1, len(sounds) // 10)], sounds[-max(1, len(sounds) // 10) :]
    tokenizer = train_bpe(
        [chunk for sound in kept for chunk in sound], Alphabet(len(levels), levels[0]), vocab_size=options.vocabulary,
        pad_token="<pad>", special_tokens=["<sound>"], framerate=size * codec.rate / codec.spec.chunk,
        about={"codec": codec.fingerprint},
    )  # fmt: skip
    tokenizer.save(options.out / "tokenizer")
    training, held = examples(tokenizer, kept), examples(tokenizer, held_out)
    if not training or not held:
        raise duotone.UsageError(
            f"The sounds are too short: expected {2 * codec.spec.chunk / codec.rate:.2f} s, two chunks, or more."
        )
    tokens = sum(len(x) - 1 for x in training) / len(training) / (2 * size)
    print(f"{len(kept)} recordings, a vocabulary of {len(tokenizer)} tokens, {tokens:.2f} tokens a code")

    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=64, intermediate_size=192, num_hidden_layers=2,
            num_attention_heads=4, tie_word_embeddings=True, bos_token_id=None, eos_token_id=None, pad_token_id=0,
        )
    )  # fmt: skip
    before = bits(model, held, 2 * size)
    train(model, training, 2 * size, options.minutes, options.steps)
    after = bits(model, held, 2 * size)
    spoken, unheard = (torch.cat([x[1:] for x in given]) for given in (training, held))
    by_token = bits_by_frequency(spoken, unheard, len(tokenizer)) / len(held) / (2 * size)
    spoken, unheard = (
        torch.from_numpy(np.concatenate(given).swapaxes(1, 2) @ places(codec)).flatten() for given in (kept, held_out)
    )
    by_code = bits_by_frequency(spoken, unheard, codec.spec.codebooks[0]) / len(unheard)
    print(f"held out, bits a code: {before:.2f} untrained, {after:.2f} trained")
    print(f"                       {by_token:.2f} by token frequencies, {by_code:.2f} by code frequencies")
    model.save_pretrained(options.out / "model")

    listener = write(model, tokenizer, codec, options.seconds, options.seed)
    samples = torch.cat([*listener.heard, listener.decoder.finish().samples], dim=1)
    file = options.out / "language_model.wav"
    duotone.write(file, duotone.Waveform(samples, codec.rate), force=True)
    print(file)
    return Result(file, before, after, by_token, by_code, len(listener.heard), len(listener.waiting))


if __name__ == "__main__":
    main()
