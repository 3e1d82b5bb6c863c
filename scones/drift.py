"""Whether what comes in still is what was expected: two statistical tests, each with its finding in words."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import binomtest, chisquare, ks_2samp


@dataclass(frozen=True)
class ClassDrift:
    """Whether the predicted classes still come in the expected proportions: one line a class, and a test of them all.

    table: index class; columns count, share, low, high (the exact 95 % interval), expected.
    """

    table: pd.DataFrame
    p_value: float
    test: str
    drifted: bool

    @property
    def sentence(self) -> str:
        """The finding in words."""
        name = (self.table["share"] - self.table["expected"]).abs().idxmax()
        line = self.table.loc[name]
        found = f"{line['share']:.0%} {name} of {self.table['count'].sum():.0f}, {line['expected']:.0%} expected"
        verdict = "The data drifted" if self.drifted else "No drift seen"
        return f"{verdict}: {found} ({self.test}, {_p_value(self.p_value)})"


@dataclass(frozen=True)
class ConfidenceShift:
    """Whether the confidences still are spread as in the reference.

    gap: the largest difference between the two cumulative shares, 0 to 1; gap_at: the confidence where it is.
    reference_median, median: of the confidences, 0 to 1.
    """

    gap: float
    gap_at: float
    reference_median: float
    median: float
    p_value: float
    drifted: bool

    @property
    def sentence(self) -> str:
        """The finding in words."""
        verdict = "The confidence drifted" if self.drifted else "No drift of the confidence seen"
        found = f"median {self.median:.3f}, {self.reference_median:.3f} in the reference"
        return f"{verdict}: {found} (Kolmogorov-Smirnov test, {_p_value(self.p_value)})"


def class_drift(frame: pd.DataFrame, expected: Mapping[str, float], alpha: float = 0.05) -> ClassDrift:
    """Tests the predicted classes against the expected proportions (they add up to 1).

    Two classes: the exact binomial test; more: chi-square. Drifted means p < alpha: a share alpha of healthy data, by
    chance, is called drifted. Raises ValueError for proportions that make no sense and for a class without one.
    """
    require(frame, "predicted")
    if not np.isclose(sum(expected.values()), 1) or min(expected.values()) <= 0 or len(expected) < 2:
        raise ValueError(f"The expected proportions must be above 0 and add up to 1; these are {dict(expected)}")
    unexpected = set(frame["predicted"]) - set(expected)
    if unexpected:
        raise ValueError(f"No proportion is expected for {', '.join(sorted(unexpected))}; name every class")
    counts = frame["predicted"].value_counts().reindex(list(expected), fill_value=0)
    total = int(counts.sum())
    intervals = [binomtest(int(count), total).proportion_ci(method="exact") for count in counts]
    table = pd.DataFrame({"count": counts, "share": counts / total, "expected": pd.Series(expected)})
    table["low"] = [interval.low for interval in intervals]
    table["high"] = [interval.high for interval in intervals]
    if len(expected) == 2:
        test, p_value = "exact binomial test", binomtest(int(counts.iloc[0]), total, table["expected"].iloc[0]).pvalue
    else:
        test, p_value = "chi-square test", chisquare(counts, table["expected"] * total).pvalue
    return ClassDrift(table, float(p_value), test, bool(p_value < alpha))


def confidence_shift(reference: pd.DataFrame, frame: pd.DataFrame, alpha: float = 0.05) -> ConfidenceShift:
    """Tests the confidences of frame against those of the reference, frames of other records, with no labels needed.

    The two-sample Kolmogorov-Smirnov test: it asks whether one and the same spread can have given both, whatever its
    shape. Drifted means p < alpha, as in class_drift.
    """
    require(reference, "confidence")
    require(frame, "confidence")
    found = ks_2samp(reference["confidence"], frame["confidence"])
    return ConfidenceShift(
        gap=float(found.statistic),
        gap_at=float(found.statistic_location),
        reference_median=float(reference["confidence"].median()),
        median=float(frame["confidence"].median()),
        p_value=float(found.pvalue),
        drifted=bool(found.pvalue < alpha),
    )


def require(frame: pd.DataFrame, *columns: str) -> None:
    """Raises ValueError for a frame that lacks one of these columns or has no records."""
    missing = [column for column in columns if column not in frame]
    if missing:
        raise ValueError(f"The frame has no column {', '.join(missing)}; it has {', '.join(map(str, frame.columns))}")
    if frame.empty:
        raise ValueError("There are no records: captured data arrive some minutes after the inferences")


def _p_value(p_value: float) -> str:
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"
