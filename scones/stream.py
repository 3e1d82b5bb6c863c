"""Images to monitor: a continuous stream of them with a rate, a mix of classes and, for drift, noise or blur."""

import io
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from scones.data import Dataset


@dataclass(frozen=True)
class Stream:
    """What comes in: images of the data set's test split at random.

    rate: images a second. mix: the share of each class, in whatever proportion the test split has them by default.
    noise: standard deviation of the grey levels added to each channel, 0 to 255. blur: radius in pixels.
    Raises ValueError for a rate, noise or blur that no stream can have.
    """

    dataset: Dataset
    rate: float
    mix: Mapping[str, float] | None = None
    noise: float = 0
    blur: float = 0
    seed: int = 0

    def __post_init__(self):
        if not (0 < self.rate < math.inf and 0 <= self.noise <= 255 and 0 <= self.blur < math.inf):
            raise ValueError(
                f"A stream has a rate above 0, noise of 0 to 255 and a blur of 0 or more; these are {self.rate}, "
                f"{self.noise} and {self.blur}"
            )

    def images(self, count: int) -> Iterator[tuple[str, bytes]]:
        """(true class, PNG) of so many images, the same ones for the same seed."""
        split, classes = self.dataset.test, self.dataset.classes
        rng = np.random.default_rng(self.seed)
        weights = self._weights()
        for place in rng.choice(len(split), size=count, p=weights / weights.sum()):
            yield classes[split.labels[place]], self._png(split.pixels[place], rng)

    def paced(self, seconds: float) -> Iterator[tuple[str, bytes]]:
        """The images of so many seconds, each no sooner than its time has come; a slow taker is not waited for."""
        started = time.monotonic()
        for number, image in enumerate(self.images(round(self.rate * seconds))):
            time.sleep(max(0.0, started + number / self.rate - time.monotonic()))
            yield image

    def _weights(self) -> np.ndarray:
        """One for each test image. Raises ValueError for a mix of classes that the data set has not."""
        labels = self.dataset.test.labels
        if self.mix is None:
            return np.ones(len(labels))
        shares = np.array([self.mix.get(name, 0.0) for name in self.dataset.classes])
        if set(self.mix) - set(self.dataset.classes) or not (shares.min() >= 0 and 0 < shares.sum() < math.inf):
            raise ValueError(
                f"The mix must give shares of {', '.join(self.dataset.classes)}, none below 0; it is {dict(self.mix)}"
            )
        counts = np.bincount(labels, minlength=len(self.dataset.classes))
        return (shares / counts)[labels]

    def _png(self, pixels: np.ndarray, rng: np.random.Generator) -> bytes:
        image = Image.fromarray(pixels)
        if self.blur:
            image = image.filter(ImageFilter.GaussianBlur(self.blur))
        if self.noise:
            noisy = np.asarray(image) + rng.normal(0, self.noise, pixels.shape)
            image = Image.fromarray(np.rint(np.clip(noisy, 0, 255)).astype(np.uint8))
        content = io.BytesIO()
        image.save(content, "PNG")
        return content.getvalue()


def upload(s3, stream: Stream, count: int, bucket: str, prefix: str) -> None:
    """Puts so many images of the stream below the prefix, for the parallel state machine to find them there."""
    for number, (name, content) in enumerate(stream.images(count)):
        s3.put_object(Bucket=bucket, Key=f"{prefix}{number:05d}_{name}.png", Body=content, ContentType="image/png")
