"""Which function an Invoke means, and what of it a worker depends on."""

import re
from dataclasses import dataclass, field

from local_aws import records
from local_aws.json_protocol import ServiceError

# The pattern of the API reference, its optional parts named.
NAME = re.compile(
    r"(?:arn:aws[a-zA-Z-]*:lambda:)?(?:(?P<region>[a-z]{2}(?:-[a-z]+)+-\d):)?(?:(?P<account>\d{12}):)?(?:function:)?"
    r"(?P<name>[a-zA-Z0-9-_.]+)(?::(?P<qualifier>\$LATEST|[a-zA-Z0-9-_]+))?"
)
PYTHON = re.compile(r"python3\.\d+")


@dataclass(frozen=True)
class FunctionVersion:
    """A function's configuration at the moment of an invocation. Workers serve exactly one: an update makes another."""

    arn: str
    name: str
    version: str
    region: str
    role: str
    runtime: str
    handler: str
    timeout: int  # seconds
    memory_size: int  # MB
    environment: tuple[tuple[str, str], ...]
    code_sha256: str
    last_modified: str
    reserved_concurrency: int | None = field(compare=False)
    code: bytes = field(repr=False, compare=False)  # the zip; code_sha256 stands for it

    @classmethod
    def of(cls, record) -> "FunctionVersion":
        latest = records.function(record.region, record.function_name, None)
        reserved = latest.reserved_concurrency if latest else None
        return cls(
            arn=record.function_arn,
            name=record.function_name,
            version=str(record.version),
            region=record.region,
            role=record.role,
            runtime=record.run_time,
            handler=record.handler,
            timeout=int(record.timeout),
            memory_size=int(record.memory_size),
            environment=tuple((name, str(value)) for name, value in (record.environment_vars or {}).items()),
            code_sha256=record.code_sha_256,
            last_modified=record.last_modified,
            reserved_concurrency=None if reserved is None else int(reserved),
            code=record.code_bytes,
        )

    def is_another_state_of(self, other: "FunctionVersion") -> bool:
        return (self.arn, self.version) == (other.arn, other.version) and self != other


def find(name_or_arn: str, qualifier: str | None, region: str):
    """moto's record of the function that was named, and its ARN as the handler's context shows it.

    Accepts a name, an ARN or a partial ARN, each with or without a version or an alias. Raises ServiceError.
    """
    found = NAME.fullmatch(name_or_arn)
    if found is None:
        raise ServiceError(
            "ValidationException",
            f"1 validation error detected: Value '{name_or_arn}' at 'functionName' failed to satisfy constraint: "
            f"Member must satisfy regular expression pattern: {NAME.pattern}",
        )
    if found["region"] not in (None, region):
        raise ServiceError(
            "ResourceNotFoundException",
            f"Functions from '{found['region']}' are not reachable in this region ('{region}')",
            404,
        )
    if found["qualifier"] and qualifier and found["qualifier"] != qualifier:
        raise ServiceError(
            "InvalidParameterValueException",
            "The derived qualifier from the function name does not match the specified qualifier.",
        )
    qualifier = found["qualifier"] or qualifier
    arn = f"arn:aws:lambda:{region}:{found['account'] or records.ACCOUNT}:function:{found['name']}"
    if qualifier:
        arn = f"{arn}:{qualifier}"
    record = records.function(region, found["name"], qualifier) if found["account"] in (None, records.ACCOUNT) else None
    if record is None:
        raise ServiceError("ResourceNotFoundException", f"Function not found: {arn}", 404)
    return record, arn


def check_supported(record) -> None:
    """Raises ServiceError for a function that no worker can run."""
    if record.package_type != "Zip":
        _refuse(record, f"a container image (package type {record.package_type})")
    if not PYTHON.fullmatch(record.run_time or ""):
        _refuse(record, f"the runtime {record.run_time}")
    if record.layers:
        _refuse(record, f"layers ({record.layers[0]['Arn']})")


def _refuse(record, what: str) -> None:
    raise ServiceError(
        "InvalidRuntimeException",
        f"The local AWS runs Python functions in zip packages without layers only; {record.function_name} has {what}",
        502,
    )
