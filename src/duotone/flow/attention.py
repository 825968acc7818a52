"""Attention of whole sequences of chunks: of one stream, and of noisy copies to a clean one.

A chunk attends to itself and to the `window` chunks before it (None: all). Short sequences use a mask over all tokens; where a window is
shorter than the sequence, its chunks are gathered for each chunk, so that time and memory grow with the window, not with the sequence.

Legend: B batch, G copies (the first is clean), N chunks, M tokens a chunk, w window, H heads, E head width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def full(q: Tensor, k: Tensor, v: Tensor, window: int | None) -> Tensor:
    """One stream, `[B, N, M, H, E]` each -> `[B, N, M, H, E]`."""
    n = q.shape[1]
    if window is not None and n > window + 1:
        return _banded(q[:, None], k[:, None], v[:, None], window, None)[:, 0]
    mask = _tokens(_visible(n, window, q.device), q.shape[2])
    return _masked(q, k, v, None if n == 1 else mask)


def two_streams(q: Tensor, k: Tensor, v: Tensor, window: int | None, keep: Tensor | None = None) -> Tensor:
    """A clean copy and noisy ones, `[B, G, N, M, H, E]` each -> the same shape.

    The clean copy attends to itself; chunk n of a noisy copy to itself and to the clean chunks before n, but not where keep `[B]` is False.
    """
    b, g, n, m = q.shape[:4]
    if window is not None and n > window + 1:
        return _banded(q, k, v, window, keep)
    clean = full(q[:, 0], k[:, 0], v[:, 0], window)
    visible = _visible(n, window, q.device)
    itself = torch.eye(n, dtype=torch.bool, device=q.device)
    past = (visible & ~itself).expand(b, n, n)
    if keep is not None:
        past = past & keep[:, None, None]
    mask = _tokens(torch.cat([past, itself.expand(b, n, n)], 2), m)
    keys, values = (torch.cat([x[:, :1].expand_as(x[:, 1:]), x[:, 1:]], 2).flatten(0, 1) for x in (k, v))
    noisy = _masked(q[:, 1:].flatten(0, 1), keys, values, mask.repeat_interleave(g - 1, 0)[:, None])
    return torch.cat([clean[:, None], noisy.reshape(q[:, 1:].shape)], 1)


def _visible(n: int, window: int | None, device: torch.device) -> Tensor:
    """Which chunks (columns) each chunk (row) attends to, bool `[N, N]`."""
    index = torch.arange(n, device=device)
    age = index[:, None] - index
    return (age >= 0) & (age <= (n if window is None else window))


def _tokens(mask: Tensor, m: int) -> Tensor:
    """A mask between chunks `[..., a, b]` -> between their tokens `[..., a M, b M]`."""
    return mask.repeat_interleave(m, -2).repeat_interleave(m, -1)


def _masked(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """q `[B, N, M, H, E]`, k and v `[B, N', M, H, E]` -> `[B, N, M, H, E]`; the mask broadcasts to `[B, H, N M, N' M]`."""
    q_, k_, v_ = (x.flatten(1, 2).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q_, k_, v_, attn_mask=mask).transpose(1, 2).reshape(q.shape)


def _banded(q: Tensor, k: Tensor, v: Tensor, window: int, keep: Tensor | None) -> Tensor:
    """`two_streams` for windows shorter than the sequence: each chunk's tokens of all copies attend together.

    Their keys are the `window` clean chunks before, shared by all copies, and the chunk itself, to each copy its own.
    """
    b, g, n, m = q.shape[:4]
    queries = q.permute(0, 2, 4, 1, 3, 5).reshape(b * n, q.shape[4], g * m, -1)
    keys, values = (torch.cat([_before(x[:, 0], window), _together(x)], 3).flatten(0, 1) for x in (k, v))
    out = F.scaled_dot_product_attention(
        queries, keys, values, attn_mask=_band_mask(b, g, n, m, window, keep, q.device)
    )
    return out.reshape(b, n, -1, g, m, q.shape[-1]).permute(0, 3, 1, 4, 2, 5)


def _together(x: Tensor) -> Tensor:
    """`[B, G, N, M, H, E]` -> each chunk's tokens of all copies, `[B, N, H, G M, E]`."""
    return x.permute(0, 2, 4, 1, 3, 5).flatten(3, 4)


def _before(x: Tensor, window: int) -> Tensor:
    """`[B, N, M, H, E]` -> the tokens of the `window` chunks before each chunk, `[B, N, H, w M, E]`; zeros where there are none."""
    padded = F.pad(x, (0, 0, 0, 0, 0, 0, window, 0))[:, :-1]
    return padded.unfold(1, window, 1).permute(0, 1, 3, 5, 2, 4).flatten(3, 4)  # unfold puts the window last


def _band_mask(b: int, g: int, n: int, m: int, window: int, keep: Tensor | None, device: torch.device) -> Tensor:
    """Bool `[B N, 1, G M, (w + G) M]` for `_banded`."""
    exists = torch.arange(n, device=device)[:, None] + torch.arange(window, device=device) >= window
    past = exists[None, :, None].expand(b, n, g, window)
    if keep is not None:
        noisy = (torch.arange(g, device=device) > 0)[None, None, :, None]
        past = past & (keep[:, None, None, None] | ~noisy)
    own = torch.eye(g, dtype=torch.bool, device=device).expand(b, n, g, g)
    return _tokens(torch.cat([past, own], 3), m).flatten(0, 1)[:, None]
