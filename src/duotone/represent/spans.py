"""Spans of time over a grid of equal or unequal parts."""

from __future__ import annotations

import torch
from torch import Tensor


def shares_of_parts(spans: Tensor, edges: Tensor) -> Tensor:
    """Spans `[n, 2]` (start, end) and the edges of T parts `[T + 1]` -> the share of each span that lies in each part `[n, T]`.

    A row sums to 1 where the parts cover the span: a matrix that takes means over spans of what is known of parts.
    """
    start, end = spans[:, :1], spans[:, 1:]
    return (torch.minimum(end, edges[1:]) - torch.maximum(start, edges[:-1])).clamp_min(0) / (end - start)
