"""AWS on this machine: the services that the notebook uses, in one process on 127.0.0.1, doing the real work.

moto keeps the records; each module here is the part of one service that moto only pretends to do.

    import local_aws
    aws = local_aws.start()          # its own process; ends with this one, however this one ends
    boto3.client("s3")               # now talks to it: start() has set the environment
    aws.stop()

From a shell: python -m local_aws
"""

from local_aws.client import LocalAws, connect, start
from local_aws.gone import LocalAwsGone

__all__ = ["LocalAws", "LocalAwsGone", "connect", "start"]
