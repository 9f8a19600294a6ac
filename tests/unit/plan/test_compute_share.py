"""The share of a full prefill's compute, counted by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysparsex.plan.compute_share import LayerShape, compute_share

EIGHT = LayerShape(layers=8, projection_share=0.25)


@pytest.mark.parametrize(
    ("suspects", "recomputed", "full_layers", "token_layers"),
    [
        # 20 new, 80 reused. Full layers, K and V at L*, sparse layers, K and V of the last.
        (80, 0, 0, 100 * 0.25 + 20 * 7 + 20 * 0.25),
        (80, 8, 4, 100 * 4 + 100 * 0.25 + 28 * 3 + 28 * 0.25),
        (16, 8, 4, 36 * 4 + 36 * 0.25 + 28 * 3 + 28 * 0.25),
        (80, 80, 4, 100 * 7 + 100 * 0.25),
        (80, 80, 8, 100 * 7 + 100 * 0.25),
    ],
)
def test_the_share_is_what_a_count_by_hand_gives(
    suspects: int, recomputed: int, full_layers: int, token_layers: float
) -> None:
    share = compute_share(
        EIGHT,
        new=20,
        reused=80,
        suspects=suspects,
        recomputed=recomputed,
        full_layers=full_layers,
    )
    assert share == pytest.approx(token_layers / 800)


@given(st.data())
def test_less_to_compute_is_never_a_larger_share(data: st.DataObject) -> None:
    new, reused = data.draw(st.integers(1, 500)), data.draw(st.integers(1, 500))
    suspects = data.draw(st.integers(0, reused))
    recomputed = data.draw(st.integers(0, suspects))
    layers = data.draw(st.integers(0, 7))

    def share(suspects: int, recomputed: int) -> float:
        return compute_share(
            EIGHT,
            new=new,
            reused=reused,
            suspects=suspects,
            recomputed=recomputed,
            full_layers=layers,
        )

    assert 0 < share(suspects, recomputed) <= share(reused, recomputed) <= 1.1
    assert share(suspects, 0) <= share(suspects, recomputed) + 0.25


def test_an_empty_prompt_counts_as_computed() -> None:
    nothing = compute_share(EIGHT, new=0, reused=0, suspects=0, recomputed=0, full_layers=4)
    assert nothing == 1.0
