"""Sessions: a prompt, then chunk after chunk of new sound, without end, with controls that are heard at a known sample.

What happens between a change and the ear, with a look-ahead of L chunks::

    set(...)  ->  the next chunk is made with it  ->  it is heard after the L chunks (one of them playing) that were made already

A session is a value of one thread: whoever plays it in another takes pieces from it (`duotone jam` does).

Legend: N chunks, M tokens a chunk, C channels of a token, c channels of the sound, T samples.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeAlias

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from duotone.audio.waveform import Waveform
from duotone.codec.contract import Codec
from duotone.config import SamplingConfig
from duotone.errors import AudioError, FormatError, UsageError
from duotone.flow.controls import Changes, Controls
from duotone.flow.health import Health, Monitor
from duotone.flow.live_input import Input, Past
from duotone.flow.model import FlowModel
from duotone.flow.prompt import Prompt, check_pair, encoded
from duotone.flow.sampler import Sampler, check_seeds
from duotone.flow.solvers import driven
from duotone.flow.sound import Gain, Limiter, crossfade
from duotone.flow.together import Appending, Evaluation
from duotone.flow.voice import REPLAY, Decoding, Voice, noise_seed, part
from duotone.flow.weights import fingerprint

#: What making a chunk asks for.
Asked: TypeAlias = Evaluation | Appending | Decoding

FORMAT = "duotone-session"
VERSION = 1
LOOKAHEAD = 2  #: chunks
FADE = 0.25  #: seconds of a crossfade, at most a chunk


@dataclass(frozen=True)
class Latency:
    """From a control to the ear at most `seconds`: the look-ahead, one chunk, and the player's buffer."""

    lookahead: float
    chunk: float
    buffer: float

    @property
    def seconds(self) -> float:
        """The sum."""
        return self.lookahead + self.chunk + self.buffer


@dataclass
class _Switch:
    """A change of generation that waits for the next chunk."""

    seed: int | None
    anchor: bool
    fade: float


class Session:
    """Sound without end from a flow and a codec; iterate over it, or call `make` and `take`.

    Parameters are those of `session`. Every call that changes something returns the sample of the session's sound, counted from its
    beginning at `rate`, from which on it is heard; what comes before is the same as without it.
    """

    def __init__(
        self,
        model: FlowModel,
        codec: Codec,
        prompt: Prompt = None,
        seed: int = 0,
        settings: SamplingConfig | None = None,
        lookahead: int = LOOKAHEAD,
        context: int | None = None,
        exact: bool = False,
        include_prompt: bool = False,
    ) -> None:
        check_pair(model, codec)
        if isinstance(lookahead, bool) or not isinstance(lookahead, int) or not 1 <= lookahead <= 64:
            raise UsageError(f"lookahead got {lookahead!r}, expected 1 to 64 chunks.")
        self.model, self.codec, self.lookahead = model, codec, lookahead
        self.seed = check_seeds([seed])[0]
        self.closed = False
        self._era = 0  # returns to the prompt since the seed was set
        self._controls = self._last = Controls.of(model.config, settings)
        self._voice = Voice(Sampler(model, [self.seed], self._controls.sampling, context, exact), codec, self.seed)
        self.rate = codec.spec.rate_out  #: of the sound, in Hz
        self.channels = self._voice.stream.channels
        self.made = 0  #: samples made so far; what is changed now is heard from here on
        self.taken = 0  #: samples taken so far
        self.chunks = 0  #: chunks sampled so far
        self.steps = self.evaluations = 0  #: of the solver so far
        self.placed = 0  #: chunks of input that stood in the context in place of ours
        self.late = 0  #: chunks of input that came too late to enter the context
        self._made: deque[Tensor] = deque()
        self._switch: _Switch | None = None
        self._gain, self._limiter = Gain(1.0, self.rate), Limiter(self.rate)
        self._monitor = Monitor(self.rate)
        self._input = Input(codec, model.config.channels)
        self._past = Past(lookahead + 3)
        self._waiting: dict[int, Tensor] = {}
        self._begin(encoded(codec, model, prompt), include_prompt)

    def _begin(self, latents: Tensor, include: bool) -> None:
        """Let the prompt enter the context, and the decoder; with `include` it is heard."""
        if len(latents):
            self._voice.sampler.push(latents)
            for chunk in latents if include else latents[-REPLAY:]:
                samples = self._voice.decode(chunk[None])
                if include:
                    self._made.append(samples)
                    self.made += samples.shape[1]
        self.prompt_chunks = len(latents)
        self._anchor = self._voice.sampler.cache.clone()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closed = True

    def __iter__(self) -> Iterator[Waveform]:
        return self

    def __next__(self) -> Waveform:
        """Make chunks until the look-ahead is full, and take the first; ends when the session is closed."""
        if self.closed:
            raise StopIteration
        while self.queued < self.lookahead:
            self.make()
        wave = self.take()
        assert wave is not None
        return wave

    # --- the two halves of a player: one thread makes, and hands over what is taken

    @property
    def queued(self) -> int:
        """Pieces that were made and not taken."""
        return len(self._made)

    def take(self) -> Waveform | None:
        """The next piece `[c, T]`, or None if none was made."""
        if not self._made:
            return None
        samples = self._made.popleft()
        self.taken += samples.shape[1]
        return Waveform.of_checked(samples, self.rate)

    def make(self) -> None:
        """Make one chunk with the controls of now; takes the same time and memory for every chunk (twice the time in a crossfade)."""
        driven(self.making(), lambda asked: asked.run())

    def making(self) -> Generator[Asked, Any, None]:
        """The same, asking for each evaluation, so that those of several sessions can be computed together.

        Between two asks nothing of the session may be changed. A generator that is closed leaves the session as it was before, if the
        chunk had not entered the context yet; else it completes the chunk.
        """
        if self.closed:
            raise UsageError("This session is closed; open a new one.")
        before = self._switch, self._voice, self._voice.sampler.cache, self._voice.sampler.seeds, self.seed, self._era
        last = self._last.at(self.made / self.rate, self.seed)
        entered, made, old_made = False, None, None
        try:
            switch, self._switch = self._switch, None
            old = None if switch is None else self._leave(switch)
            controls = self._controls.at(self.made / self.rate, self.seed)
            latents, sounds = yield from self._sample(controls)
            heard = self._shaped(latents, controls)
            yield from self._follow(self._start, heard if controls.feedback else latents)
            entered = True
            made = yield from self._decode(heard)
            old_made = [None if old is None else (yield from self._old(old, last))]
        except GeneratorExit:
            if not entered:
                self._switch, self._voice, cache, seeds, self.seed, self._era = before
                self._voice.sampler.cache, self._voice.sampler.seeds = cache, seeds
                raise
            made = made or driven(self._decode(heard), lambda asked: asked.run())
            old_made = old_made or [None if old is None else driven(self._old(old, last), lambda asked: asked.run())]
            raise
        finally:
            if made is not None and old_made is not None:
                self._finish(heard, made[0], sounds and made[1], controls, switch, old_made[0])

    def _finish(
        self,
        heard: Tensor,
        samples: Tensor,
        sounds: bool,
        controls: Controls,
        switch: _Switch | None,
        old: Tensor | None,
    ) -> None:
        """From the decoded chunk to the piece that is played."""
        if old is not None and switch is not None and old.shape == samples.shape:
            samples = crossfade(old, samples, round(switch.fade * self.rate))
        self._monitor.push(self.model.normalize(heard), samples)
        added = self._controls.gains(self.made, samples.shape[1], self.rate, self.seed) if sounds else None
        samples = self._limiter.apply(self._gain.apply(samples, controls.gain if sounds else 0.0, added))
        self._last = self._controls
        self._made.append(samples)
        self.made += samples.shape[1]
        self.chunks += 1

    @property
    def _start(self) -> int:
        """Where the next chunk's own samples begin: decoders give those of a chunk up to `extra` samples before its end."""
        spec = self.codec.spec
        return self.made + (round(spec.extra * spec.rate_out / spec.rate) if self._voice.decoded else 0)

    def _sample(self, controls: Controls) -> Generator[Asked, Any, tuple[Tensor, bool]]:
        """The next chunk's latents `[M, C]`, always finite, and whether it may be heard.

        A context that gives what is not finite is left for the prompt's; if that does not help, the chunk is silent.
        """
        for attempt in range(2):
            chunk = yield from self._voice.sampling(controls)
            self.steps += chunk.steps
            self.evaluations += chunk.evaluations
            if bool(torch.isfinite(chunk.latents).all()):
                return chunk.latents[0], True
            if attempt == 0:
                self._return()
        self._monitor.replaced += 1
        config = self.model.config
        return self.model.denormalize(torch.zeros(config.tokens, config.channels, device=self.model.device)), False

    def _shaped(self, latents: Tensor, controls: Controls) -> Tensor:
        if not controls.shapes:
            return latents
        return self.model.denormalize(controls.shape(self.model.normalize(latents)))

    def _follow(self, start: int, latents: Tensor) -> Generator[Asked, Any, None]:
        """Let the chunk, or the user's in its place, enter the context."""
        user = self._waiting.get(start)
        yield from self._past.entering(self._voice.sampler, start, latents if user is None else user)
        self._waiting.pop(start, None)
        self.placed += user is not None
        for earlier in [each for each in self._waiting if each < start]:
            del self._waiting[earlier]
            self.late += 1

    def _decode(self, latents: Tensor) -> Generator[Asked, Any, tuple[Tensor, bool]]:
        """Samples `[c, T]`, always finite, and whether they may be heard; a decoder that fails is opened anew."""
        spec = self.codec.spec
        length = spec.chunk - (0 if self._voice.decoded else spec.extra)
        try:
            samples = yield self._voice.decoding(latents[None])
        except AudioError:
            self._monitor.replaced += 1
            self._voice.renew()
            return torch.zeros(self.channels, round(length * spec.rate_out / spec.rate)), False
        return samples, True

    # --- changes of generation

    def _leave(self, switch: _Switch) -> Voice:
        """Begin the new generation; returns the old one."""
        old, self._voice = self._voice, self._voice.fork()
        if switch.seed is not None:
            self.seed, self._era = switch.seed, 0
            self._voice.sampler.seeds = (switch.seed,)
        if switch.anchor:
            self._return(new_era=switch.seed is None)
        return old

    def _return(self, new_era: bool = True) -> None:
        """Put the context back to the prompt's; noise differs at each return."""
        self._era += new_era
        self._voice.sampler.cache = self._anchor.clone()
        self._voice.sampler.seeds = (noise_seed(self.seed, self._era),)
        self._past.clear()
        self._waiting.clear()

    def _old(self, old: Voice, controls: Controls) -> Generator[Asked, Any, Tensor | None]:
        """What the old generation would have played, with the controls of before; None where that cannot be heard."""
        chunk = yield from old.sampling(controls)
        self.steps += chunk.steps
        self.evaluations += chunk.evaluations
        if not bool(torch.isfinite(chunk.latents).all()):
            return None
        try:
            samples: Tensor = yield old.decoding(self._shaped(chunk.latents[0], controls)[None])
        except AudioError:
            return None
        return samples

    # --- what the user does

    def set(self, changes: Changes | None = None, **named: Any) -> int:
        """Change controls (the fields of `Changes`); returns the sample from which on they are heard.

        Raises `ConfigError` or `UsageError` for unknown names and values out of range; then nothing is changed.
        """
        wanted = Changes.parse({**(changes.named() if changes else {}), **named}, "The change")
        controls = self._controls.changed(wanted)
        if controls.sampling.solver == "average" and not self.model.config.spans:
            raise UsageError("The solver average needs a model with spans; this one has none. Choose another solver.")
        self._controls = controls
        return self.made

    @property
    def controls(self) -> Controls:
        """The controls as they are set, without what oscillators add."""
        return self._controls

    def reseed(self, seed: int, fade: float = FADE) -> int:
        """Go on from the same past with another seed, crossfaded over `fade` seconds; returns the sample at which the fade begins."""
        seed = check_seeds([seed])[0]
        anchor = self._switch is not None and self._switch.anchor
        self._switch = _Switch(seed, anchor, self._checked(fade))
        return self.made

    def reanchor(self, fade: float = FADE) -> int:
        """Go back to the prompt's context, crossfaded over `fade` seconds; returns the sample at which the fade begins."""
        seed = None if self._switch is None else self._switch.seed
        self._switch = _Switch(seed, True, self._checked(fade))
        return self.made

    def _checked(self, fade: float) -> float:
        if not 0 <= fade <= 60:
            raise UsageError(f"fade got {fade!r}, expected seconds, 0 to 60 (a chunk at most is used).")
        return fade

    def push(self, wave: Waveform, at: int | None = None) -> int:
        """The user's sound, any length at the codec's rate; `at` is the sample of the session's sound that was heard with its first.

        Without `at` it follows the last block, and the first one follows what was taken. Each chunk it completes stands in the
        context in place of ours; returns how many were completed. Never encodes the session's own sound.
        """
        found = self._input.push(wave, at, self._start, self.taken)
        for start, latents in found:
            if start >= self._start:
                self._waiting[start] = latents
                while len(self._waiting) > 4 * self.lookahead:
                    del self._waiting[min(self._waiting)]
                    self.late += 1
            elif self._past.replace(self._voice.sampler, start, latents):
                self.placed += 1
            else:
                self.late += 1
        return len(found)

    @property
    def input_begun(self) -> bool:
        """Whether the user's sound was pushed before."""
        return self._input.start is not None

    def health(self) -> Health:
        """Loudness, self-similarity, onsets, and whether the session seems stuck."""
        return self._monitor.report()

    def latency(self, buffer: float = 0.0) -> Latency:
        """How long a control takes to the ear, with `buffer` seconds in the player."""
        chunk = self.codec.spec.chunk_seconds
        return Latency(self.lookahead * chunk, chunk, buffer)

    # --- pause, and go on elsewhere

    def state(self) -> bytes:
        """Everything that later samples depend on, as safetensors with JSON in its metadata; `resume` takes it."""
        numbers = {
            "format": FORMAT, "version": VERSION, "flow": fingerprint(self.model), "codec": self.codec.spec.fingerprint,
            "seed": self.seed, "decoder_seed": self._voice.seed, "noise_seed": self._voice.sampler.seeds[0], "era": self._era,
            "lookahead": self.lookahead, "context": self._voice.sampler.cache.context, "exact": self._voice.sampler.cache.exact,
            "made": self.made, "taken": self.taken, "chunks": self.chunks, "steps": self.steps, "placed": self.placed, "late": self.late,
            "evaluations": self.evaluations, "prompt_chunks": self.prompt_chunks, "gain": self._gain.value,
            "limiter": self._limiter.gain, "switch": self._switch and vars(self._switch), "queued": len(self._made),
            "controls": self._controls.to_dict(), "last": self._last.to_dict(),
        }  # fmt: skip
        groups: dict[str, Mapping[str, Tensor]] = {
            "voice": self._voice.state(),
            "anchor": self._anchor.state(),
            "monitor": self._monitor.state(),
            "input": self._input.state(),
            "past": self._past.state(),
            "waiting": {str(start): latents for start, latents in self._waiting.items()},
            "made": {str(i): samples for i, samples in enumerate(self._made)},
        }
        tensors = {f"{group}/{name}": t for group, inner in groups.items() for name, t in inner.items()}
        plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        return save_tensors(plain, {"session": json.dumps(numbers)})

    def _restore(self, numbers: dict[str, Any], tensors: Mapping[str, Tensor]) -> None:
        self.seed, self._era, self.lookahead = numbers["seed"], numbers["era"], numbers["lookahead"]
        self._voice.sampler.seeds = (numbers["noise_seed"],)
        self._voice.seed = numbers["decoder_seed"]
        self._voice.restore(part(tensors, "voice/"))
        self._anchor.restore(part(tensors, "anchor/"))
        self._monitor.restore(part(tensors, "monitor/"))
        self._input.restore(part(tensors, "input/"))
        self._past.restore(part(tensors, "past/"))
        self._waiting = {int(start): latents for start, latents in part(tensors, "waiting/").items()}
        self._made = deque(tensors[f"made/{i}"] for i in range(numbers["queued"]))
        for name in ("made", "taken", "chunks", "steps", "evaluations", "late", "prompt_chunks"):
            setattr(self, name, numbers[name])
        self.placed = numbers.get("placed", 0)  # states written before it was counted lack it
        self._gain.value, self._limiter.gain = numbers["gain"], numbers["limiter"]
        self._switch = None if numbers["switch"] is None else _Switch(**numbers["switch"])
        self._controls, self._last = (Controls.parse(numbers[name], "The state") for name in ("controls", "last"))


def session(
    model: FlowModel,
    codec: Codec,
    prompt: Prompt = None,
    *,
    seed: int = 0,
    settings: SamplingConfig | None = None,
    lookahead: int = LOOKAHEAD,
    context: int | None = None,
    exact: bool = False,
    include_prompt: bool = False,
) -> Session:
    """Open a session: ``with flow.session(model, codec, prompt=wave, seed=1) as s: for piece in s: ...``.

    `prompt` is a waveform, latents, the name of a sound file or .duo, or None; with `include_prompt` it is heard first. `settings`
    default to those stored with the model, `context` (chunks kept) to the model's window. Raises `UsageError` or `CodecMismatchError`
    for a pair that does not fit, `AudioError` for a prompt of less than a chunk or a file that cannot be read.
    """
    return Session(model, codec, prompt, seed, settings, lookahead, context, exact, include_prompt)


def resume(model: FlowModel, codec: Codec, state: bytes) -> Session:
    """Go on from what `Session.state` gave, in any process: with the same samples, bit for bit on the same kind of machine.

    Codecs whose decoding state cannot be taken out (`DecodeSession.resumable`) decode their last chunks again, and differ at first.
    Raises `FormatError` for other bytes, `UsageError` for another flow or codec.
    """
    numbers, tensors = _read(state)
    for name, own in (("flow", fingerprint(model)), ("codec", codec.spec.fingerprint)):
        if numbers[name] != own:
            raise UsageError(
                f"This state is of a session with {name} {numbers[name]}, the {name} at hand is {own}. Load that one."
            )
    found = Session(model, codec, lookahead=numbers["lookahead"], context=numbers["context"], exact=numbers["exact"])
    found._restore(numbers, tensors)
    return found


def _read(state: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The JSON and the tensors of a state. Raises `FormatError` for what is none."""
    try:
        length = int.from_bytes(state[:8], "little")
        numbers = json.loads(json.loads(state[8 : 8 + length])["__metadata__"]["session"])
        tensors = load_tensors(state)
        known = numbers["format"] == FORMAT and numbers["version"] == VERSION
    except Exception as error:  # safetensors and json raise half a dozen unrelated types for other bytes
        raise FormatError(
            f"This is not the state of a session ({type(error).__name__} while reading it). Give what Session.state() gave."
        ) from None
    if not known:
        raise FormatError(f"This state has version {numbers['version']}, expected {VERSION}. Update duotone.")
    return numbers, tensors
