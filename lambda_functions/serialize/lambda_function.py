"""ImageDataSerialize: brings an image from S3 as base64 text, for the states that follow.

event and result's body: {"image_data": "", "s3_bucket": "...", "s3_key": "...", "inferences": []}
"""

import base64
import json

import boto3
from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

PAYLOAD_BYTES = 262_144  # as base64, with the rest of the event, it must fit what Step Functions passes between states
SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")  # PNG, JPEG

s3 = boto3.client("s3")


class InvalidEvent(Exception): ...


class ImageNotFound(Exception): ...


class StorageUnavailable(Exception): ...


class ImageTooLarge(Exception): ...


class NotAnImage(Exception): ...


def lambda_handler(event, context):
    request = read_request(event)
    image = read_image(request["s3_bucket"], request["s3_key"])
    result = {"statusCode": 200, "body": {**request, "image_data": base64.b64encode(image).decode(), "inferences": []}}
    if len(json.dumps(result)) > PAYLOAD_BYTES:
        raise ImageTooLarge(
            f"{request['s3_key']}: image and event have over {PAYLOAD_BYTES} bytes; use a smaller image"
        )
    return result


def read_request(event):
    request = event.get("body", event) if isinstance(event, dict) else event
    try:
        request = json.loads(request) if isinstance(request, str) else request
    except (ValueError, RecursionError) as error:
        raise InvalidEvent(f"The body is no JSON: {error}") from None
    for name in ("s3_bucket", "s3_key"):
        if not isinstance(request, dict) or not isinstance(request.get(name), str) or not request[name]:
            raise InvalidEvent(f"The event must be an object with a text {name}")
    return request


def read_image(bucket, key):
    name = f"s3://{bucket}/{key}"
    try:
        answer = s3.get_object(Bucket=bucket, Key=key)
        if answer["ContentLength"] > PAYLOAD_BYTES * 3 // 4:
            raise ImageTooLarge(f"{name} has {answer['ContentLength']} bytes; use a smaller image")
        image = answer["Body"].read()
    except (ParamValidationError, ValueError) as error:
        raise ImageNotFound(f"{name} cannot exist: {error}") from None
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] >= 500:
            raise StorageUnavailable(f"{name}, also when it was tried again: {error}") from None
        raise ImageNotFound(f"{name} is missing, or this function's role may not read it: {error}") from None
    except BotoCoreError as error:
        raise StorageUnavailable(f"{name}: {error}") from None
    if not image.startswith(SIGNATURES):
        raise NotAnImage(f"{name} is neither PNG nor JPEG by its first bytes")
    return image
