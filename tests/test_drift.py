"""A drift is called one when it is there, and seldom when it is not; the figures are those of other programs."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import beta, binom

from scones.drift import class_drift, confidence_shift

EVEN = {"bicycle": 0.5, "motorcycle": 0.5}


def classes(*predicted: tuple[str, int]) -> pd.DataFrame:
    return pd.DataFrame({"predicted": [name for name, count in predicted for _ in range(count)]})


def confidences(values) -> pd.DataFrame:
    return pd.DataFrame({"confidence": np.array(values, float)})


def test_classes_as_expected_are_no_drift():
    drift = class_drift(classes(("bicycle", 54), ("motorcycle", 46)), EVEN)
    assert not drift.drifted
    assert drift.p_value == pytest.approx(0.4841, abs=1e-4)  # R: binom.test(54, 100)
    assert drift.table.loc["bicycle", ["low", "high"]].tolist() == pytest.approx([0.4374, 0.6402], abs=1e-4)
    assert drift.sentence == "No drift seen: 54% bicycle of 100, 50% expected (exact binomial test, p = 0.484)"


def test_classes_far_from_expected_are_drift():
    drift = class_drift(classes(("bicycle", 80), ("motorcycle", 20)), EVEN)
    assert drift.drifted
    assert drift.sentence == "The data drifted: 80% bicycle of 100, 50% expected (exact binomial test, p < 0.001)"


def test_a_class_that_never_comes_counts_as_none():
    drift = class_drift(classes(("bicycle", 20)), EVEN)
    assert drift.drifted and drift.table["count"].tolist() == [20, 0]


def test_three_classes_are_tested_by_chi_square():
    frame = classes(("car", 30), ("bicycle", 30), ("motorcycle", 60))
    drift = class_drift(frame, dict.fromkeys(("car", "bicycle", "motorcycle"), 1 / 3))
    assert drift.p_value == pytest.approx(np.exp(-7.5))  # chi-square 15 on 2 degrees of freedom
    assert "chi-square test" in drift.sentence and "50% motorcycle" in drift.sentence


@pytest.mark.parametrize(
    "expected", [{"bicycle": 1.0}, {"bicycle": 0.5, "motorcycle": 0.6}, {"motorcycle": 0.4, "car": 0.6}]
)
def test_proportions_that_make_no_sense_are_refused(expected):
    with pytest.raises(ValueError, match=r"add up to 1|No proportion is expected for bicycle"):
        class_drift(classes(("bicycle", 1)), expected)


def test_healthy_classes_are_called_drifted_no_more_often_than_alpha_says():
    called = [
        class_drift(classes(("bicycle", count), ("motorcycle", 100 - count)), EVEN).drifted for count in range(101)
    ]
    assert 0 < binom.pmf(np.arange(101), 100, 0.5)[called].sum() <= 0.05


@pytest.mark.parametrize(("count", "total"), [(0, 20), (20, 20), (7, 31)])
def test_the_interval_is_that_of_clopper_and_pearson(count, total):
    table = class_drift(classes(("bicycle", count), ("motorcycle", total - count)), EVEN).table
    low = beta.ppf(0.025, count, total - count + 1) if count else 0
    high = beta.ppf(0.975, count + 1, total - count) if count < total else 1
    assert table.loc["bicycle", ["low", "high"]].tolist() == pytest.approx([low, high])


def test_confidences_spread_alike_are_no_drift():
    shift = confidence_shift(confidences(np.linspace(0.5, 1, 200)), confidences(np.linspace(0.5, 1, 50)))
    assert not shift.drifted and shift.p_value > 0.99
    assert shift.sentence == (
        "No drift of the confidence seen: median 0.750, 0.750 in the reference (Kolmogorov-Smirnov test, p = 1.000)"
    )


def test_a_confidence_that_fell_is_drift():
    shift = confidence_shift(confidences(np.linspace(0.9, 1, 100)), confidences(np.linspace(0.5, 1, 100)))
    assert shift.drifted
    assert shift.gap == pytest.approx(0.8) and shift.gap_at == pytest.approx(0.9, abs=0.01)
    assert shift.sentence == (
        "The confidence drifted: median 0.750, 0.950 in the reference (Kolmogorov-Smirnov test, p < 0.001)"
    )


def test_the_p_value_is_the_share_of_all_ways_to_deal_the_records_that_lie_as_far_apart():
    # three and three that do not overlap: 2 of the 20 ways to choose three of six
    shift = confidence_shift(confidences([0.6, 0.7, 0.8]), confidences([0.9, 0.95, 0.99]))
    assert shift.gap == 1 and shift.p_value == pytest.approx(2 / 20) and not shift.drifted


def test_a_spread_of_another_shape_with_the_same_median_is_drift():
    shift = confidence_shift(confidences(np.linspace(0.74, 0.76, 100)), confidences(np.linspace(0.5, 1, 100)))
    assert shift.drifted and shift.median == pytest.approx(shift.reference_median)


def test_healthy_confidences_are_called_drifted_about_as_often_as_alpha_says():
    rng = np.random.default_rng(0)
    pairs = [(confidences(rng.beta(5, 1, 100)), confidences(rng.beta(5, 1, 60))) for _ in range(200)]
    three_standard_errors = 3 * np.sqrt(0.05 * 0.95 / len(pairs))
    assert abs(np.mean([confidence_shift(*pair).drifted for pair in pairs]) - 0.05) < three_standard_errors


def test_nothing_is_said_of_no_records():
    with pytest.raises(ValueError, match="There are no records"):
        confidence_shift(confidences([0.9]), confidences([]))
    with pytest.raises(ValueError, match="There are no records"):
        class_drift(classes(), EVEN)
    with pytest.raises(ValueError, match="has no column confidence; it has predicted"):
        confidence_shift(classes(("bicycle", 1)), confidences([0.9]))
