"""What the tests share: the repository's root and one real local AWS for the whole session."""

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("MPLBACKEND", "Agg")


@pytest.fixture(scope="session")
def local():
    """A running local AWS; boto3 clients made after this fixture talk to it."""
    import local_aws

    aws = local_aws.start()
    yield aws
    aws.stop()
