"""When requests are routed by their segments."""

from __future__ import annotations

import pytest

from deployments.settings import load_settings
from raysparsex.errors import InvalidConfig


@pytest.mark.parametrize(
    ("policy", "replicas", "most", "by_segments"),
    [
        ("auto", "1", "", False),
        ("auto", "2", "", True),
        ("auto", "1", "4", True),
        ("segments", "1", "", True),
        ("power_of_two", "8", "", False),
        ("prefix", "1", "8", False),
    ],
)
def test_by_segments_where_there_can_be_several_replicas_or_it_is_asked_for(
    policy: str, replicas: str, most: str, by_segments: bool
) -> None:
    variables = {
        "RAYSPARSEX_ROUTING__POLICY": policy,
        "RAYSPARSEX_ENGINE__REPLICAS": replicas,
        "RAYSPARSEX_ENGINE__MAX_REPLICAS": most,
    }
    settings = load_settings(environment=variables)
    assert settings.routing.by_segments(settings.engine) is by_segments


def test_an_unknown_policy_is_refused_with_the_known_ones_named() -> None:
    with pytest.raises(InvalidConfig, match="power_of_two"):
        load_settings(environment={"RAYSPARSEX_ROUTING__POLICY": "random"})
