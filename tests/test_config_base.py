"""Copies of configurations are checked as a whole, like what is read."""

from __future__ import annotations

import pytest

from duotone.config import BandsConfig, SamplingConfig
from duotone.errors import ConfigError
from small_bands import SMALL_BANDS, SMALL_REFINEMENT


def test_a_copy_has_the_new_values_and_leaves_the_old_ones() -> None:
    found = SMALL_BANDS.model_copy(update={"frames": 16, "tokens": 8, "refinement": SMALL_REFINEMENT})
    assert (found.frames, found.tokens, found.refinement) == (16, 8, SMALL_REFINEMENT)
    assert found.n_fft == SMALL_BANDS.n_fft and SMALL_BANDS.frames == 8
    assert found == BandsConfig.parse(found.to_dict())
    assert found.model_fields_set == SMALL_BANDS.model_fields_set | {"refinement"}
    assert SMALL_BANDS.model_copy() == SMALL_BANDS


def test_values_that_do_not_fit_together_are_refused_where_they_are_set() -> None:
    """64 frames in 4 time steps passed as a copy once, and ended in the service's model thread as an error of MKL's FFT."""
    with pytest.raises(ConfigError, match=r"(?s)changed BandsConfig.*advance half a window, 128 samples; got 1024"):
        SMALL_BANDS.model_copy(update={"frames": 64})


def test_keys_and_types_of_a_copy_are_those_of_the_configuration() -> None:
    with pytest.raises(ConfigError, match=r"(?s)frame_count: Extra inputs.*Known keys: "):
        SMALL_BANDS.model_copy(update={"frame_count": 8})
    with pytest.raises(ConfigError, match="steps"):
        SamplingConfig().model_copy(update={"steps": "many"})
