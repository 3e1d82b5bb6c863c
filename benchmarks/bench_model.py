"""What the local image-classification algorithm reaches on the real images of bicycles and motorcycles, and how fast.

    python benchmarks/bench_model.py [--json FILE] [--pictures DIR]

Two measures. The official split: trained on CIFAR-100's 1,000 training images with five seeds, which shuffle the folds
of the algorithm's own cross-validation, and asked about its 200 test images. Cross-validation: all 1,200 images in five
folds, each fold asked of a model trained on the other four. One standard error of an accuracy of .95 is .015 at 200
images and .006 at 1,200.

Every model is made by the algorithm's own code, as a training job makes it. Training seconds are of one model, from the
images in memory to the model, on a machine shared with whatever else runs on it. A prediction is of one image and its
mirror, without HTTP and decoding. Expected calibration error: ten bins of equal width, a bin's gap weighted by its
images; over few images it comes out too large. What is taken for what, and the picture, are of the cross-validation.
"""

import os
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the algorithm's own program does
os.environ.setdefault("MPLBACKEND", "Agg")

import matplotlib.pyplot as plt
import numpy as np
from figures import Row, figure, finish, parser
from sklearn.model_selection import StratifiedKFold

from local_aws.image_classification.features import SHIPPED, Backbone
from local_aws.image_classification.model import Model, fit_models
from local_aws.image_classification.patches import Patches
from scones.data import Dataset, get_cifar100

SEEDS = range(5)
FOLDS = 5
CONFIDENT = 0.9
BINS = 10
SERVED = 200
VEHICLES = (
    *("bicycle", "bus", "motorcycle", "pickup_truck", "train"),
    *("lawn_mower", "rocket", "streetcar", "tank", "tractor"),
)
UNITS = {
    "accuracy": ("%", "higher"),
    "images at confidence >= 0.9": ("%", "higher"),
    "accuracy among those": ("%", "higher"),
    "expected calibration error": ("", "lower"),
    "training": ("s", "lower"),
}


@dataclass(frozen=True)
class Images:
    pixels: np.ndarray
    labels: np.ndarray
    names: list[str]


def train(images: Images, places: np.ndarray, seed: int, pretrained: bool = True) -> tuple[Model, float]:
    """A model of the images at those places, and the seconds it took."""
    pixels, labels = images.pixels[places], images.labels[places]
    started = time.perf_counter()
    extractor = Backbone(SHIPPED) if pretrained else Patches.learn(pixels, seed)
    *_, model = fit_models(extractor, pixels, labels, int(images.labels.max()) + 1, seed)
    return model, time.perf_counter() - started


def figures(probabilities: np.ndarray, labels: np.ndarray, seconds: float) -> dict[str, float]:
    confidence = probabilities.max(axis=1)
    is_right = probabilities.argmax(axis=1) == labels
    is_confident = confidence >= CONFIDENT
    shares = [100 * float(of.mean()) for of in (is_right, is_confident, is_right[is_confident])]
    return dict(zip(UNITS, (*shares, calibration_error(confidence, is_right), seconds), strict=True))


def calibration_error(confidence: np.ndarray, is_right: np.ndarray) -> float:
    """The mean distance of confidence and accuracy over bins of equal width, weighted by their images."""
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = [abs(is_right[bins == b].mean() - confidence[bins == b].mean()) * (bins == b).mean() for b in set(bins)]
    return float(sum(gaps))


def cross_validate(images: Images, pretrained: bool = True) -> tuple[list[dict[str, float]], np.ndarray]:
    """The figures of each fold, and the held-out probabilities [N, K] of all images."""
    held_out = np.empty((len(images.labels), int(images.labels.max()) + 1))
    rows = []
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    for seed, (known, asked) in enumerate(folds.split(images.pixels, images.labels)):
        model, seconds = train(images, known, seed, pretrained)
        held_out[asked] = model.predict(images.pixels[asked])
        rows.append(figures(held_out[asked], images.labels[asked], seconds))
    return rows, held_out


def latency_milliseconds(model: Model, images: Images) -> list[float]:
    """Of single predictions in this process, in ascending order."""
    times = []
    for pixels in images.pixels[:SERVED]:
        started = time.perf_counter()
        model.predict(pixels[None])
        times.append((time.perf_counter() - started) * 1000)
    return sorted(times)


def summary(measure: str, runs: list[dict[str, float]]) -> list[Row]:
    """The mean of each figure over the runs, with its spread where there are several."""
    rows = []
    for name, (unit, better) in UNITS.items():
        values = [run[name] for run in runs]
        spread = statistics.stdev(values) if len(values) > 1 else None
        rows.append(figure(f"{measure}: {name}", statistics.mean(values), unit, better, spread))
    return rows


def confusion(classes: tuple[str, ...], labels: np.ndarray, predicted: np.ndarray) -> list[Row]:
    return [
        figure(
            f"cross-validation: {is_class} taken for {taken_for}", ((labels == a) & (predicted == b)).sum(), "images"
        )
        for a, is_class in enumerate(classes)
        for b, taken_for in enumerate(classes)
    ]


def draw_wrong(images: Images, classes: tuple[str, ...], held_out: np.ndarray, file: Path) -> None:
    """The images that are taken for another class, the most confident mistakes first, with their file names."""
    predicted = held_out.argmax(axis=1)
    wrong = np.flatnonzero(predicted != images.labels)
    wrong = wrong[np.argsort(-held_out[wrong].max(axis=1))]
    columns = 8
    rows = max(1, -(-len(wrong) // columns))
    drawing, axes = plt.subplots(
        rows, columns, figsize=(1.9 * columns, 2.3 * rows), squeeze=False, layout="constrained"
    )
    for axis in axes.flat:
        axis.axis("off")
    for axis, place in zip(axes.flat, wrong, strict=False):
        axis.imshow(images.pixels[place], interpolation="nearest")
        taken_for = f"{classes[predicted[place]]} {held_out[place].max():.2f}"
        axis.set_title(f"{images.names[place]}\ntaken for {taken_for}", fontsize=6)
    drawing.suptitle(f"{len(wrong)} of {len(images.labels)} images are taken for another class, {FOLDS}-fold")
    drawing.savefig(file, dpi=110)
    plt.close(drawing)


def all_images(dataset: Dataset) -> Images:
    pixels = np.concatenate([dataset.train.pixels, dataset.test.pixels])
    labels = np.concatenate([dataset.train.labels, dataset.test.labels])
    return Images(pixels, labels, [*dataset.train.names, *dataset.test.names])


def measure_all(dataset: Dataset, images: Images) -> tuple[list[Row], np.ndarray]:
    """The rows, and the held-out probabilities [N, K] of the cross-validation."""
    official, asked = np.arange(len(dataset.train)), np.arange(len(dataset.train), len(images.labels))
    runs = []
    for seed in SEEDS:
        model, seconds = train(images, official, seed)
        runs.append(figures(model.predict(images.pixels[asked]), images.labels[asked], seconds))
    rows = summary(f"official split, {len(SEEDS)} seeds", runs)
    latencies = latency_milliseconds(model, images)
    folds, held_out = cross_validate(images)
    rows += summary(f"cross-validation, {FOLDS} folds", folds)
    model, seconds = train(images, official, 0, pretrained=False)
    without = figures(model.predict(images.pixels[asked]), images.labels[asked], seconds)
    rows += summary("official split, use_pretrained_model=0", [without])
    rows.append(figure("one prediction, p50", latencies[SERVED // 2], "ms", "lower"))
    rows.append(figure("one prediction, p99", latencies[SERVED * 99 // 100], "ms", "lower"))
    return rows, held_out


def vehicle_classes() -> Row:
    """All ten vehicle classes, by nothing but another list of classes."""
    dataset = get_cifar100(VEHICLES)
    images = all_images(dataset)
    model, _ = train(images, np.arange(len(dataset.train)), 0)
    is_right = model.predict(dataset.test.pixels).argmax(axis=1) == dataset.test.labels
    return figure("official split, all ten vehicle classes: accuracy", 100 * is_right.mean(), "%", "higher")


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--pictures", type=Path, help="a folder for mistakes.png, the images that it gets wrong")
    given = options.parse_args()

    dataset = get_cifar100()
    images = all_images(dataset)
    rows, held_out = measure_all(dataset, images)
    rows += confusion(dataset.classes, images.labels, held_out.argmax(axis=1))
    rows.append(vehicle_classes())
    finish(rows, given.json)
    if given.pictures:
        given.pictures.mkdir(parents=True, exist_ok=True)
        draw_wrong(images, dataset.classes, held_out, given.pictures / "mistakes.png")


if __name__ == "__main__":
    main()
