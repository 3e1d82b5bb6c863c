"""The built-in algorithm's hyperparameters: by the same names, checked by the same rules, all of them strings.

Source: the Image Classification Hyperparameters page of the SageMaker guide, and the layer rules of MXNet's example
that the algorithm is built on.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from local_aws.image_classification.failures import JobFailed

SMALL_IMAGE_LAYERS = (20, 32, 44, 56, 110)
LARGE_IMAGE_LAYERS = (18, 34, 50, 101, 152, 200, 269)
SMALL_IMAGE_HEIGHT = 28


@dataclass(frozen=True)
class Hyperparameters:
    num_classes: int
    num_training_samples: int
    channels: int
    height: int
    width: int
    use_pretrained_model: bool
    not_used: tuple[str, ...]


def _whole(low: int) -> Callable[[str], bool]:
    return lambda text: re.fullmatch(r"\d+", text) is not None and int(text) >= low


def _number(low: float, high: float = float("inf")) -> Callable[[str], bool]:
    def is_within(text: str) -> bool:
        try:
            return low <= float(text) <= high
        except ValueError:
            return False

    return is_within


def _one_of(*choices: str) -> Callable[[str], bool]:
    return lambda text: text in choices


def _matching(pattern: str) -> Callable[[str], bool]:
    return lambda text: re.fullmatch(pattern, text) is not None


AUGMENTATIONS = ("crop", "crop_color", "crop_color_transform")
FLAG = _one_of("0", "1")
TRUTH = _one_of("True", "False", "true", "false")
RULES = {
    "num_classes": (_whole(2), "a whole number of at least 2"),
    "num_training_samples": (_whole(1), "a whole number of at least 1"),
    "image_shape": (_matching(r"\d+,\d+,\d+"), "three whole numbers: channels,height,width"),
    "num_layers": (_whole(1), "a whole number"),
    "augmentation_type": (_one_of(*AUGMENTATIONS), "crop, crop_color or crop_color_transform"),
    "use_pretrained_model": (FLAG, "0 or 1"),
    "multi_label": (FLAG, "0 or 1"),
    "use_weighted_loss": (FLAG, "0 or 1"),
    "epochs": (_whole(1), "a whole number of at least 1"),
    "mini_batch_size": (_whole(1), "a whole number of at least 1"),
    "learning_rate": (_number(0, 1), "a number within 0 and 1"),
    "lr_scheduler_factor": (_number(0, 1), "a number within 0 and 1"),
    "lr_scheduler_step": (_matching(r"\d+(,\d+)*"), "whole numbers with commas between"),
    "optimizer": (_one_of("sgd", "adam", "rmsprop", "nag"), "sgd, adam, rmsprop or nag"),
    "momentum": (_number(0, 1), "a number within 0 and 1"),
    "weight_decay": (_number(0, 1), "a number within 0 and 1"),
    "beta_1": (_number(0, 1), "a number within 0 and 1"),
    "beta_2": (_number(0, 1), "a number within 0 and 1"),
    "gamma": (_number(0, 1), "a number within 0 and 1"),
    "eps": (_number(0, 1), "a number within 0 and 1"),
    "resize": (_whole(1), "a whole number of at least 1"),
    "precision_dtype": (_one_of("float32", "float16"), "float32 or float16"),
    "top_k": (_whole(2), "a whole number of at least 2"),
    "early_stopping": (TRUTH, "True or False"),
    "early_stopping_min_epochs": (_whole(1), "a whole number of at least 1"),
    "early_stopping_patience": (_whole(1), "a whole number of at least 1"),
    "early_stopping_tolerance": (_number(0, 1), "a number within 0 and 1"),
    "kv_store": (_one_of("dist_sync", "dist_async"), "dist_sync or dist_async"),
    "checkpoint_frequency": (_whole(1), "a whole number of at least 1"),
}
USED = {"num_classes", "num_training_samples", "image_shape", "use_pretrained_model", "multi_label"}


def read_hyperparameters(given: dict[str, str]) -> Hyperparameters:
    """Raises JobFailed for a name that is unknown or missing and for a value that breaks its rule."""
    for name, value in given.items():
        if name not in RULES:
            raise JobFailed(f"The hyperparameter {name!r} is unknown; the algorithm knows {', '.join(sorted(RULES))}")
        is_right, rule = RULES[name]
        if not isinstance(value, str) or not is_right(value):
            raise JobFailed(f"The hyperparameter {name} must be {rule}, it is {value!r}")
    for name in ("num_classes", "num_training_samples"):
        if name not in given:
            raise JobFailed(f"The hyperparameter {name} is missing; it must be {RULES[name][1]}")
    if given.get("multi_label") == "1":
        raise JobFailed("multi_label=1 is not supported by the local algorithm; give every image one class")
    channels, height, width = map(int, given.get("image_shape", "3,224,224").split(","))
    _check_layers(int(given.get("num_layers", "152")), height)
    if channels not in (1, 3):
        raise JobFailed(f"image_shape must begin with 3 (colour) or 1 (grey), it begins with {channels}")
    return Hyperparameters(
        num_classes=int(given["num_classes"]),
        num_training_samples=int(given["num_training_samples"]),
        channels=channels,
        height=height,
        width=width,
        use_pretrained_model=given.get("use_pretrained_model") != "0",
        not_used=tuple(sorted(set(given) - USED)),
    )


def _check_layers(layers: int, height: int) -> None:
    allowed = SMALL_IMAGE_LAYERS if height <= SMALL_IMAGE_HEIGHT else LARGE_IMAGE_LAYERS
    if layers not in allowed:
        raise JobFailed(f"num_layers must be one of {allowed} for images of height {height}, it is {layers}")
