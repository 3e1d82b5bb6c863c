"""What the tests share: the repository's root and one real local AWS for the whole session."""

import contextlib
import os
import sys
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("MPLBACKEND", "Agg")
for name in [name for name in os.environ if name.startswith(("AWS_", "SAGEMAKER_")) and name != "AWS_CA_BUNDLE"]:
    del os.environ[name]  # no setting of the developer's own account reaches a test
os.environ["AWS_DEFAULT_REGION"] = "us-east-1"


@pytest.fixture(scope="session")
def local():
    """A running local AWS; boto3 clients made after this fixture talk to it."""
    import local_aws

    aws = local_aws.start()
    yield aws
    aws.stop()


@contextlib.contextmanager
def own_server(**environment: str):
    """Another local AWS, for what must not happen to the shared one; boto3 clients made meanwhile talk to it."""
    import boto3

    import local_aws

    environment_before, session_before = dict(os.environ), boto3.DEFAULT_SESSION
    os.environ.update(environment)
    aws = local_aws.start()
    try:
        yield aws
    finally:
        aws.stop()
        os.environ.clear()
        os.environ.update(environment_before)
        boto3.DEFAULT_SESSION = session_before


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def children_of(pid: int) -> list[int]:
    """The process ids of what a process has started, theirs included; empty where it is gone."""
    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def processes_of(pid: int, *words: str) -> list[int]:
    """The process ids of what a process has started and whose command line holds all of these words."""
    return [child for child in children_of(pid) if set(words) <= set(_command_line(child))]


def _command_line(pid: int) -> list[str]:
    try:
        return psutil.Process(pid).cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []
