"""Says in one sentence what is wrong with an account, a region or a right, in place of the SDK's stack trace."""

import atexit
import sys

from boto3 import Session
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoAuthTokenError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProfileNotFound,
    TokenRetrievalError,
)

DENIED = ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AuthorizationError")
EXPIRED = ("ExpiredToken", "ExpiredTokenException", "RequestExpired")
UNKNOWN_KEY = ("InvalidClientTokenId", "UnrecognizedClientException", "InvalidAccessKeyId", "SignatureDoesNotMatch")
OTHER_REGION = ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301")


class NotReady(Exception):
    """The account cannot be used as it is; the message is one sentence that says what to do."""


def explain(error: BaseException) -> str | None:
    """One sentence that says what to do about an error of boto3 or of scones; None for one that has none here."""
    if isinstance(error, NotReady):
        return str(error)
    if isinstance(error, (NoCredentialsError, PartialCredentialsError, ProfileNotFound)):
        return (
            "No AWS credentials were found: run `aws configure` or set AWS_PROFILE, or run with TARGET=local, which "
            "needs none."
        )
    if isinstance(error, NoRegionError):
        return "No region is chosen: set AWS_DEFAULT_REGION, us-east-1 say, and start the kernel again."
    if isinstance(error, (NoAuthTokenError, TokenRetrievalError)):
        return "Your sign-in has ended: run `aws sso login` and start the kernel again."
    if isinstance(error, ClientError):
        return _explain_answer(error)
    return None


def _explain_answer(error: ClientError) -> str | None:
    code, message = error.response["Error"]["Code"], error.response["Error"]["Message"]
    if code in EXPIRED:
        return "Your credentials have expired: sign in again and start the kernel again."
    if code in UNKNOWN_KEY:
        return "AWS does not know your access key: check `aws sts get-caller-identity`, and run `aws configure` again."
    if "assume" in message.lower() and "sts:AssumeRole" not in message:
        return (
            f"The service may not assume the role that {error.operation_name} names: have the role's trust policy name "
            f"the service, or let the notebook make the role ({message})."
        )
    if code in DENIED:
        return f"You or the role in use may not do {error.operation_name}: have that right added ({message})."
    if code in OTHER_REGION:
        return (
            "The bucket is in another region than this session: set AWS_DEFAULT_REGION to the bucket's region, or take "
            "a bucket of this one."
        )
    if code == "StateMachineDeleting":
        return "A state machine of that name is still being deleted: wait a minute, and run this cell again."
    if code == "ResourceLimitExceeded":
        return f"A quota of the account is used up: ask for more in the Service Quotas console ({message})."
    if code in ("ValidationError", "ValidationException") and "Creating" in message:
        return "The endpoint is still being created: wait until it is InService, and call again."
    if code in ("ValidationError", "ValidationException") and error.operation_name == "InvokeEndpoint":
        return f"The endpoint cannot be called: see in the SageMaker console if it is InService ({message})."
    return None


def check_account(session: Session) -> dict[str, str]:
    """The account and the caller's ARN. Raises NotReady where the session has no credentials, region or access."""
    try:
        if not session.region_name:
            raise NoRegionError
        identity = session.client("sts").get_caller_identity()
    except (BotoCoreError, ClientError) as error:
        raise NotReady(explain(error) or f"AWS cannot be reached: {error}") from None
    return {"account": identity["Account"], "caller": identity["Arn"], "region": session.region_name}


def check_bucket(session: Session, bucket: str) -> None:
    """Raises NotReady for a bucket that is not there, not yours, or in another region than the session."""
    try:
        answer = session.client("s3").head_bucket(Bucket=bucket)
    except ClientError as error:
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        reasons = {
            301: explain_other_region(bucket, session),
            403: f"The bucket {bucket} is not yours to use: take another, or have s3:ListBucket on it added.",
            404: f"There is no bucket {bucket}: create it, or take another.",
        }
        raise NotReady(reasons.get(status, f"The bucket {bucket} cannot be used: {error}")) from None
    except BotoCoreError as error:
        raise NotReady(explain(error) or f"S3 cannot be reached: {error}") from None
    if answer.get("BucketRegion", session.region_name) != session.region_name:
        raise NotReady(explain_other_region(bucket, session))


def explain_other_region(bucket: str, session: Session) -> str:
    return (
        f"The bucket {bucket} is in another region than this session's {session.region_name}, and SageMaker reads only "
        "buckets of its own: take a bucket of this region, or set AWS_DEFAULT_REGION to the bucket's."
    )


def use_one_sentence() -> None:
    """Has a notebook show one sentence in place of a stack trace for the errors that explain() knows.

    The cell has failed all the same, and the run ends there. Outside of a notebook this changes nothing.
    """
    from IPython import get_ipython

    shell = get_ipython()
    if shell is None:
        return
    show_traceback = shell.showtraceback

    def show(exc_tuple=None, *args, **options) -> None:
        kind, error, _ = exc_tuple or sys.exc_info()
        sentence = explain(error)
        if sentence is None:
            show_traceback(exc_tuple, *args, **options)
        else:
            shell._showtraceback(kind, error, [sentence])

    shell.showtraceback = show


def remind_of(session: Session, endpoint: str) -> None:
    """Says at the end of the program that the endpoint goes on costing money, if it is still there then."""

    def remind() -> None:
        try:
            status = session.client("sagemaker").describe_endpoint(EndpointName=endpoint)["EndpointStatus"]
        except (ClientError, BotoCoreError, OSError):
            return
        print(
            f"The endpoint {endpoint} is {status} and costs money for every hour: run the notebook's last section, or "
            f"aws sagemaker delete-endpoint --endpoint-name {endpoint}",
            file=sys.__stderr__,  # a notebook's own is closed by then
            flush=True,
        )

    atexit.register(remind)
