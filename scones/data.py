"""Gets CIFAR-100, keeps some of its classes, writes them as PNG and .lst files, and makes the workflow's test cases.

The archive is a given one, else a cached one, else the official download; without any, and where that is allowed, drawn
stand-in images take its place. They say that they are drawn: nothing measured on them is a figure of CIFAR-100.
"""

import hashlib
import os
import tempfile
import urllib.request
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd
from PIL import Image
from tqdm.auto import tqdm

from scones.archive import ArchiveRefused, Split, read_archive
from scones.stand_in import draw_stand_in

URL = "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"
MD5 = "eb9058c3a382ffc7106e4002c42a8d85"
ARCHIVE_NAME = "cifar-100-python.tar.gz"
CLASSES = ("bicycle", "motorcycle")

TIMEOUT_SECONDS = 10
CHUNK_BYTES = 1024**2
MAX_ARCHIVE_BYTES = 512 * 1024**2


class DownloadFailed(OSError):
    """The archive could not be brought; the message says what to do without a network."""


@dataclass(frozen=True)
class Dataset:
    """Two splits of images. A label is a place in classes, bicycle 0 and motorcycle 1 by default.

    source says where the images come from. drawn ones are no CIFAR-100: show note wherever they are shown.
    """

    classes: tuple[str, ...]
    train: Split
    test: Split
    source: str
    drawn: bool = False

    @property
    def note(self) -> str | None:
        """What every plot of drawn images has to say; None for the real ones."""
        return "drawn stand-in images, not CIFAR-100" if self.drawn else None


def get_cifar100(
    classes: Sequence[str] = CLASSES,
    archive: str | os.PathLike | None = None,
    folder: str | os.PathLike = "data",
    url: str = URL,
    md5: str = MD5,
    allow_drawn: bool = False,
) -> Dataset:
    """Those classes of CIFAR-100, from the archive given (default: what CIFAR100_ARCHIVE names), cached or downloaded.

    A given archive need not be the official one, it only has to be whole; a cached or downloaded one must have the md5.
    When the download fails, allow_drawn gives a small set of drawn bicycles and motorcycles instead, with a warning.
    Raises ArchiveRefused, DownloadFailed, FileNotFoundError, and UnknownClass.
    """
    given = archive or os.environ.get("CIFAR100_ARCHIVE")
    if given:
        train, test = read_archive(Path(given), classes)
        return Dataset(tuple(classes), train, test, source=str(given))
    cached = Path(folder) / ARCHIVE_NAME
    try:
        if cached.exists():
            check_md5(cached, md5)
        else:
            download(url, cached, md5)
    except DownloadFailed as error:
        if not allow_drawn or tuple(classes) != CLASSES:
            raise
        warnings.warn(f"DRAWN STAND-IN IMAGES, NOT CIFAR-100: {error}", UserWarning, stacklevel=2)
        return draw_dataset()
    train, test = read_archive(cached, classes)
    return Dataset(tuple(classes), train, test, source=str(cached))


def draw_dataset(train: int = 500, test: int = 100, seed: int = 0) -> Dataset:
    """That many drawn images of each class; the same seed draws the same images."""
    rng = np.random.default_rng(seed)
    splits = []
    for first, count in ((1, train), (train + 1, test)):
        pixels = [draw_stand_in(name, rng) for name in CLASSES for _ in range(count)]
        names = [f"drawn_{name}_{number:04d}.png" for name in CLASSES for number in range(first, first + count)]
        splits.append(Split(np.stack(pixels), np.repeat([0, 1], count), names, np.arange(len(names))))
    return Dataset(CLASSES, splits[0], splits[1], source=f"drawn with seed {seed}", drawn=True)


def write_images(dataset: Dataset, folder: str | os.PathLike = "data") -> pd.DataFrame:
    """Writes folder/train/*.png, folder/test/*.png, folder/train.lst and folder/test.lst.

    A .lst line is `row<TAB>label<TAB>file name`, the file named as seen from its split's folder. PNG files of
    an earlier call that are not part of the data set are removed: what is uploaded is what the .lst files name.
    Returns one line an image: split, row, label, class, name, path.
    """
    frames = []
    for split_name, split in (("train", dataset.train), ("test", dataset.test)):
        target = Path(folder) / split_name
        target.mkdir(parents=True, exist_ok=True)
        for stale in set(target.glob("*.png")) - {target / name for name in split.names}:
            stale.unlink()
        for pixels, name in zip(split.pixels, split.names, strict=True):
            Image.fromarray(pixels).save(target / name)
        frame = pd.DataFrame({"split": split_name, "row": split.rows, "label": split.labels})
        frame["class"] = [dataset.classes[label] for label in split.labels]
        frame["name"] = split.names
        frame["path"] = [str(target / name) for name in split.names]
        frame[["row", "label", "name"]].to_csv(f"{target}.lst", sep="\t", header=False, index=False)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def test_case(bucket: str, keys: Sequence[str], rng: np.random.Generator) -> dict:
    """The workflow's input for one of these images, picked at random."""
    return {"image_data": "", "s3_bucket": bucket, "s3_key": str(rng.choice(keys)), "inferences": []}


def test_cases(bucket: str, keys: Sequence[str], count: int, seed: int | None = None) -> list[dict]:  # noqa: PT028
    """The workflow's inputs for count images at random; none comes a second time before every one has come once."""
    rng = np.random.default_rng(seed)
    rounds = -(-count // len(keys))
    shuffled = [key for _ in range(rounds) for key in rng.permutation(keys)]
    return [test_case(bucket, [key], rng) for key in shuffled[:count]]


def download(url: str, target: Path, md5: str) -> None:
    """Brings the file, with a progress bar. It stands under its name only when it is whole and has the md5.

    Raises DownloadFailed when it does not arrive, ArchiveRefused when it is another file than the one expected.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with _replacing(target) as file:
        try:
            _receive(url, file)
        except (OSError, HTTPException) as error:
            raise DownloadFailed(
                f"{url} could not be downloaded ({error}). Run again with a network, or bring the file from another "
                f"machine and set CIFAR100_ARCHIVE to its path."
            ) from error
        check_md5(Path(file.name), md5, shown=url)


def check_md5(path: Path, md5: str, shown: str | None = None) -> None:
    """Raises ArchiveRefused when the file's MD5 is another one."""
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    if digest.hexdigest() != md5:
        raise ArchiveRefused(
            f"{shown or path} is not the archive expected: its MD5 is {digest.hexdigest()}, not {md5}. Remove a cached "
            f"file and run again, or set CIFAR100_ARCHIVE to the path of an archive that you trust."
        )


def _receive(url: str, file: IO[bytes]) -> None:
    with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer:
        length = int(answer.headers["Content-Length"] or 0)
        received = 0
        with tqdm(total=length or None, unit="B", unit_scale=True, desc=ARCHIVE_NAME) as progress:
            while chunk := answer.read(CHUNK_BYTES):
                received += file.write(chunk)
                progress.update(len(chunk))
                if received > MAX_ARCHIVE_BYTES:
                    raise OSError(f"it is larger than {MAX_ARCHIVE_BYTES} bytes")
    if length and received != length:
        raise OSError(f"it broke off after {received} of {length} bytes")
    file.flush()


@contextmanager
def _replacing(target: Path) -> Iterator[IO[bytes]]:
    """A new file next to the target that takes its place when the block ends well, and is gone when it does not."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        with open(Path(folder) / target.name, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(file.name, target)
