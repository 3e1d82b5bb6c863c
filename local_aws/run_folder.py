"""A server's private folder: gone when the server stops, or swept up by the next one where it was killed."""

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

PREFIX = "local-aws-"
LOCK = "in-use"


class RunFolder:
    """A new folder, readable by its user alone (0700), locked for as long as this process lives."""

    def __init__(self):
        _sweep()
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._lock = open(self.path / LOCK, "w")  # noqa: SIM115, held open until remove()
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def _sweep() -> None:
    """Removes this user's folders whose servers are gone: the lock of a process ends with it, however it died."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            if folder.stat().st_uid != os.getuid():
                continue
            with open(folder / LOCK) as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue  # in use, being made, or removed by another server meanwhile
