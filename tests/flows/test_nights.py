"""A night in figures: drift against the last one, and the rules that make a run fail."""

import pytest

from flows.config import AlertConfig
from flows.nights import Night, alerts

QUIET = AlertConfig(quarantined=None)


def night(**changes):
    values = {
        "images": 90,
        "quarantined": 10,
        "shares": {"dent": 0.02},
        "entropy": 0.1,
        "changed": 30,
        "compared": 60,
        "drift": {"dent": -0.6},
        "entropy_drift": 0.04,
    }
    return Night(**{**values, **changes})


@pytest.mark.parametrize(
    ("rule", "below", "above", "part"),
    [
        ("quarantined", 0.11, 0.09, "10.0% of the images could not be read"),
        ("drift", 0.7, 0.5, "'dent' pixels moved by -60%"),
        ("entropy", 0.05, 0.03, "rose by 0.040 bits"),
        ("changed", 0.6, 0.4, "50% of the label maps changed"),
    ],
)
def test_a_rule_fires_above_its_limit_alone(rule, below, above, part):
    assert alerts(night(), QUIET.model_copy(update={rule: below})) == []
    found = alerts(night(), QUIET.model_copy(update={rule: above}))
    assert len(found) == 1
    assert part in found[0]
    assert f"alerts.{rule} = {above:g}" in found[0]


def test_without_rules_nothing_fires():
    assert alerts(night(), QUIET) == []


def test_less_entropy_is_no_alarm():
    assert alerts(night(entropy_drift=-1.0), AlertConfig(entropy=0.01, quarantined=None)) == []
