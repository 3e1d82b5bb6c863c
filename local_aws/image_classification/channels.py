"""The four channels: two folders of images, and two .lst files that say which class each image is of."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from local_aws.image_classification.failures import JobFailed, RequestRefused
from local_aws.image_classification.hyperparameters import Hyperparameters
from local_aws.image_classification.pictures import SIDE, read_picture


@dataclass(frozen=True)
class Labelled:
    """Images as uint8 [N, 32, 32, 3] with their classes as int [N]."""

    pixels: np.ndarray
    labels: np.ndarray


def read_channel(root: Path, name: str, settings: Hyperparameters) -> Labelled:
    """The images of a channel by its list. Raises JobFailed for what is missing, malformed or against image_shape."""
    rows = _read_list(root, f"{name}_lst", settings.num_classes)
    if name == "train" and len(rows) != settings.num_training_samples:
        wanted = settings.num_training_samples
        raise JobFailed(f"num_training_samples is {wanted}, but train_lst lists {len(rows)} images; set it to that")
    folder = root / "input" / "data" / name
    if not folder.is_dir():
        raise JobFailed(f"The channel {name} is missing; name all of train, validation, train_lst and validation_lst")
    pixels = np.empty((len(rows), SIDE, SIDE, 3), np.uint8)
    for place, (_, path) in enumerate(rows):
        pixels[place] = _read_listed(folder, path, name, settings)
    return Labelled(pixels, np.array([label for label, _ in rows]))


def _read_list(root: Path, channel: str, classes: int) -> list[tuple[int, str]]:
    """The (class, path) of each line."""
    folder = root / "input" / "data" / channel
    files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []
    if len(files) != 1:
        raise JobFailed(f"The channel {channel} must hold one .lst file, it holds {len(files)}")
    rows = []
    for number, line in enumerate(files[0].read_text(errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        rows.append(_read_line(line, f"line {number} of {channel}", classes))
    if not rows:
        raise JobFailed(f"The list in the channel {channel} is empty; it needs a line for each image")
    return rows


def _read_line(line: str, where: str, classes: int) -> tuple[int, str]:
    parts = line.split("\t")
    try:
        label, path = float(parts[1]), parts[2]
    except (IndexError, ValueError):
        raise JobFailed(f"{where} must read row<TAB>class<TAB>path, it reads {line[:80]!r}") from None
    if not label.is_integer() or not 0 <= label < classes:
        raise JobFailed(f"{where} has the class {parts[1]}; with num_classes {classes} it must be 0 to {classes - 1}")
    return int(label), path


def _read_listed(folder: Path, path: str, channel: str, settings: Hyperparameters) -> np.ndarray:
    try:
        file = (folder / path).resolve()
        is_there = file.is_file()
    except (OSError, ValueError) as error:
        raise JobFailed(f"{channel}_lst names {path[:80]!r}, which can be no file's name ({error.args[-1]})") from None
    if not file.is_relative_to(folder.resolve()):
        raise JobFailed(f"{channel}_lst names {path!r}, which leads outside of the channel {channel}")
    if not is_there:
        raise JobFailed(f"{channel}_lst names {path!r}, which channel {channel} has not; upload it or remove its line")
    try:
        return read_picture(file.read_bytes(), at_least=(settings.height, settings.width))
    except RequestRefused as refusal:
        raise JobFailed(f"{path!r} in the channel {channel}: {refusal}") from None
