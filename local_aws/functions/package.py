"""Deployment packages: the zip of a function, unpacked once into a folder that stands for /var/task.

On AWS /var/task is read-only. Here the folder is this user's, and all workers of the same code share it.
"""

import io
import shutil
import stat
import threading
import zipfile
from hashlib import sha256
from pathlib import Path, PurePosixPath

UNPACKED_LIMIT = 250 << 20  # bytes, as on AWS
MEMBER_LIMIT = 100_000


class BadPackage(Exception):
    """The zip cannot be a function's code; the message says why."""


class TaskRoots:
    """The unpacked packages of one server, below a folder of its own."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._lock = threading.Lock()

    def unpack(self, code: bytes) -> Path:
        """The folder with that zip's files. Raises BadPackage."""
        root = self._folder / sha256(code).hexdigest()
        with self._lock:
            if not root.is_dir():
                partial = root.with_suffix(".partial")
                shutil.rmtree(partial, ignore_errors=True)
                _extract(code, partial)
                partial.rename(root)
        return root


def _extract(code: bytes, folder: Path) -> None:
    try:
        with zipfile.ZipFile(io.BytesIO(code)) as archive:
            _check(archive.infolist())
            folder.mkdir(parents=True)
            archive.extractall(folder)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise BadPackage(f"Could not unzip the function's code: {error}") from error


def _check(members: list[zipfile.ZipInfo]) -> None:
    """Refuses what would be written outside the folder, what is not a plain file, and what is absurdly large.

    The sizes that a zip declares bind: zipfile stops reading a member there.
    """
    if len(members) > MEMBER_LIMIT:
        raise BadPackage(f"The zip has {len(members)} members; at most {MEMBER_LIMIT} are unpacked")
    size = sum(member.file_size for member in members)
    if size > UNPACKED_LIMIT:
        raise BadPackage(f"Unzipped size must be smaller than {UNPACKED_LIMIT} bytes, not {size}")
    for member in members:
        path = PurePosixPath(member.filename.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts:
            raise BadPackage(f"The zip's member {member.filename!r} lies outside the function's folder")
        kind = stat.S_IFMT(member.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise BadPackage(f"The zip's member {member.filename!r} is neither a file nor a folder (a link, a device)")
