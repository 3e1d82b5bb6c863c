"""The training program: four channels in, a model folder out, log lines in the built-in algorithm's words."""

import json
import os
import signal
import time
from pathlib import Path

import numpy as np

from local_aws.image_classification.channels import read_channel
from local_aws.image_classification.classifier import Classifier, train_classifier
from local_aws.image_classification.failures import JobFailed
from local_aws.image_classification.features import Backbone, mirrored, views
from local_aws.image_classification.hyperparameters import read_hyperparameters
from local_aws.image_classification.model import BACKBONE_FILE, save_model

BACKBONE = Path(__file__).parent / "backbone" / BACKBONE_FILE


class StopAsked(Exception):
    """SIGTERM: SageMaker wants the job to end."""


def train(root: Path) -> int:
    """Trains on root/input and writes root/model; returns the exit status: 0, or 1 with the reason in root/output/failure."""
    signal.signal(signal.SIGTERM, _on_sigterm)
    try:
        _train(root)
    except StopAsked:
        log("The job is stopped before there is a model")
    except JobFailed as failure:
        (root / "output").mkdir(exist_ok=True)
        (root / "output" / "failure").write_text(str(failure))
        log(f"Customer Error: {failure}", level="ERROR")
        return 1
    return 0


def _on_sigterm(*_) -> None:
    raise StopAsked


def _train(root: Path) -> None:
    started = time.perf_counter()
    settings = read_hyperparameters(json.loads((root / "input/config/hyperparameters.json").read_text()))
    log(
        f"A frozen backbone and a logistic regression stand in for the ResNet; not used: {', '.join(settings.not_used)}"
    )
    log(f"image_shape {settings.height}x{settings.width} is checked; images are resized to the backbone's own 32x32")
    training = read_channel(root, "train", settings)
    validation = read_channel(root, "validation", settings)
    log(
        f"{len(training.labels)} training and {len(validation.labels)} validation images of {settings.num_classes} classes"
    )

    backbone = Backbone(BACKBONE)
    seen = [backbone.features(pixels) for pixels in views(training.pixels)]
    log(
        f"Epoch[0] Batch [{len(seen)}]\tSpeed: {len(training.labels) * len(seen) / (time.perf_counter() - started):.2f} samples/sec"
    )
    classifier = train_classifier(seen, training.labels, settings.num_classes)
    save_model(root / "model", classifier, BACKBONE)

    log(f"Epoch[0] Train-accuracy={_accuracy(classifier, seen[:2], training.labels):.6f}")
    log(f"Epoch[0] Time cost={time.perf_counter() - started:.3f}")
    unseen = [backbone.features(pixels) for pixels in (validation.pixels, mirrored(validation.pixels))]
    log(f"Epoch[0] Validation-accuracy={_accuracy(classifier, unseen, validation.labels):.6f}")


def _accuracy(classifier: Classifier, features: list[np.ndarray], labels: np.ndarray) -> float:
    return float((classifier.probabilities(features).argmax(axis=1) == labels).mean())


def log(message: str, level: str = "INFO") -> None:
    print(f"[{time.strftime('%m/%d/%Y %H:%M:%S')} {level} {os.getpid()}] {message}", flush=True)
