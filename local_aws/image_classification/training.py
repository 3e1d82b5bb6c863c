"""The training program: four channels in, a model folder out, log lines in the built-in algorithm's words.

The first model is saved as soon as there is one, as epoch 0; epoch 1 is the one that cross-validation has chosen. A job
that is stopped in between keeps the first. Hyperparameters that only a network trained from scratch has are checked,
named in the log, and have no effect.
"""

import json
import os
import signal
import time
from pathlib import Path

from local_aws.image_classification.channels import Labelled, read_channel
from local_aws.image_classification.failures import JobFailed
from local_aws.image_classification.features import SHIPPED, Backbone
from local_aws.image_classification.hyperparameters import Hyperparameters, read_hyperparameters
from local_aws.image_classification.model import Model, fit_models
from local_aws.image_classification.patches import Patches

SEED = 0


class StopAsked(Exception):
    """SIGTERM: SageMaker wants the job to end."""


def train(root: Path) -> int:
    """Trains on root/input and writes root/model.

    Returns the exit status: 0, or 1 with the reason in root/output/failure.
    """
    signal.signal(signal.SIGTERM, _on_sigterm)
    try:
        _train(root)
    except StopAsked:
        kept = any((root / "model").iterdir())
        log("The job is stopped; it keeps its first model" if kept else "The job is stopped before there is a model")
    except JobFailed as failure:
        (root / "output").mkdir(exist_ok=True)
        (root / "output" / "failure").write_text(str(failure))
        log(f"Customer Error: {failure}", level="ERROR")
        return 1
    return 0


def _on_sigterm(*_) -> None:
    raise StopAsked


def _train(root: Path) -> None:
    settings = read_hyperparameters(json.loads((root / "input/config/hyperparameters.json").read_text()))
    _say_what_is_not_used(settings)
    training = read_channel(root, "train", settings)
    validation = read_channel(root, "validation", settings)
    log(f"{len(training.labels)} training and {len(validation.labels)} validation images")

    started = time.perf_counter()
    extractor = _extractor(settings, training)
    for epoch, model in enumerate(fit_models(extractor, training.pixels, training.labels, settings.num_classes, SEED)):
        seconds = time.perf_counter() - started
        _save_undisturbed(model, root / "model")
        log(f"Epoch[{epoch}] Batch [1]\tSpeed: {len(training.labels) / seconds:.2f} samples/sec")
        log(f"Epoch[{epoch}] Train-accuracy={_accuracy(model, training):.6f}")
        log(f"Epoch[{epoch}] Time cost={seconds:.3f}")
        log(f"Epoch[{epoch}] Validation-accuracy={_accuracy(model, validation):.6f}")
        started = time.perf_counter()


def _say_what_is_not_used(settings: Hyperparameters) -> None:
    log("A kernel classifier on frozen features stands in for the ResNet")
    log(f"Checked, without effect: {', '.join(settings.not_used) or 'none'}")
    log(f"Images are resized to 32x32, whatever image_shape says ({settings.height}x{settings.width})")


def _extractor(settings: Hyperparameters, training: Labelled) -> Backbone | Patches:
    if settings.use_pretrained_model:
        log("Features: the backbone that was trained on CIFAR-100 without bicycle and motorcycle")
        return Backbone(SHIPPED)
    log("use_pretrained_model=0: features are learned from the training images alone, which is weaker", "WARNING")
    return Patches.learn(training.pixels, SEED)


def _save_undisturbed(model: Model, folder: Path) -> None:
    """A SIGTERM waits until the model is written: half a model must never be what a stopped job keeps."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    model.save(folder)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _accuracy(model: Model, images: Labelled) -> float:
    return float((model.predict(images.pixels).argmax(axis=1) == images.labels).mean())


def log(message: str, level: str = "INFO") -> None:
    print(f"[{time.strftime('%m/%d/%Y %H:%M:%S')} {level} {os.getpid()}] {message}", flush=True)
