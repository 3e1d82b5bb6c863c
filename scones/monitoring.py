"""What an endpoint's captured data say: one DataFrame of every record, and the plots of it.

Every plot takes the frame and returns a matplotlib Figure; note is a line printed on top of it, for what a reader must
not miss. Figures are 8 inches wide at 100 dots an inch, in the Okabe-Ito colours, which colour-blind readers can tell
apart.
"""

import io
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from PIL import Image

from scones.captures import read_captures
from scones.drift import class_drift, confidence_shift, require

__all__ = [
    "calibrate",
    "class_balance",
    "class_drift",
    "confidence_by_class",
    "confidence_drift",
    "confidence_over_time",
    "confidence_shift",
    "inference_rate",
    "read_captures",
    "reliability_diagram",
    "sample_predictions",
    "sweep_thresholds",
    "threshold_sweep",
]

BLUE, VERMILLION, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
PALETTE = (BLUE, ORANGE, GREEN, "#CC79A7", "#56B4E9", VERMILLION, "#F0E442")
NOTE_INCHES = 0.36


def confidence_over_time(frame: pd.DataFrame, threshold: float = 0.9, note: str | None = None) -> Figure:
    """One point an inference, the threshold a line; those below it in another colour and shape, their share on top."""
    require(frame, "time", "confidence")
    below = frame["confidence"] < threshold
    figure, axes = _figure(note)
    for chosen, colour, marker, name in ((~below, BLUE, "o", "at or above"), (below, VERMILLION, "v", "below")):
        points = frame[chosen]
        label = f"{name} the threshold ({len(points)})"
        axes.scatter(points["time"], points["confidence"], c=colour, marker=marker, s=34, alpha=0.8, label=label)
    axes.axhline(threshold, color="black", linestyle="--", linewidth=1.2, label=f"threshold {threshold:g}")
    axes.set(xlabel="time (UTC)", ylabel="confidence", ylim=(min(0.45, frame["confidence"].min() - 0.05), 1.03))
    axes.set_title(f"{below.mean():.0%} of {len(frame)} inferences are below the threshold of {threshold:g}")
    _time_axis(axes, frame["time"])
    figure.legend(loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    return figure


def sample_predictions(
    frame: pd.DataFrame, which: str = "most confident", count: int = 4, threshold: float = 0.9, note: str | None = None
) -> Figure:
    """The images of count records, upscaled, with class and confidence.

    which is "most confident", "least confident" or "below the threshold" (the last ones, when there are more).
    """
    require(frame, "image", "predicted", "confidence")
    pictured = frame[frame["image"].notna()].drop_duplicates("image")
    choices = {
        "most confident": pictured.nlargest(count, "confidence"),
        "least confident": pictured.nsmallest(count, "confidence"),
        "below the threshold": pictured[pictured["confidence"] < threshold].tail(count),
    }
    if which not in choices:
        raise ValueError(f"{which!r} is no choice of samples; it is one of {', '.join(choices)}")
    chosen = choices[which]
    if chosen.empty:
        raise ValueError(f"None of the {len(frame)} records is {which} with a captured image: there is nothing to show")
    columns = min(len(chosen), 4)
    rows = -(-len(chosen) // columns)
    figure = _blank((8, 2.3 * rows + 0.4), note)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, record in zip(grid, chosen.itertuples(), strict=False):
        image = Image.open(io.BytesIO(record.image)).convert("RGB")
        axes.imshow(image.resize((256, 256), Image.Resampling.NEAREST), interpolation="nearest")
        colour = VERMILLION if record.confidence < threshold else "black"
        axes.set_title(f"{record.predicted}\n{_percent(record.confidence)}", fontsize=11, color=colour)
    figure.supxlabel(f"{which}: {len(chosen)} of {len(frame)} inferences", fontsize=10)
    return figure


def _percent(share: float) -> str:
    """Rounded down, so that nothing below a threshold reads as if it reached it."""
    return f"{math.floor(share * 1000 + 1e-9) / 10:.1f}%"


def class_balance(frame: pd.DataFrame, expected: Mapping[str, float], note: str | None = None) -> Figure:
    """The proportion of each predicted class with its 95 % interval, the expected one marked, the test in the title."""
    drift = class_drift(frame, expected)
    table = drift.table
    figure, axes = _figure(note, height=4)
    places = np.arange(len(table))
    errors = np.clip([table["share"] - table["low"], table["high"] - table["share"]], 0, None)
    colours = [PALETTE[place % len(PALETTE)] for place in places]
    axes.bar(places, table["share"], 0.55, color=colours, yerr=errors, capsize=8, error_kw={"elinewidth": 1.5})
    axes.hlines(table["expected"], places - 0.38, places + 0.38, colors="black", linestyles="--", label="expected")
    for place, (share, count) in enumerate(zip(table["share"], table["count"], strict=True)):
        axes.text(
            place,
            0.02,
            f"{share:.0%} ({count:.0f})",
            ha="center",
            va="bottom",
            fontsize=11,
            fontweight="bold",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 2},
        )
    axes.set_xticks(places, table.index)
    axes.set(ylabel="share of the predictions", ylim=(0, min(1.05, table[["high", "expected"]].to_numpy().max() + 0.1)))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_title(drift.sentence.replace(" (", "\n("), color=VERMILLION if drift.drifted else "black")
    figure.legend(loc="outside lower center", fontsize=9, frameon=False)
    return figure


def confidence_drift(reference: pd.DataFrame, frame: pd.DataFrame, note: str | None = None) -> Figure:
    """The confidences of a reference and of what came since: over time, and as cumulative shares; the test on top.

    In the lower panel the two lines would lie on each other without drift; the largest gap between them is marked.
    """
    shift = confidence_shift(reference, frame)
    require(reference, "time")
    require(frame, "time")
    figure = _blank((8, 6.4), note)
    over_time, shares = figure.subplots(2, 1, height_ratios=[1.15, 1])
    lowest = min(0.5, reference["confidence"].min(), frame["confidence"].min())
    for part, colour, marker, line, name in (
        (reference, BLUE, "o", "-", "reference"),
        (frame, VERMILLION, "v", "-.", "since then"),
    ):
        label = f"{name} ({len(part)})"
        over_time.scatter(part["time"], part["confidence"], c=colour, marker=marker, s=30, alpha=0.7, label=label)
        shares.ecdf(part["confidence"], color=colour, linestyle=line, linewidth=2)
    heights = [(part["confidence"] <= shift.gap_at).mean() for part in (reference, frame)]
    shares.vlines(shift.gap_at, *sorted(heights), color="black", linestyle="--", linewidth=1.4)
    told = f"largest gap {shift.gap:.2f}, at a confidence of {shift.gap_at:.3f}"
    shares.text(0.02, 0.9, told, transform=shares.transAxes, va="center", bbox={"fc": "white", "ec": "none", "pad": 2})
    over_time.set(xlabel="time (UTC)", ylabel="confidence", ylim=(lowest - 0.03, 1.03))
    _time_axis(over_time, pd.concat([reference["time"], frame["time"]]))
    shares.set(xlabel="confidence", ylabel="share at or below", xlim=(lowest - 0.01, 1.01), ylim=(0, 1.03))
    shares.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    for axes in (over_time, shares):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    over_time.set_title(shift.sentence.replace(" (", "\n("), color=VERMILLION if shift.drifted else "black")
    figure.legend(loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    return figure


def threshold_sweep(labelled: pd.DataFrame, threshold: float = 0.9, note: str | None = None) -> Figure:
    """For each threshold the share of images that pass and the accuracy among those; the chosen one is marked.

    labelled is a frame with a column label, the true class of each record.
    """
    require(labelled, "label", "predicted", "confidence")
    sweep = sweep_thresholds(labelled)
    figure, axes = _figure(note)
    axes.plot(sweep["threshold"], sweep["passed"], color=BLUE, label="share that passes", linewidth=2)
    axes.plot(
        sweep["threshold"],
        sweep["accuracy"],
        color=VERMILLION,
        linestyle="-.",
        linewidth=2,
        label="accuracy among those",
    )
    chosen = sweep_thresholds(labelled, [threshold]).iloc[0]
    axes.axvline(threshold, color="black", linestyle="--", linewidth=1.2, label=f"threshold {threshold:g}")
    axes.scatter([threshold] * 2, [chosen["passed"], chosen["accuracy"]], c=[BLUE, VERMILLION], zorder=3, s=45)
    accuracy = "none to be right about" if chosen["passed"] == 0 else f"{chosen['accuracy']:.1%} of those are right"
    axes.set_title(f"At {threshold:g}: {chosen['passed']:.0%} of {len(labelled)} images pass, {accuracy}")
    axes.set(xlabel="threshold", ylabel="share", ylim=(0, 1.03))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    figure.legend(loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    return figure


def sweep_thresholds(labelled: pd.DataFrame, thresholds: Sequence[float] | None = None) -> pd.DataFrame:
    """One line a threshold: threshold, passed (share), accuracy (among those; NaN where none passes)."""
    thresholds = np.round(np.arange(0.5, 1.0, 0.005), 3).tolist() if thresholds is None else thresholds
    right = (labelled["predicted"] == labelled["label"]).to_numpy()
    passes = [(labelled["confidence"] >= threshold).to_numpy() for threshold in thresholds]
    accuracy = [right[chosen].mean() if chosen.any() else np.nan for chosen in passes]
    return pd.DataFrame({"threshold": thresholds, "passed": [chosen.mean() for chosen in passes], "accuracy": accuracy})


def calibrate(labelled: pd.DataFrame, bins: int = 10) -> tuple[pd.DataFrame, float]:
    """Bins of equal width over the confidence -> confidence (mean), accuracy, count; and expected calibration error.

    That error is the mean of |accuracy - confidence| over the bins, each weighted by its count (Guo et al., 2017).
    """
    require(labelled, "label", "predicted", "confidence")
    right = labelled["predicted"] == labelled["label"]
    place = np.minimum((labelled["confidence"] * bins).astype(int), bins - 1)
    grouped = pd.DataFrame({"confidence": labelled["confidence"], "accuracy": right}).groupby(place)
    table = grouped.mean().assign(count=grouped.size())
    gaps = (table["accuracy"] - table["confidence"]).abs()
    return table, float((gaps * table["count"]).sum() / len(labelled))


def reliability_diagram(labelled: pd.DataFrame, bins: int = 10, note: str | None = None) -> Figure:
    """Accuracy over confidence in bins: on the diagonal the model is right as often as it says."""
    table, error = calibrate(labelled, bins)
    figure, axes = _figure(note, height=4.8)
    lowest = max(0, table["confidence"].min() - 0.1)
    axes.plot([lowest, 1], [lowest, 1], color="black", linestyle="--", linewidth=1.2, label="perfectly calibrated")
    axes.plot(table["confidence"], table["accuracy"], color=BLUE, marker="o", linewidth=2, label="the model")
    for line in table.itertuples():
        axes.annotate(
            f"{line.count}", (line.confidence, line.accuracy), (0, 9), textcoords="offset points", ha="center"
        )
    axes.set(xlabel="confidence (mean of the bin)", ylabel="accuracy", ylim=(0, 1.12), xlim=(lowest, 1.02))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_title(
        f"Expected calibration error {error:.3f} over {len(labelled)} labelled images (counts at the points)"
    )
    figure.legend(loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    return figure


def confidence_by_class(frame: pd.DataFrame, threshold: float = 0.9, note: str | None = None) -> Figure:
    """A histogram of the confidence for each predicted class, the threshold as a line."""
    require(frame, "predicted", "confidence")
    names = sorted(frame["predicted"].unique())
    figure = _blank((8, 1.9 * len(names) + 0.8), note)
    grid = figure.subplots(len(names), 1, sharex=True, sharey=True, squeeze=False).ravel()
    edges = np.linspace(min(0.5, frame["confidence"].min()), 1, 26)
    for place, (axes, name) in enumerate(zip(grid, names, strict=True)):
        confidence = frame.loc[frame["predicted"] == name, "confidence"]
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.hist(confidence, edges, color=PALETTE[place % len(PALETTE)])
        axes.axvline(threshold, color="black", linestyle="--", linewidth=1.2)
        axes.set_title(
            f"{name}: {len(confidence)}, {(confidence < threshold).mean():.0%} below {threshold:g}", fontsize=11
        )
        axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("confidence", fontsize=10)
    figure.supylabel("inferences", fontsize=10)
    return figure


def inference_rate(frame: pd.DataFrame, latency: pd.Series | None = None, note: str | None = None) -> Figure:
    """Inferences a minute, and below them, where it is given, the latency in milliseconds over time.

    Those of less than two minutes are counted by the second, so that there is a course to see.
    latency is a series of milliseconds with a time index (the endpoint's ModelLatency or the caller's own clock).
    """
    require(frame, "time")
    is_short = frame["time"].max() - frame["time"].min() < pd.Timedelta(minutes=2)
    step, unit = (pd.Timedelta(seconds=1), "second") if is_short else (pd.Timedelta(minutes=1), "minute")
    counts = frame.set_index("time").resample(step).size()
    figure = _blank((8, 3.6 if latency is None else 5.6), note)
    grid = figure.subplots(1 if latency is None else 2, 1, sharex=True, squeeze=False).ravel()
    grid[0].bar(counts.index, counts, step, align="edge", color=BLUE, edgecolor="white", linewidth=0.5)
    grid[0].set_title(f"{len(frame)} inferences, {counts.max()} in the busiest {unit}")
    grid[0].set_ylabel(f"inferences a {unit}")
    grid[0].yaxis.set_major_locator(MaxNLocator(integer=True))
    if latency is not None:
        median, high = latency.quantile([0.5, 0.95])
        grid[1].scatter(latency.index, latency, c=ORANGE, s=14, alpha=0.7)
        grid[1].axhline(median, color="black", linestyle="--", linewidth=1.2)
        grid[1].set_title(f"Latency: median {median:.0f} ms (line), 95 % within {high:.0f} ms")
        grid[1].set(ylabel="milliseconds", ylim=(0, None))
    grid[-1].set_xlabel("time (UTC)")
    for axes in grid:
        axes.spines[["top", "right"]].set_visible(False)
    _time_axis(grid[-1], frame["time"])
    return figure


def _figure(note: str | None, height: float = 4.5) -> tuple[Figure, Axes]:
    figure = _blank((8, height), note)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    return figure, axes


def _blank(size: tuple[float, float], note: str | None) -> Figure:
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    room = NOTE_INCHES / size[1] if note else 0
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08, rect=(0, 0, 1, 1 - room))
    if note:
        style = {"color": "white", "backgroundcolor": VERMILLION, "fontweight": "bold", "fontsize": 10}
        figure.text(0.5, 1 - room / 2, note, ha="center", va="center", **style)
    return figure


def _time_axis(axes: Axes, times: pd.Series) -> None:
    """Ticks in UTC; calls of one moment get a minute to stand in."""
    if times.max() - times.min() < pd.Timedelta(seconds=2):
        axes.set_xlim(times.min() - pd.Timedelta(seconds=30), times.max() + pd.Timedelta(seconds=30))
    locator = AutoDateLocator(maxticks=8)
    axes.xaxis.set_major_locator(locator)
    formatter = ConciseDateFormatter(locator)
    formatter.formats[5] = formatter.zero_formats[5] = "%H:%M:%S"
    formatter.offset_formats[4:] = ["%Y-%b-%d"] * 2
    axes.xaxis.set_major_formatter(formatter)
