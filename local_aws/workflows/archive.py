"""What is kept of executions that have ended: on disk, so that memory does not grow with their payloads."""

import errno
import json
import os
import re
import threading
import zlib
from pathlib import Path

LONG_RUN = re.compile(r"[A-Za-z0-9+/=_-]{256,}")  # base64, as a rule
REFERENCE = re.compile(r"\x00(\d+)\x00")  # JSON texts have no such character


class Archive:
    def __init__(self, path: Path):
        # Unbuffered: on a full disk the execution in hand must fail to be kept, not one that was thought to be safe.
        self._file = open(path, "w+b", buffering=0)  # noqa: SIM115, open as long as the server
        self._lock = threading.Lock()

    def put(self, content: dict) -> tuple[int, int]:
        """Keeps it; returns the place to get it from. Raises OSError where the disk is full."""
        data = pack(json.dumps(content))
        with self._lock:
            place = self._file.seek(0, os.SEEK_END), len(data)
            if self._file.write(data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return place

    def get(self, place: tuple[int, int]) -> dict:
        offset, size = place
        with self._lock:
            self._file.seek(offset)
            data = self._file.read(size)
        return json.loads(unpack(data))


def pack(text: str) -> bytes:
    """A history repeats an image in every event; each long run of letters and digits is written once."""
    runs: dict[str, int] = {}
    short = LONG_RUN.sub(lambda found: f"\x00{runs.setdefault(found[0], len(runs))}\x00", text)
    return zlib.compress("\n".join([str(len(runs)), *runs, short]).encode(), 1)


def unpack(data: bytes) -> str:
    count, rest = zlib.decompress(data).decode().split("\n", 1)
    *runs, short = rest.split("\n", int(count))
    return REFERENCE.sub(lambda found: runs[int(found[1])], short)
