"""The tiling that a device gets: the largest that fits its shared memory and its registers."""

from __future__ import annotations

import pytest

from raysparsex.errors import InvalidConfig
from raysparsex.kernels.tiling import TILINGS, TILINGS_OF_FLOAT32, padded, tiling_for

H100, A100, RTX_4090 = 232_448, 166_912, 101_376
"""Bytes of shared memory that one program may have."""


@pytest.mark.parametrize(("size", "computed"), [(8, 16), (16, 16), (64, 64), (80, 128), (128, 128)])
def test_a_head_is_computed_with_the_next_power_of_two(size: int, computed: int) -> None:
    assert padded(size) == computed


def test_a_large_device_gets_the_largest_tiling() -> None:
    assert tiling_for(4, 128, 2, H100) == TILINGS[0]
    assert tiling_for(4, 80, 2, A100) == TILINGS[0]


def test_what_is_chosen_fits_and_nothing_larger_would() -> None:
    chosen = tiling_for(4, 128, 2, RTX_4090)
    place = TILINGS.index(chosen)
    assert place > 0
    assert chosen.shared_bytes(128, 2) <= RTX_4090
    assert all(larger.shared_bytes(128, 2) > RTX_4090 for larger in TILINGS[:place])


def test_float32_gets_tilings_of_its_own() -> None:
    assert tiling_for(4, 128, 4, H100) in TILINGS_OF_FLOAT32


@pytest.mark.parametrize(("group", "shared"), [(4, 10_000), (256, H100)])
def test_what_fits_nowhere_is_refused_with_the_setting_that_helps(group: int, shared: int) -> None:
    with pytest.raises(InvalidConfig, match="'engine'"):
        tiling_for(group, 128, 2, shared)


def test_a_group_that_does_not_divide_the_rows_leaves_some_unused() -> None:
    assert TILINGS[1].tokens(7) == 9
