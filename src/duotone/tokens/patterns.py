"""Orders of the codes of K codebooks and T frames in one sequence.

`frames`: frame by frame, codebook 0 to K-1 in each. `delay` (arXiv 2306.05284): codebook k is delayed by k frames, so that
when code k of a frame is generated, coarser codes of the following frames are already known.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Pattern = Literal["frames", "delay"]


@lru_cache(maxsize=8)
def positions(pattern: Pattern, codebooks: int, frames: int) -> NDArray[np.int64]:
    """For each position of the sequence, its code's index in frame-by-frame order: ``t * K + k``; `[K * T]`."""
    order = np.arange(codebooks * frames)
    if pattern == "frames":
        return order
    t, k = order // codebooks, order % codebooks
    return order[np.lexsort((k, t + k))]
