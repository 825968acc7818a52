"""Keys and values of finished chunks, so that the velocity of the next chunk runs over its own tokens only.

Each layer keeps the last `context` chunks in a ring: the i-th chunk stands in slot ``i % context``, which the ``i + context``-th takes over.
Rotary positions are relative, so that keys stay as they are, at their absolute index. A model with a window sees the same
chunks in its full pass, so that ring and full pass are equal after any number of chunks.

    one layer's memory:  [ own tokens | slot 0 | slot 1 | ... | slot context-1 ]   along the tokens
                           rewritten by each evaluation; a slot is written once, by `append`

Legend: B rows, R = branches x B rows in the network, n chunks, M tokens a chunk, C channels, H heads, E head width.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from duotone.errors import UsageError
from duotone.flow.model import FlowModel, Modulation
from duotone.flow.path import interpolate

_BLOCK = 16  # chunks that are appended in one pass
_TIMES = 64  # distinct times whose modulation is kept


@dataclass(frozen=True)
class Pass:
    """One pass of the network over the next chunk: rows `[R, M, C]`, their modulation, the chunk's index, and the attention of a layer."""

    rows: Tensor
    parts: Modulation
    index: int
    attend: Callable[[int, Tensor, Tensor, Tensor], Tensor]


class FlowCache:
    """The past of B independent generations that stand at the same chunk, in constant memory.

    `context` defaults to the model's window; models without a window keep as many chunks as their training crops had, less one. With
    `exact`, such a model's window is computed again from its latents after each chunk that drops another, so that nothing of the
    dropped chunks remains; otherwise the ring is used as it is. With two branches, the second one is guidance's negative branch.
    The weights must not change while a cache is in use. Raises `UsageError` for a context beyond the model's window.
    """

    def __init__(
        self, model: FlowModel, batch: int = 1, context: int | None = None, branches: int = 1, exact: bool = False
    ) -> None:
        config = model.config
        most = config.context_chunks
        self.context = config.context if context is None else context
        if self.context < 1 or (most is not None and self.context > most):
            raise UsageError(
                f"Got a context of {self.context} chunks, expected 1 to {most or 'any number'}, the window of the model."
            )
        if exact and most is not None:
            raise UsageError(
                "exact is for models without a window; this one has a window, with which the cache is exact already."
            )
        if batch < 1 or branches not in (1, 2):
            raise UsageError(
                f"Got {batch} rows and {branches} branches, expected at least one row, and one or two branches."
            )
        self.model, self.batch, self.branches, self.exact = model, batch, branches, exact
        self.index = 0  #: of the next chunk: how many chunks were appended
        self.start = 0  #: index of the first chunk
        self._shape = (batch, config.tokens, config.channels)
        self._limits: list[int | None] = [None, None]
        self._keys, self._values = self._memory(batch * branches)
        self._kept: list[tuple[Tensor, float, Tensor | None, float]] = []  # what was appended, for `exact`
        self._modulations: OrderedDict[tuple[float, float], Modulation] = OrderedDict()

    def _memory(self, rows: int) -> tuple[Tensor, Tensor]:
        config, model = self.model.config, self.model
        length = config.tokens * (1 + self.context)
        shape = (config.layers, rows, config.heads, length, config.head)
        return tuple(torch.zeros(shape, dtype=model.dtype, device=model.device) for _ in range(2))  # type: ignore[return-value]

    @property
    def filled(self) -> int:
        """Chunks that the next one can attend to."""
        return min(self.index - self.start, self.context)

    @torch.no_grad()
    def append(
        self,
        x: Tensor,
        s: float = 0.0,
        eps: Tensor | None = None,
        negative: tuple[float, Tensor] | None = None,
    ) -> None:
        """Take finished chunks `[B, n, M, C]` (normalised) at noise level s, with unit noise `eps` of the same shape if s > 0.

        `negative` gives another level and noise for the second branch, which is else the same as the first.
        Raises `UsageError` for other shapes, or a level without noise.
        """
        first, second, level = self._noised(x, s, eps, negative)
        for i in range(0, first.shape[1], _BLOCK):
            part = slice(i, i + _BLOCK)
            self._append(first[:, part], s, None if second is None else second[:, part], level)
        if self.exact:
            self._recompute()

    def _noised(
        self, x: Tensor, s: float, eps: Tensor | None, negative: tuple[float, Tensor] | None
    ) -> tuple[Tensor, Tensor | None, float]:
        """What enters the first branch, the second one (None: the same), and the second one's level."""
        wanted = (self.batch, x.shape[1] if x.dim() == 4 else 1, *self._shape[1:])
        if x.shape != wanted or wanted[1] < 1 or (s > 0 and (eps is None or eps.shape != wanted)):
            told = "no noise" if eps is None else f"noise {list(eps.shape)}"
            raise UsageError(
                f"Got chunks {list(x.shape)} at level {s} with {told}, expected {list(wanted)}, and noise alike above 0."
            )
        x = x.to(self.model.device).float()
        first = x if eps is None or s == 0 else interpolate(x, eps.to(x), s)
        second, level = None, s
        if self.branches == 2 and negative is not None:
            level, noise = negative
            second = interpolate(x, noise.to(x), level)
        return first, second, level

    def _append(self, x: Tensor, s: float, negative: Tensor | None, negative_s: float) -> None:
        if self.exact:
            self._kept += [
                (x[:, i : i + 1].clone(), s, None if negative is None else negative[:, i : i + 1].clone(), negative_s)
                for i in range(x.shape[1])
            ]
        self._pass(*self._entering(x, s, negative, negative_s))

    def _entering(self, x: Tensor, s: float, negative: Tensor | None, negative_s: float) -> tuple[Tensor, Modulation]:
        """The rows `[R, n, M, C]` of all branches, and their modulation."""
        parts = self._modulation(s)
        if self.branches == 2:
            x = torch.cat([x, x if negative is None else negative])
            if negative_s != s:
                parts = _stack(parts, self._modulation(negative_s), self.batch, self.model.config.dim)
        return x, parts

    def _pass(self, x: Tensor, parts: Modulation) -> None:
        """Write keys and values of chunks `[R, n, M, C]` into the ring."""
        model, (n, m) = self.model, x.shape[1:3]
        cos, sin = (part.flatten(0, 1) for part in model.turn(self.index, n))
        h = model.proj_in(x.to(model.dtype).flatten(1, 2))
        mask = None if n == 1 else self._append_mask(n)
        kept = slice(max(0, n - self.context), n)
        slots = [(self.index - self.start + chunk) % self.context for chunk in range(kept.start, n)]
        valid = m * (1 + self.filled)

        for layer, block in enumerate(model.blocks):
            keys, values = self._keys[layer], self._values[layer]
            if n == 1:
                attend = partial(_over_own, keys[:, :, :valid], values[:, :, :valid], None)
                new = [keys[:, :, :m], values[:, :, :m]]
            else:
                new = []
                attend = partial(_after, keys[:, :, m:valid], values[:, :, m:valid], mask, new)
            h = block(h, parts.layers[layer], (cos, sin), attend)
            for memory, part in zip((keys, values), new, strict=True):
                for chunk, slot in zip(range(kept.start, n), slots, strict=True):
                    memory[:, :, m * (1 + slot) : m * (2 + slot)] = part[:, :, m * chunk : m * (chunk + 1)]
        self.index += n

    def _append_mask(self, n: int) -> Tensor:
        """Which tokens of the ring and of n new chunks each new chunk sees: itself and `context` chunks before, `[n M, (filled + n) M]`."""
        new = torch.arange(self.index, self.index + n)
        age = new[:, None] - torch.cat([self._slots(), new])
        visible = (age >= 0) & (age <= self.context)
        m = self._shape[1]
        return visible.repeat_interleave(m, 0).repeat_interleave(m, 1).to(self.model.device)

    def _slots(self) -> Tensor:
        """The index of the chunk in each filled slot, `[filled]`."""
        last = self.index - self.start - 1
        return self.start + last - (last - torch.arange(self.filled)) % self.context

    @torch.no_grad()
    def velocity(self, x: Tensor, t: float, span: float = 0.0, branches: int | None = None) -> Tensor:
        """The velocity of the next chunk at time t, x `[B, M, C]` -> `[branches B, M, C]`; all of the first branch come first.

        With a span, it is the average from t down to t - span. `branches` (default: all) says for how many branches it is computed, in
        one batch. Raises `UsageError` for other shapes, or a span that the model does not take.
        """
        branches = self.branches if branches is None else branches
        if x.shape != self._shape or not 1 <= branches <= self.branches:
            raise UsageError(
                f"Got a chunk {list(x.shape)} and {branches} branches, expected {list(self._shape)} and at most {self.branches}."
            )
        model, m, rows = self.model, self._shape[1], self.batch * branches
        valid = m * (1 + self.filled)
        mask = self._velocity_mask(branches)
        parts = self._modulation(t, span)
        cos, sin = model.turn(self.index, 1)
        turn = cos[0], sin[0]
        h = model.proj_in(x.to(model.device, model.dtype))
        if branches == 2:
            h = torch.cat([h, h])
        for layer, block in enumerate(model.blocks):
            attend = partial(
                _over_own, self._keys[layer, :rows, :, :valid], self._values[layer, :rows, :, :valid], mask
            )
            h = block(h, parts.layers[layer], turn, attend)
        return model.output(h, parts.out)

    # --- one network pass over the next chunk of several caches: `together` computes the layers, each cache its attention

    def evaluated(self, x: Tensor, t: float, span: float, branches: int) -> Pass:
        """What `velocity` runs. Raises `UsageError` as it does."""
        if x.shape != self._shape or not 1 <= branches <= self.branches:
            raise UsageError(
                f"Got a chunk {list(x.shape)} and {branches} branches, expected {list(self._shape)} and at most {self.branches}."
            )
        rows = torch.cat([x] * branches).to(self.model.device, self.model.dtype)
        return Pass(
            rows, self._modulation(t, span), self.index, partial(self._attended, self._velocity_mask(branches), None)
        )

    def appended(
        self, x: Tensor, s: float, eps: Tensor | None = None, negative: tuple[float, Tensor] | None = None
    ) -> Pass | None:
        """What `append` runs for one chunk; None where that is not one pass. `advance` has to follow it."""
        if self.exact or x.shape[1:2] != (1,):
            return None
        first, second, level = self._noised(x, s, eps, negative)
        rows, parts = self._entering(first, s, second, level)
        return Pass(
            rows[:, 0].to(self.model.dtype), parts, self.index, partial(self._attended, None, self._next_slot())
        )

    def advance(self) -> None:
        """The next chunk has entered."""
        self.index += 1

    def _attended(self, mask: Tensor | None, slot: slice | None, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of a layer; with a slot, the chunk's keys and values are kept there."""
        rows, m = q.shape[0], self._shape[1]
        valid = m * (1 + self.filled)
        keys, values = self._keys[layer, :rows], self._values[layer, :rows]
        found = _over_own(keys[:, :, :valid], values[:, :, :valid], mask, q, k, v)
        if slot is not None:
            keys[:, :, slot], values[:, :, slot] = keys[:, :, :m], values[:, :, :m]
        return found

    def see(self, chunks: int | None, branch: int = 0) -> None:
        """Let evaluations of a branch see only so many of the last chunks: 0 is none, None (at first) all that there are."""
        if branch not in (0, 1) or (chunks is not None and chunks < 0):
            raise UsageError(
                f"Got {chunks} visible chunks of branch {branch}, expected 0 or more, or None for all, of branch 0 or 1."
            )
        self._limits[branch] = chunks

    def _velocity_mask(self, branches: int) -> Tensor | None:
        """What each branch sees of own tokens and ring, `[branches B, 1, 1, (1 + filled) M]`; None where all see everything."""
        limits = [self.filled if n is None else min(n, self.filled) for n in self._limits[:branches]]
        if min(limits) == self.filled:
            return None
        age = torch.cat([torch.zeros(1, dtype=torch.long), self.index - self._slots()])
        seen = (
            (age <= torch.tensor(limits)[:, None]).repeat_interleave(self._shape[1], 1).repeat_interleave(self.batch, 0)
        )
        return seen[:, None, None].to(self.model.device)

    def branch(self, branches: int) -> None:
        """Change the number of branches; a new negative branch starts with the past of the first one."""
        if branches not in (1, 2):
            raise UsageError(f"Got {branches} branches, expected 1 or 2.")
        if branches == self.branches:
            return
        if branches == 2:
            self._keys, self._values = (torch.cat([part, part], 1) for part in (self._keys, self._values))
        else:
            self._keys, self._values = (part[:, : self.batch].clone() for part in (self._keys, self._values))
        self.branches = branches

    def clear(self, index: int = 0) -> None:
        """Forget all chunks; the next one has this index."""
        self.index = self.start = index
        self._kept.clear()

    def clone(self) -> FlowCache:
        """A second past that starts as a copy of this one."""
        other = FlowCache(self.model, self.batch, self.context, self.branches, self.exact)
        other.restore(self.state())
        other._limits = list(self._limits)
        return other

    def state(self) -> dict[str, Tensor]:
        """All that evaluations depend on, as copies: keys, values and counters; `restore` takes it."""
        state = {
            "keys": self._keys.clone(), "values": self._values.clone(),
            "counters": torch.tensor([self.index, self.start, self.branches]),
        }  # fmt: skip
        for i, (x, s, negative, negative_s) in enumerate(self._kept):
            state[f"kept.{i}.x"], state[f"kept.{i}.s"] = x, torch.tensor([s, negative_s], dtype=torch.float64)
            if negative is not None:
                state[f"kept.{i}.negative"] = negative
        return state

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take a state of a cache of the same model, rows and context. Raises `UsageError` for any other."""
        missing = [name for name in ("keys", "values", "counters") if name not in state]
        if missing:
            raise UsageError(f"Got a state without {', '.join(missing)}, expected what state() of a cache gave.")
        index, start, branches = state["counters"].tolist()
        shape = list(self._keys.shape)
        shape[1] = self.batch * branches
        if list(state["keys"].shape) != shape:
            raise UsageError(
                f"Got a state of keys {list(state['keys'].shape)}, expected {shape}: of the same model, rows and context."
            )
        self._keys, self._values = (state[name].to(self._keys).clone() for name in ("keys", "values"))
        self.index, self.start, self.branches = index, start, branches
        self._kept = []
        while f"kept.{len(self._kept)}.x" in state:
            name = f"kept.{len(self._kept)}."
            s, negative_s = state[name + "s"].tolist()
            negative = state.get(name + "negative")
            self._kept.append(
                (state[name + "x"].clone(), s, None if negative is None else negative.clone(), negative_s)
            )

    def undo(self) -> dict[str, Tensor]:
        """What the next `append` of one chunk overwrites, as copies: little, but everything where `exact`. `rewind` takes it."""
        if self.exact:
            return self.state()
        slot = self._next_slot()
        counters = torch.tensor([self.index, self.start])
        return {
            "slot_keys": self._keys[:, :, :, slot].clone(), "slot_values": self._values[:, :, :, slot].clone(), "counters": counters,
        }  # fmt: skip

    def rewind(self, undo: dict[str, Tensor]) -> None:
        """Take back the last `append`, which was of one chunk; `undo` was taken before it. Raises `UsageError` for any other."""
        index, start = undo["counters"].tolist()[:2]
        if index != self.index - 1:
            raise UsageError(
                f"Got what was taken before chunk {index}, and the last chunk is {self.index - 1}. Rewind in order."
            )
        if self.exact:
            self.restore(undo)
            return
        self.index, self.start = index, start
        slot = self._next_slot()
        for memory, name in ((self._keys, "slot_keys"), (self._values, "slot_values")):
            before = undo[name].to(memory)  # rows of one branch or of two, as there were then
            memory[:, :, :, slot] = before.repeat(1, 2, 1, 1, 1)[:, : memory.shape[1]]

    def _next_slot(self) -> slice:
        """The tokens of a layer's memory that the next chunk takes over."""
        m, slot = self._shape[1], (self.index - self.start) % self.context
        return slice(m * (1 + slot), m * (2 + slot))

    def _recompute(self) -> None:
        """Compute the window again from the kept latents, if chunks have left it."""
        if len(self._kept) <= self.context:
            return
        kept, index = self._kept[-self.context :], self.index
        self.clear(index - self.context)
        for (s, negative_s, _), group in itertools.groupby(kept, lambda one: (one[1], one[3], one[2] is None)):
            xs, _, negatives, _ = zip(*group, strict=True)
            negative = None if negatives[0] is None else torch.cat(negatives, 1)
            self._append(torch.cat(xs, 1), s, negative, negative_s)

    def _modulation(self, t: float, span: float = 0.0) -> Modulation:
        """The modulation at a time, computed once while the time stays in use."""
        found = self._modulations.pop((t, span), None)
        if found is None:
            times = torch.tensor([t, span], dtype=torch.float32, device=self.model.device)
            found = self.model.modulation(times[0], times[1] if span else None)
            if len(self._modulations) >= _TIMES:
                self._modulations.popitem(last=False)
        self._modulations[t, span] = found
        return found


def _stack(first: Modulation, second: Modulation, batch: int, dim: int) -> Modulation:
    """One modulation for the rows of both branches: vectors `[2 B, 1, D]`."""
    return Modulation.of(torch.stack([first.flat, second.flat]).repeat_interleave(batch, 0), dim)


def _over_own(keys: Tensor, values: Tensor, mask: Tensor | None, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """A chunk, `[R, M, H, E]` each, to a layer's memory `[R, H, (1 + filled) M, E]`, over whose own tokens it is written."""
    m = q.shape[1]
    keys[:, :, :m], values[:, :, :m] = k.transpose(1, 2), v.transpose(1, 2)
    return F.scaled_dot_product_attention(q.transpose(1, 2), keys, values, attn_mask=mask).transpose(1, 2)


def _after(
    keys: Tensor, values: Tensor, mask: Tensor | None, new: list[Tensor], q: Tensor, k: Tensor, v: Tensor
) -> Tensor:
    """Several chunks, `[R, n M, H, E]` each, to slots `[R, H, filled M, E]` and each other; their keys and values go into `new`."""
    new += [k.transpose(1, 2), v.transpose(1, 2)]
    k, v = torch.cat([keys, new[0]], 2), torch.cat([values, new[1]], 2)
    return F.scaled_dot_product_attention(q.transpose(1, 2), k, v, attn_mask=mask).transpose(1, 2)
