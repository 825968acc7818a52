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
    """`two_streams` for windows shorter than the sequence, in J blocks of `window` chunks.

    The window of any chunk lies in its own block and the one before it, so blocks of queries attend to two clean blocks of keys:

        clean keys   | block j-1 | block j |   a band: to chunk n those of age 0 (1 for noisy copies) to `window`
        own keys               | block j |     noisy copies only: to each chunk itself
    """
    b, g, n, m = q.shape[:4]
    blocks = -(-n // window)
    q, k, v = (_blocks(x, blocks, window) for x in (q, k, v))
    keys, values = (torch.cat([F.pad(x[:, 0], (0, 0) * 3 + (1, 0))[:, :-1], x[:, 0]], 3) for x in (k, v))
    band = _band_mask(blocks, window, m, 0, q.device).repeat(b, 1, 1)[:, None]
    out = [_sdpa(q[:, 0], keys, values, band)[:, None]]
    if g > 1:
        past = _band_mask(blocks, window, m, 1, q.device).expand(b, g - 1, -1, -1, -1)
        if keep is not None:
            past = past & keep[:, None, None, None, None]
        itself = _tokens(torch.eye(window, dtype=torch.bool, device=q.device), m).expand(*past.shape[:-1], -1)
        mask = torch.cat([past, itself], -1).flatten(0, 2)[:, None]
        own_keys, own_values = (
            torch.cat([x[:, None].expand(-1, g - 1, *x.shape[1:]), y[:, 1:]], 4) for x, y in ((keys, k), (values, v))
        )
        out.append(_sdpa(q[:, 1:], own_keys, own_values, mask))
    tokens = torch.cat(out, 1).transpose(3, 4)
    return tokens.reshape(b, g, blocks * window, m, *tokens.shape[4:])[:, :, :n]


def _blocks(x: Tensor, blocks: int, window: int) -> Tensor:
    """`[B, G, N, M, H, E]` -> `[B, G, J, H, w M, E]`, with zeros after the last chunk."""
    b, g, n, m, h, e = x.shape
    x = F.pad(x, (0, 0) * 3 + (0, blocks * window - n))
    return x.view(b, g, blocks, window * m, h, e).transpose(3, 4)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """`[..., H, n, E]` each, with all leading dimensions as one batch."""
    q_, k_, v_ = (x.reshape(-1, *x.shape[-3:]) for x in (q, k, v))
    return F.scaled_dot_product_attention(q_, k_, v_, attn_mask=mask).view(q.shape)


def _band_mask(blocks: int, window: int, m: int, least: int, device: torch.device) -> Tensor:
    """What the tokens of each block see of those of the block before and of their own, bool `[J, w M, 2 w M]`: ages `least` to w."""
    chunk = torch.arange(2 * window, device=device)
    age = chunk[window:, None] - chunk
    band = ((age >= least) & (age <= window)).repeat(blocks, 1, 1)
    band[0, :, :window] = False  # nothing is before the first block
    return _tokens(band, m)
