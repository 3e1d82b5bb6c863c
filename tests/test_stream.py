"""A stream is what it says: its classes, its pace, its noise and blur, and the same again for the same seed."""

import io
from collections import Counter
from types import SimpleNamespace

import boto3
import numpy as np
import pytest
from moto import mock_aws
from PIL import Image

from scones import stream
from scones.archive import Split
from scones.data import CLASSES, Dataset, draw_dataset
from scones.stream import Stream, upload

DRAWN = draw_dataset(train=1, test=20)


def grey(count: int = 20) -> Dataset:
    """Plain images of the middle grey, half of them of each class."""
    names = [f"grey_{number}.png" for number in range(count)]
    split = Split(np.full((count, 32, 32, 3), 128, np.uint8), np.arange(count) % 2, names, np.arange(count))
    return Dataset(CLASSES, split, split, source="the test")


def pixels(image: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(image)))


def test_the_images_are_those_of_the_test_split_unchanged():
    originals = {image.tobytes(): label for image, label in zip(DRAWN.test.pixels, DRAWN.test.labels, strict=True)}
    found = list(Stream(DRAWN, rate=1).images(50))
    assert len(found) == 50
    for name, image in found:
        assert image.startswith(b"\x89PNG")
        assert CLASSES[originals[pixels(image).tobytes()]] == name


def test_the_same_seed_gives_the_same_stream_and_another_seed_another_one():
    def content(seed):
        return list(Stream(DRAWN, rate=1, noise=20, blur=1, seed=seed).images(10))

    assert content(3) == content(3)
    assert content(3) != content(4)


def test_a_mix_of_one_class_has_no_other():
    assert {name for name, _ in Stream(DRAWN, rate=1, mix={"bicycle": 1}).images(30)} == {"bicycle"}


@pytest.mark.parametrize(
    ("mix", "share"), [({"bicycle": 0.85, "motorcycle": 0.15}, 0.85), ({"bicycle": 3, "motorcycle": 1}, 0.75)]
)
def test_the_classes_come_in_the_proportions_of_the_mix(mix, share):
    names = Counter(name for name, _ in Stream(grey(), rate=1, mix=mix).images(1000))
    assert names["bicycle"] / 1000 == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / 1000))


def test_the_mix_holds_whatever_the_proportions_of_the_test_split_are():
    even = grey(20)
    mostly_bicycles = Split(even.test.pixels, np.array([0] * 18 + [1] * 2), even.test.names, even.test.rows)
    dataset = Dataset(CLASSES, even.train, mostly_bicycles, source="the test")
    as_they_are = Counter(name for name, _ in Stream(dataset, rate=1).images(1000))
    evened = Counter(name for name, _ in Stream(dataset, rate=1, mix={"bicycle": 1, "motorcycle": 1}).images(1000))
    assert as_they_are["bicycle"] / 1000 == pytest.approx(0.9, abs=0.04)
    assert evened["bicycle"] / 1000 == pytest.approx(0.5, abs=0.07)


def test_noise_has_the_standard_deviation_asked_for_and_moves_no_mean():
    found = np.stack([pixels(image) for _, image in Stream(grey(), rate=1, noise=20).images(20)]).astype(float)
    assert found.std() == pytest.approx(20, rel=0.02)
    assert found.mean() == pytest.approx(128, abs=0.5)


def test_noise_never_leaves_the_grey_levels_there_are():
    found = np.stack([pixels(image) for _, image in Stream(grey(), rate=1, noise=255).images(5)])
    assert found.min() == 0 and found.max() == 255


def test_blur_takes_away_detail_and_leaves_the_brightness():
    def detail(image):
        return np.abs(np.diff(pixels(image).astype(float), axis=1)).mean()

    sharp = [image for _, image in Stream(DRAWN, rate=1, seed=1).images(20)]
    blurred = [image for _, image in Stream(DRAWN, rate=1, blur=2, seed=1).images(20)]
    assert sum(map(detail, blurred)) < 0.5 * sum(map(detail, sharp))
    for before, after in zip(sharp, blurred, strict=True):
        assert pixels(after).mean() == pytest.approx(pixels(before).mean(), abs=4)


class Clock:
    """A time that passes only where somebody waits."""

    def __init__(self):
        self.now = 100.0
        self.monotonic = lambda: self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize(("taking", "expected"), [(0, [0, 0.25, 0.5, 0.75]), (0.6, [0, 0.6, 1.2, 1.8])])
def test_an_image_comes_when_its_time_has_come_and_at_once_to_a_taker_that_is_late(monkeypatch, taking, expected):
    clock = Clock()
    monkeypatch.setattr(stream, "time", SimpleNamespace(monotonic=clock.monotonic, sleep=clock.sleep))
    times = []
    for _ in Stream(grey(), rate=4).paced(seconds=1):
        times.append(clock.now - 100)
        clock.sleep(taking)
    assert times == pytest.approx(expected)


def test_a_paced_stream_has_the_images_of_the_same_stream_unpaced():
    found = Stream(DRAWN, rate=200, seed=5)
    assert list(found.paced(seconds=0.05)) == list(found.images(10))


@pytest.mark.parametrize(
    "mix", [{"car": 1}, {"bicycle": -0.1, "motorcycle": 1.1}, {"bicycle": 0}, {}, {"bicycle": float("nan")}]
)
def test_a_mix_that_makes_no_sense_is_refused(mix):
    with pytest.raises(ValueError, match="The mix must give shares of bicycle, motorcycle"):
        list(Stream(DRAWN, rate=1, mix=mix).images(1))


@pytest.mark.parametrize(
    "wrong", [{"rate": 0}, {"rate": -1}, {"rate": float("inf")}, {"rate": 1, "noise": 300}, {"rate": 1, "blur": -1}]
)
def test_a_rate_noise_or_blur_that_no_stream_can_have_is_refused(wrong):
    with pytest.raises(ValueError, match="A stream has a rate above 0"):
        Stream(DRAWN, **wrong)


def test_an_upload_puts_every_image_under_a_name_of_its_own_below_the_prefix(monkeypatch):
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    load = Stream(DRAWN, rate=1, seed=2)
    with mock_aws():
        s3 = boto3.client("s3", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
        s3.create_bucket(Bucket="images")
        upload(s3, load, 12, "images", "load/")
        listed = s3.list_objects_v2(Bucket="images", Prefix="load/")["Contents"]
        objects = [s3.get_object(Bucket="images", Key=found["Key"]) for found in listed]
        stored = [answer["Body"].read() for answer in objects]
    assert stored == [image for _, image in load.images(12)]
    assert {answer["ContentType"] for answer in objects} == {"image/png"}
    assert [found["Key"].split("_")[-1] for found in listed] == [f"{name}.png" for name, _ in load.images(12)]
