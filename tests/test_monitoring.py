"""Captured data become one frame that misses no record, and the plots show what the frame holds."""

import base64
import io
import json
import logging

import boto3
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from moto import mock_aws
from PIL import Image

from scones import monitoring
from scones.captures import read_captures

FOLDER = "data_capture/scones-unlimited-classifier/AllTraffic"
URI = "s3://captures/data_capture"
EVEN = {"bicycle": 0.5, "motorcycle": 0.5}


@pytest.fixture
def s3(monkeypatch):
    """An empty bucket called captures; the keys that were read are listed in s3.read."""
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        client = boto3.client("s3", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
        client.create_bucket(Bucket="captures")
        client.read = []
        get = client.get_object
        client.get_object = lambda **call: client.read.append(call["Key"]) or get(**call)
        yield client


def record(answer="[0.8, 0.2]", encoding="JSON", time="2025-10-04T08:44:11Z", image=b"an image"):
    if encoding == "BASE64":
        answer = base64.b64encode(answer.encode()).decode()
    sides = {"endpointOutput": {"mode": "OUTPUT", "data": answer, "encoding": encoding}}
    if image is not None:
        sides["endpointInput"] = {"mode": "INPUT", "data": base64.b64encode(image).decode(), "encoding": "BASE64"}
    return json.dumps({"captureData": sides, "eventMetadata": {"inferenceTime": time}, "eventVersion": "0"})


def put(s3, *lines, name="08/44-11-000-x.jsonl"):
    key = f"{FOLDER}/2025/10/04/{name}"
    s3.put_object(Bucket="captures", Key=key, Body="\n".join(lines))
    return key


def test_every_record_of_every_file_is_in_the_frame_in_the_order_of_time(s3):
    late = put(s3, record("[0.1, 0.9]", time="2025-10-04T09:00:00Z"), name="09/00-00-000-y.jsonl")
    early = put(s3, record(), record("[0.95, 0.05]", time="2025-10-04T08:44:12Z"), "")
    frame, problems = read_captures(s3, URI)
    assert problems == []
    assert frame["key"].tolist() == [early, early, late]
    assert frame["predicted"].tolist() == ["bicycle", "bicycle", "motorcycle"]
    assert frame["confidence"].tolist() == [0.8, 0.95, 0.9]
    assert frame["threshold_met"].tolist() == [False, True, True]
    assert frame["probabilities"][2] == [0.1, 0.9]
    assert frame["image"].tolist() == [b"an image"] * 3
    assert set(frame["endpoint"]) == {"scones-unlimited-classifier"} and set(frame["variant"]) == {"AllTraffic"}
    assert frame["time"][2] == pd.Timestamp("2025-10-04 09:00", tz="UTC")


@pytest.mark.parametrize(
    ("answer", "encoding"),
    [
        ("[0.25, 0.75]", "JSON"),
        ("0.25,0.75", "CSV"),
        ("[0.25, 0.75]", "BASE64"),
        ('{"prediction": [0.25, 0.75]}', "BASE64"),
    ],
)
def test_an_answer_is_read_in_every_encoding_of_sagemaker(s3, answer, encoding):
    put(s3, record(answer, encoding))
    frame, _ = read_captures(s3, URI)
    assert frame["probabilities"].tolist() == [[0.25, 0.75]]


def test_a_time_of_another_zone_becomes_utc_and_a_record_without_image_is_kept(s3):
    put(s3, record(time="2025-10-04T10:44:11+02:00", image=None))
    frame, problems = read_captures(s3, URI)
    assert frame["time"][0] == pd.Timestamp("2025-10-04 08:44:11", tz="UTC")
    assert frame["image"][0] is None and problems == []


def test_only_new_files_are_read_the_second_time(s3):
    first = put(s3, record())
    earlier, _ = read_captures(s3, URI)
    second = put(s3, record("[0.1, 0.9]"), name="09/00-00-000-y.jsonl")
    frame, _ = read_captures(s3, URI, earlier=earlier)
    assert s3.read == [first, second]
    assert frame["key"].tolist() == [first, second]


def test_the_threshold_of_the_last_call_counts_for_earlier_rows_too(s3):
    put(s3, record())
    earlier, _ = read_captures(s3, URI, threshold=0.9)
    frame, _ = read_captures(s3, URI, threshold=0.7, earlier=earlier)
    assert not earlier["threshold_met"][0] and frame["threshold_met"][0]


def test_half_a_line_is_named_and_costs_no_other_record(s3, caplog):
    key = put(s3, record(), record()[:70], record("[0.1, 0.9]"))
    with caplog.at_level(logging.WARNING):
        frame, problems = read_captures(s3, URI)
    assert len(frame) == 2
    assert len(problems) == 1 and problems[0].startswith(f"s3://captures/{key} line 2 is no captured record")
    assert problems[0] in caplog.text


def test_a_foreign_file_is_named_and_not_read(s3):
    s3.put_object(Bucket="captures", Key="data_capture/notes.txt", Body=b"\xff\x00")
    put(s3, record())
    frame, problems = read_captures(s3, URI)
    assert len(frame) == 1
    assert problems == ["s3://captures/data_capture/notes.txt is no capture file by its name"]
    assert "data_capture/notes.txt" not in s3.read


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        "null",
        "3",
        "{}",
        "\ufeff",
        "[" * 5000,
        '{"captureData": []}',
        record("[0.8]"),
        record("[NaN, 0.2]"),
        record("[true, 0.2]"),
        record("[1.2, -0.2]"),
        record("0.8;0.2", "CSV"),
        record("text", "BASE64"),
        record('"ab"'),
        record(time="yesterday evening"),
        record(time=None),
        record("[0.8, 0.2]", "ROT13"),
        record('{"prediction": {"a": 1}}'),
        record('{"prediction": {"0": 1, "1": 2}}'),
    ],
)
def test_any_other_line_is_named_and_skipped(s3, line):
    put(s3, line, record())
    frame, problems = read_captures(s3, URI)
    assert len(frame) == 1 and len(problems) == 1 and "line 1 is no captured record" in problems[0]


def test_any_damage_to_a_line_ends_in_a_record_or_a_named_problem(s3):
    rng = np.random.default_rng(0)
    pieces = [
        b"[",
        b"]",
        b"{",
        b"null",
        b"1e999",
        b"NaN",
        b"-",
        b"9" * 400,
        b'"',
        b"\\ud800",
        b"\xff",
        b"\x00",
        b"0.5",
        b"",
    ]
    lines = []
    for _ in range(1000):
        line = record().encode()
        for _ in range(rng.integers(1, 4)):
            start = rng.integers(len(line))
            line = line[:start] + pieces[rng.integers(len(pieces))] + line[start + rng.integers(0, 9) :]
        lines.append(line)
    s3.put_object(Bucket="captures", Key=f"{FOLDER}/2025/10/04/08/44-11-000-x.jsonl", Body=b"\n".join(lines))
    frame, problems = read_captures(s3, URI)
    assert len(frame) + len(problems) == 1000 and len(frame) > 0
    assert frame["confidence"].between(0, 1).all() and frame["time"].notna().all()


def test_nothing_captured_yet_is_an_empty_frame_that_no_plot_pretends_to_draw(s3):
    frame, problems = read_captures(s3, URI)
    assert frame.empty and problems == [] and "confidence" in frame
    with pytest.raises(ValueError, match="There are no records"):
        monitoring.confidence_over_time(frame)


@pytest.mark.parametrize("uri", ["captures/data_capture", "s3://", "https://captures/x"])
def test_what_is_no_s3_location_is_refused(s3, uri):
    with pytest.raises(ValueError, match="must read s3://bucket/prefix"):
        read_captures(s3, uri)


def frame_of(confidences, predicted=None, labels=None, minutes=10):
    """A frame of bicycles unless told otherwise; image number i is plain with the red value i."""
    count = len(confidences)
    images = []
    for number in range(count):
        file = io.BytesIO()
        Image.new("RGB", (32, 32), (number % 256, 0, 0)).save(file, "png")
        images.append(file.getvalue())
    frame = pd.DataFrame(
        {
            "time": pd.date_range("2025-10-04 08:00", periods=count, freq=f"{minutes}min", tz="UTC"),
            "image": images,
            "predicted": predicted or ["bicycle"] * count,
            "confidence": np.array(confidences, float),
        }
    )
    if labels:
        frame["label"] = labels
    return frame


def texts(figure) -> str:
    """Every text of a figure, in one."""
    import matplotlib.text

    figure.draw_without_rendering()
    return "\n".join(found.get_text() for found in figure.findobj(matplotlib.text.Text))


def test_points_below_the_threshold_have_another_colour_and_shape_and_their_share_is_told():
    figure = monitoring.confidence_over_time(frame_of([0.99, 0.6, 0.9, 0.7, 0.95]), 0.9)
    above, below = figure.axes[0].collections
    assert sorted(above.get_offsets()[:, 1]) == [0.9, 0.95, 0.99]
    assert sorted(below.get_offsets()[:, 1]) == [0.6, 0.7]
    assert not np.allclose(above.get_facecolor()[0, :3], below.get_facecolor()[0, :3])
    assert len(above.get_paths()[0].vertices) != len(below.get_paths()[0].vertices)
    assert "40% of 5 inferences are below the threshold of 0.9" in texts(figure)


def test_the_threshold_line_is_where_the_colours_change():
    figure = monitoring.confidence_over_time(frame_of([0.74, 0.76]), 0.75)
    assert figure.axes[0].lines[0].get_ydata()[0] == 0.75


def test_the_time_axis_is_to_scale():
    frame = frame_of([0.99] * 3)
    frame["time"] = pd.to_datetime(["2025-10-04 08:00", "2025-10-04 08:10", "2025-10-04 09:00"], utc=True)
    times = monitoring.confidence_over_time(frame).axes[0].collections[0].get_offsets()[:, 0]
    assert (times[2] - times[0]) / (times[1] - times[0]) == pytest.approx(6)


def test_the_ticks_of_a_few_seconds_say_hour_minute_and_second():
    frame = frame_of([0.99] * 4, minutes=1 / 6)
    axes = monitoring.confidence_over_time(frame).axes[0]
    axes.figure.draw_without_rendering()
    assert "08:00:10" in [tick.get_text() for tick in axes.get_xticklabels()]
    assert axes.xaxis.get_offset_text().get_text() == "2025-Oct-04"


def test_calls_of_one_moment_are_drawn_without_a_warning():
    frame = frame_of([0.99, 0.6], minutes=0.001)
    figure = monitoring.confidence_over_time(frame)
    figure.draw_without_rendering()
    left, right = figure.axes[0].get_xlim()
    assert (right - left) * 24 * 60 == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("count", [1, 4, 5])
@pytest.mark.parametrize(
    ("which", "expected"),
    [("most confident", [3, 0, 4]), ("least confident", [1, 2, 5]), ("below the threshold", [1, 2, 5])],
)
def test_the_samples_are_those_that_were_asked_for(which, expected, count):
    frame = frame_of([0.98, 0.5, 0.6, 0.99, 0.97, 0.65])
    figure = monitoring.sample_predictions(frame, which, count)
    shown = [axes for axes in figure.axes if axes.images]
    numbers = [int(axes.images[0].get_array()[128, 128, 0]) for axes in shown]
    if which == "below the threshold":
        assert numbers == expected[-count:]
    else:
        assert numbers[:3] == expected[:count] and len(numbers) == count


def test_a_sample_is_upscaled_and_titled_with_class_and_confidence():
    figure = monitoring.sample_predictions(frame_of([0.98764]))
    assert figure.axes[0].images[0].get_array().shape[:2] == (256, 256)
    assert figure.axes[0].get_title() == "bicycle\n98.7%"


def test_a_confidence_below_the_threshold_never_reads_as_the_threshold():
    figure = monitoring.sample_predictions(frame_of([0.89999]), "below the threshold")
    assert figure.axes[0].get_title() == "bicycle\n89.9%"


def test_samples_that_do_not_exist_are_told_of():
    with pytest.raises(ValueError, match="None of the 2 records is below the threshold"):
        monitoring.sample_predictions(frame_of([0.98, 0.99]), "below the threshold")
    with pytest.raises(ValueError, match="'best' is no choice"):
        monitoring.sample_predictions(frame_of([0.98]), "best")


def test_the_balance_shows_shares_intervals_and_the_finding():
    frame = frame_of([0.9] * 100, ["bicycle"] * 54 + ["motorcycle"] * 46)
    figure = monitoring.class_balance(frame, EVEN)
    assert [bar.get_height() for bar in figure.axes[0].patches] == pytest.approx([0.54, 0.46])
    found = texts(figure)
    assert "54% (54)" in found and "46% (46)" in found and "No drift seen" in found and "p = 0.484" in found


def test_the_rate_of_a_short_time_is_counted_by_the_second():
    frame = frame_of([0.9] * 5)
    frame["time"] = pd.to_datetime([f"2025-10-04 08:00:0{second}" for second in "00134"], utc=True)
    figure = monitoring.inference_rate(frame)
    assert [bar.get_height() for bar in figure.axes[0].patches] == [2, 1, 0, 1, 1]
    assert figure.axes[0].patches[1].get_width() * 24 * 60 * 60 == pytest.approx(1)
    assert "2 in the busiest second" in texts(figure) and "inferences a second" in texts(figure)


REFERENCE = frame_of([0.99, 0.98, 0.95, 0.97, 0.96])


def test_the_confidences_of_both_frames_stand_at_their_own_times_and_the_largest_gap_is_marked():
    later = frame_of([0.6, 0.7, 0.8, 0.99])
    later["time"] += pd.Timedelta("1D")
    figure = monitoring.confidence_drift(REFERENCE, later)
    reference, since = figure.axes[0].collections
    assert reference.get_offsets()[:, 1].tolist() == REFERENCE["confidence"].tolist()
    assert since.get_offsets()[:, 1].tolist() == later["confidence"].tolist()
    assert since.get_offsets()[0, 0] - reference.get_offsets()[0, 0] == pytest.approx(1)  # days
    assert not np.allclose(reference.get_facecolor()[0, :3], since.get_facecolor()[0, :3])
    assert len(reference.get_paths()[0].vertices) != len(since.get_paths()[0].vertices)
    gap = figure.axes[1].collections[0].get_segments()[0]
    assert gap.tolist() == [[0.8, 0], [0.8, 0.75]]
    assert "largest gap 0.75, at a confidence of 0.800" in texts(figure)


def test_a_drift_of_the_confidence_stands_in_the_title():
    drifted = monitoring.confidence_drift(frame_of(np.linspace(0.9, 1, 50)), frame_of(np.linspace(0.5, 0.8, 50)))
    healthy = monitoring.confidence_drift(frame_of(np.linspace(0.9, 1, 50)), frame_of(np.linspace(0.9, 1, 40)))
    assert "The confidence drifted: median 0.650, 0.950 in the reference" in texts(drifted)
    assert "No drift of the confidence seen: median 0.950, 0.950 in the reference" in texts(healthy)


LABELLED = {
    "confidences": [0.95, 0.95, 0.85, 0.85, 0.55],
    "predicted": ["bicycle", "motorcycle", "bicycle", "bicycle", "motorcycle"],
    "labels": ["bicycle", "bicycle", "bicycle", "bicycle", "bicycle"],
}


def test_the_sweep_gives_for_each_threshold_who_passes_and_who_is_right():
    sweep = monitoring.sweep_thresholds(frame_of(**LABELLED), [0.5, 0.85, 0.9, 0.99])
    assert sweep["passed"].tolist() == [1.0, 0.8, 0.4, 0.0]
    assert sweep["accuracy"].tolist()[:3] == [0.6, 0.75, 0.5] and np.isnan(sweep["accuracy"][3])


def test_the_sweep_marks_the_chosen_threshold():
    found = texts(monitoring.threshold_sweep(frame_of(**LABELLED), 0.85))
    assert "At 0.85: 80% of 5 images pass, 75.0% of those are right" in found
    assert "none to be right about" in texts(monitoring.threshold_sweep(frame_of(**LABELLED), 0.99))


def test_the_calibration_error_is_the_weighted_gap_of_the_bins():
    table, error = monitoring.calibrate(frame_of(**LABELLED))
    assert table["count"].tolist() == [1, 2, 2]
    assert table["accuracy"].tolist() == [0, 1, 0.5]
    assert error == pytest.approx((1 * 0.55 + 2 * 0.15 + 2 * 0.45) / 5)
    assert "Expected calibration error 0.350" in texts(monitoring.reliability_diagram(frame_of(**LABELLED)))


def test_a_model_that_is_always_sure_and_right_has_no_calibration_error():
    _, error = monitoring.calibrate(frame_of([1.0] * 4, labels=["bicycle"] * 4))
    assert error == 0


def test_the_histogram_has_one_panel_a_class_and_counts_every_record():
    figure = monitoring.confidence_by_class(frame_of(**LABELLED), 0.9)
    assert [axes.get_title() for axes in figure.axes] == ["bicycle: 3, 67% below 0.9", "motorcycle: 2, 50% below 0.9"]
    assert [sum(bar.get_height() for bar in axes.patches) for axes in figure.axes] == [3, 2]


def test_the_rate_counts_every_minute_also_those_without_an_inference():
    frame = frame_of([0.9] * 5)
    frame["time"] = pd.to_datetime([f"2025-10-04 08:0{minute}" for minute in "00134"], utc=True)
    latency = pd.Series([10.0, 20, 30, 40, 50], index=frame["time"])
    figure = monitoring.inference_rate(frame, latency)
    assert [bar.get_height() for bar in figure.axes[0].patches] == [2, 1, 0, 1, 1]
    assert "2 in the busiest minute" in texts(figure) and "median 30 ms" in texts(figure)
    assert len(monitoring.inference_rate(frame).axes) == 1


# How a colour, as linear RGB, is seen without one kind of cone (Machado, Oliveira and Fernandes, 2009, severity 1)
SEEN = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def lab(colour: str, seen) -> np.ndarray:
    """CIELAB of an sRGB colour as it is seen."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = TO_XYZ @ np.clip(seen @ linear, 0, 1) / TO_XYZ.sum(axis=1)
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("sight", SEEN)
@pytest.mark.parametrize(
    "pair", [(monitoring.BLUE, monitoring.VERMILLION), monitoring.PALETTE[:2], (monitoring.VERMILLION, "black")]
)
def test_colours_that_stand_side_by_side_are_told_apart_by_the_colour_blind(sight, pair):
    first, second = (lab(colour, np.array(SEEN[sight])) for colour in pair)
    assert np.linalg.norm(first - second) > 25  # 2.3 is a just noticeable difference


PLOTS = {
    "confidence_over_time": {},
    "sample_predictions": {},
    "class_balance": {"expected": EVEN},
    "confidence_drift": {"frame": REFERENCE},
    "threshold_sweep": {},
    "reliability_diagram": {},
    "confidence_by_class": {},
    "inference_rate": {},
}


@pytest.mark.parametrize("name", PLOTS)
def test_every_plot_prints_its_note_inside_and_over_nothing(name):
    note = "drawn stand-in images, not CIFAR-100"
    figure = getattr(monitoring, name)(frame_of(**LABELLED), **PLOTS[name], note=note)
    figure.draw_without_rendering()
    found = next(text for text in figure.texts if text.get_text() == note)
    box = found.get_bbox_patch().get_window_extent()
    assert box.y1 <= figure.bbox.y1 + 1 and box.x0 >= 0 and box.x1 <= figure.bbox.x1
    for axes in figure.axes:
        assert axes.get_tightbbox().y1 <= box.y0 + 1
    assert note not in texts(getattr(monitoring, name)(frame_of(**LABELLED), **PLOTS[name]))


@pytest.mark.parametrize("name", PLOTS)
def test_every_plot_is_readable_at_the_readmes_size(name):
    import matplotlib.text

    figure = getattr(monitoring, name)(frame_of(**LABELLED), **PLOTS[name])
    figure.draw_without_rendering()
    assert figure.bbox.width == 800
    shown = [text for text in figure.findobj(matplotlib.text.Text) if text.get_text() and text.get_visible()]
    assert min(text.get_fontsize() for text in shown) >= 9
    for axes in figure.axes:
        assert axes.get_tightbbox().x0 >= 0 and axes.get_tightbbox().x1 <= 800


def test_a_frame_without_the_true_classes_is_refused_by_the_plots_that_need_them():
    with pytest.raises(ValueError, match="no column label"):
        monitoring.threshold_sweep(frame_of([0.9]))
