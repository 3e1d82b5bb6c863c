"""What a program is told when it calls a local AWS that is no more, and how its next one gets a fresh start."""

import sys

import boto3
from botocore.exceptions import EndpointConnectionError
from botocore.handlers import BUILTIN_HANDLERS, REGISTER_FIRST

_urls: set[str] = set()


class LocalAwsGone(ConnectionError):
    """Nothing answers at the URL of a local AWS that this process was pointed at; the message says what to do."""


def point_at(url: str) -> None:
    """From now on clients of this URL raise LocalAwsGone at once, in place of retrying, when nothing answers there."""
    if not _urls:
        # botocore gives these handlers to every session that is made later, the SageMaker SDK's included.
        BUILTIN_HANDLERS.append(("needs-retry", _say_that_it_is_gone, REGISTER_FIRST))
    _urls.add(url)
    _forget_clients_of_the_last_one()


def _say_that_it_is_gone(request_dict: dict, caught_exception: Exception | None, **_) -> None:
    if not isinstance(caught_exception, EndpointConnectionError):
        return
    for url in _urls:
        if request_dict["url"].startswith(f"{url}/"):
            raise LocalAwsGone(
                f"The local AWS at {url} is gone and what it held with it: run the notebook again from its first cell, "
                "or call local_aws.start() and make new clients"
            ) from caught_exception


def _forget_clients_of_the_last_one() -> None:
    """boto3 keeps a session with the last server's keys; the SageMaker SDK keeps clients, of CloudWatch Logs too."""
    boto3.DEFAULT_SESSION = None
    if sdk := sys.modules.get("sagemaker.core.utils.utils"):
        sdk.SageMakerClient.reset()
        sdk.SingletonMeta._instances.clear()
