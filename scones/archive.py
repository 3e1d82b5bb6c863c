"""Reads CIFAR-100's python archive as what it is: material from outside.

The archive is a .tar.gz of three pickles. Nothing is unpacked to disk: the members meant to be there are read within
size limits, what leads outside or is no plain file is refused, and the pickles may hold plain containers, texts and
arrays of bytes. No pickle reaches numpy or any other function of Python: it can only name the stand-ins below.
"""

import contextlib
import gzip
import pickle
import pickletools
import re
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np

FOLDER = "cifar-100-python"
MEMBERS = {f"{FOLDER}/{name}": name for name in ("meta", "train", "test")}
SIDE = 32
IMAGE_BYTES = 3 * SIDE * SIDE
MAX_MEMBER_BYTES = 256 * 1024**2
MAX_MEMBERS = 20
MAX_TRAILER_BYTES = 1024**2
MAX_MEMO = 1_000_000
INSTRUCTIONS = {
    *("PROTO", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2"),
    *("BINSTRING", "SHORT_BINSTRING", "BINUNICODE", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT", "SETITEM", "SETITEMS"),
    *("BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET", "GLOBAL", "REDUCE", "BUILD"),
}
FILE_NAME = re.compile(r"\w[\w.-]*\.png", re.ASCII)


class ArchiveRefused(ValueError):
    """The archive is damaged, is not the official one, or holds what it must not; the message says what to do."""


class UnknownClass(ValueError):
    """CIFAR-100 has no such class; the message names those that it has."""


@dataclass(frozen=True)
class Split:
    """Some images: pixels uint8 [N, 32, 32, 3], labels int64 [N], file names [N], and their rows in the archive [N]."""

    pixels: np.ndarray
    labels: np.ndarray
    names: list[str]
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.names)


def read_archive(path: str | Path, classes: Sequence[str]) -> tuple[Split, Split]:
    """The train and test images of those classes; a label is the class's place in classes.

    Raises ArchiveRefused for an archive that is damaged or holds what it must not, FileNotFoundError, and UnknownClass
    for a class that CIFAR-100 has not.
    """
    with _named_errors(path):
        tables = dict(_tables(Path(path)))
        names = _class_names(tables["meta"])
        train, test = _columns(tables["train"]), _columns(tables["test"])
    places = _places(classes, names)
    return _select(*train, places=places), _select(*test, places=places)


def class_names(path: str | Path) -> list[str]:
    """The names of the archive's 100 classes. Raises what read_archive raises."""
    with _named_errors(path):
        return _class_names(dict(_tables(Path(path)))["meta"])


@contextlib.contextmanager
def _named_errors(path: str | Path) -> Iterator[None]:
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"There is no archive {path}. Give the path of a cifar-100-python.tar.gz, or none at all."
        )
    try:
        yield
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise ArchiveRefused(
            f"{path} is truncated or damaged ({error}). Remove it and fetch the archive again."
        ) from error
    except (pickle.UnpicklingError, LookupError, TypeError, ValueError, AttributeError, MemoryError) as error:
        raise ArchiveRefused(
            f"{path} is not CIFAR-100's python archive ({type(error).__name__}: {error}). Fetch the archive again."
        ) from error


def _class_names(meta: dict) -> list[str]:
    return [name.decode() for name in meta[b"fine_label_names"]]


def _tables(path: Path) -> Iterator[tuple[str, dict]]:
    """The unpickled members by name. Reads to the archive's very end, where its checksum stands."""
    with gzip.open(path) as stream:
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for number, member in enumerate(archive):
                _check_member(member, number)
                if member.name in MEMBERS:
                    yield MEMBERS[member.name], _Unpickler(archive.extractfile(member).read()).load()
        if len(stream.read(MAX_TRAILER_BYTES)) == MAX_TRAILER_BYTES:
            raise ValueError("something follows the last member")


def _check_member(member: tarfile.TarInfo, number: int) -> None:
    if not (member.isfile() or member.isdir()):
        raise ValueError(f"it holds {member.name!r}, which is neither a file nor a folder")
    if member.name != FOLDER and (not member.name.startswith(f"{FOLDER}/") or ".." in member.name.split("/")):
        raise ValueError(f"it holds {member.name!r}, which is outside of {FOLDER}/")
    if member.size > MAX_MEMBER_BYTES or number >= MAX_MEMBERS:
        raise ValueError(f"it holds more than {MAX_MEMBERS} members, or one of more than {MAX_MEMBER_BYTES} bytes")


def _columns(table: dict) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The pixels [N, 3072], the fine labels [N] and the file names [N] of one member."""
    pixels = table[b"data"].as_bytes_table()
    labels = np.array(table[b"fine_labels"], dtype=np.int64)
    names = [name.decode("ascii") for name in table[b"filenames"]]
    if pixels.shape != (len(names), IMAGE_BYTES) or labels.shape != (len(names),):
        raise ValueError(f"it holds {pixels.shape} pixels for {labels.shape} labels and {len(names)} file names")
    return pixels, labels, names


def _places(classes: Sequence[str], names: list[str]) -> list[int]:
    unknown = sorted(set(classes) - set(names))
    if unknown or len(set(classes)) != len(classes) or not classes:
        raise UnknownClass(
            f"CIFAR-100 has no classes {unknown or list(classes)}; name each once, of: {', '.join(names)}"
        )
    return [names.index(name) for name in classes]


def _select(pixels: np.ndarray, fine_labels: np.ndarray, names: list[str], places: list[int]) -> Split:
    rows = np.flatnonzero(np.isin(fine_labels, places))
    kept = _different([names[row] for row in rows], rows)
    wrong = [name for name in kept if not FILE_NAME.fullmatch(name)]
    if wrong or len(set(kept)) != len(kept):
        raise ArchiveRefused(
            f"The archive names an image {wrong[0]!r}" if wrong else "The archive names an image twice"
        )
    images = pixels[rows].reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    return Split(
        np.ascontiguousarray(images), np.array([places.index(label) for label in fine_labels[rows]]), kept, rows
    )


def _different(names: list[str], rows: np.ndarray) -> list[str]:
    """The names, with the row added where two images share one, as two of CIFAR-100's classes baby and girl do."""
    count = Counter(names)
    return [
        name if count[name] == 1 else f"{name.removesuffix('.png')}-{row}.png"
        for name, row in zip(names, rows, strict=True)
    ]


class _Unpickler(pickle.Unpickler):
    """Knows what CIFAR's pickles name, of Python 2 and 3, of numpy before and after 2, and refuses every other name."""

    def __init__(self, data: bytes):
        _check_instructions(data)
        super().__init__(BytesIO(data), encoding="bytes")
        reconstruct = _Reconstruct()
        self._known = {
            ("numpy.core.multiarray", "_reconstruct"): reconstruct,
            ("numpy._core.multiarray", "_reconstruct"): reconstruct,
            ("numpy", "ndarray"): _Array,
            ("numpy", "dtype"): _ByteType,
            ("_codecs", "encode"): _Encode(),
        }

    def find_class(self, module: str, name: str):
        if (module, name) not in self._known:
            raise pickle.UnpicklingError(
                f"it names {module}.{name}, which no data set needs and which could run anything"
            )
        return self._known[module, name]


def _check_instructions(data: bytes) -> None:
    """Refuses the instructions that plain data do not need: some let a few bytes ask for gigabytes of memory."""
    for instruction, argument, _ in pickletools.genops(data):
        if instruction.name not in INSTRUCTIONS:
            raise pickle.UnpicklingError(f"it holds the instruction {instruction.name}, which plain data do not need")
        if instruction.name in ("BINPUT", "LONG_BINPUT") and argument > MAX_MEMO:
            raise pickle.UnpicklingError(f"it numbers its objects up to {argument}, and {MAX_MEMO} is the highest")


class _Callable:
    """What a pickle may call, and must not change."""

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("it changes what it was given to call")


class _Encode(_Callable):
    """Stands for _codecs.encode, by which Python 3 writes bytes in this protocol; gives a member's worth of them."""

    def __init__(self):
        self._bytes_left = MAX_MEMBER_BYTES

    def __call__(self, text: str, encoding: str) -> bytes:
        self._bytes_left -= len(text)
        if encoding != "latin1" or self._bytes_left < 0:
            raise pickle.UnpicklingError(
                f"it encodes to {encoding!r} instead of latin1, or more than {MAX_MEMBER_BYTES} bytes"
            )
        return text.encode("latin1")


class _ByteType:
    """Stands for numpy's dtype: the only one an image needs."""

    def __init__(self, name: str | bytes, *_flags: int):
        if name not in ("u1", b"u1"):
            raise pickle.UnpicklingError(f"it holds an array of {name!r}; images are arrays of 'u1'")

    def __setstate__(self, state: tuple) -> None:
        """Byte order and field names: bytes have none."""


class _Array:
    """Stands for numpy's ndarray until it is known to be a table of bytes."""

    def __setstate__(self, state: tuple) -> None:
        _version, self.shape, self.dtype, self.is_fortran, self.data = state

    def as_bytes_table(self) -> np.ndarray:
        if not isinstance(self.dtype, _ByteType):
            raise pickle.UnpicklingError("it holds an array without a type")
        return np.frombuffer(self.data, np.uint8).reshape(self.shape, order="F" if self.is_fortran else "C")


class _Reconstruct(_Callable):
    """Stands for numpy's function of that name, which makes an empty array to be filled."""

    def __call__(self, kind: type, _shape: tuple, _type: bytes) -> _Array:
        if kind is not _Array:
            raise pickle.UnpicklingError("it reconstructs something that is no array")
        return _Array()
