"""Context sensitivity: learned from changes that were seen, told before a change is tried."""

from __future__ import annotations

import pytest
import torch

from raysparsex.sparse.sensitivity import (
    BINS,
    FEWEST_CHANGED,
    FIRST_FIT,
    SAMPLE,
    WIDEST,
    ContextSensitivity,
    explored,
    feature_layers,
    prominence,
    raised,
    sampled,
    suspects,
)

FEATURES = 12


def world(count: int, seed: int, noise: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens whose change is a linear function of their features, all but the noise."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(count, FEATURES, generator=generator)
    change = features @ torch.linspace(-1, 1, FEATURES) + 3
    return features, change + noise * torch.randn(count, generator=generator)


def taught(noise: float = 0.0, prefills: int = 80) -> ContextSensitivity:
    sensitivity = ContextSensitivity(FEATURES)
    for seed in range(prefills):
        features, change = world(200, seed, noise)
        predicted = sensitivity.predict(features)
        if predicted is not None:
            sensitivity.place(predicted, change)
        sensitivity.learn(features, change)
    return sensitivity


def test_nothing_is_narrowed_before_enough_was_seen() -> None:
    sensitivity = ContextSensitivity(FEATURES)
    assert sensitivity.predict(torch.zeros(3, FEATURES)) is None
    assert sensitivity.share() == 1.0
    features, change = world(FIRST_FIT - 1, 0)
    sensitivity.learn(features, change)
    assert sensitivity.predict(features) is None
    sensitivity.learn(*world(1, 1))
    assert sensitivity.predict(features) is not None
    assert sensitivity.share() == 1.0  # fitted, but not yet seen to be right


def test_changes_are_foretold_for_tokens_never_seen() -> None:
    features, change = world(500, 99)
    predicted = taught().predict(features)
    assert predicted is not None
    torch.testing.assert_close(predicted, change, rtol=0.01, atol=0.01)


def test_a_good_fit_needs_few_suspects_and_a_useless_one_nearly_all() -> None:
    assert taught(noise=0.0).share() == 0.2
    assert 0.2 < taught(noise=1.5).share() < 0.9
    assert taught(noise=100.0, prefills=100).share() > 0.85


def test_the_share_found_holds_on_tokens_never_seen() -> None:
    sensitivity = taught(noise=1.5, prefills=200)
    features, change = world(20_000, 7777, noise=1.5)
    predicted = sensitivity.predict(features)
    assert predicted is not None
    chosen = suspects(predicted, sensitivity.share())
    changed = change.topk(2000).indices
    assert chosen[changed].float().mean() > 0.88


def test_what_was_learned_survives_in_a_profile() -> None:
    one = taught(noise=1.0)
    fitted = one.fitted
    assert fitted is not None
    assert sum(fitted.places) >= FEWEST_CHANGED
    assert len(fitted.places) == BINS
    again = ContextSensitivity(FEATURES, fitted)
    features, _ = world(50, 5)
    first, second = one.predict(features), again.predict(features)
    assert first is not None
    assert second is not None
    torch.testing.assert_close(first, second)
    assert again.share() == one.share()


def test_many_features_are_projected_and_still_foretell() -> None:
    width = WIDEST + 300
    sensitivity = ContextSensitivity(width)
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(width, generator=generator) / width**0.5
    for _ in range(20):
        features = torch.randn(512, width, generator=generator)
        sensitivity.learn(features, features @ direction)
    features = torch.randn(300, width, generator=generator)
    predicted = sensitivity.predict(features)
    assert predicted is not None
    assert torch.corrcoef(torch.stack((predicted, features @ direction)))[0, 1] > 0.8


def test_a_token_that_changed_before_is_suspect_whatever_is_foretold() -> None:
    seen = torch.tensor([float("nan"), 5.0, 0.1])
    predicted = torch.tensor([1.0, 1.0, 1.0])
    assert raised(predicted, seen).tolist() == [1.0, 5.0, 1.0]


def test_a_token_of_which_nothing_is_known_is_never_left_out() -> None:
    seen = torch.tensor([float("nan"), 5.0, 0.1, float("nan")])
    sensitivity = raised(None, seen)
    assert suspects(sensitivity, 0.25).tolist() == [True, False, False, True]
    assert suspects(raised(None, torch.full((4,), float("nan"))), 0.0).all()


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_suspects_are_the_most_sensitive(share: float) -> None:
    sensitivity = torch.randperm(100, generator=torch.Generator().manual_seed(4)).float()
    chosen = suspects(sensitivity, share)
    assert sorted(sensitivity[chosen].tolist()) == list(range(100 - int(100 * share), 100))


def test_exploration_reaches_every_token_in_time() -> None:
    ever = torch.zeros(200, dtype=torch.bool)
    for seed in range(400):
        chosen = explored(200, 0.02, seed)
        assert int(chosen.sum()) < 20
        ever |= chosen
    assert ever.all()
    assert explored(200, 0.02, 3).equal(explored(200, 0.02, 3))


def test_few_tokens_of_a_prefill_are_learned_from_and_not_always_the_first() -> None:
    assert sampled(10, 0).tolist() == list(range(10))
    rows = sampled(10_000, 0)
    assert len(rows) == SAMPLE
    assert rows.equal(sampled(10_000, 0))
    assert int(rows[-1]) > 9_000


def test_features_come_from_layers_spread_over_the_depth() -> None:
    assert feature_layers(8) == (1, 3, 5, 7)
    assert feature_layers(2) == (0, 1)
    assert feature_layers(32) == (4, 12, 20, 28)


def test_prominence_is_the_place_among_all_reused_tokens_whatever_the_scale() -> None:
    change = torch.arange(100.0)
    places = prominence(change, 100)
    assert places[-1] == 1
    assert places[:70].eq(0).all()
    assert (places[70:].diff() > 0).all()
    torch.testing.assert_close(prominence(change * 50, 100), places)


def test_tokens_that_were_not_computed_are_taken_to_have_changed_less() -> None:
    assert prominence(torch.tensor([3.0, 9.0]), 200).min() > 0.9


def test_where_nothing_changed_nothing_is_prominent() -> None:
    assert prominence(torch.zeros(50), 50).eq(0).all()
