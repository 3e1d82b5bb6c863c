"""ImageDataSerialize: brings an image from S3 as base64, so that it fits into the workflow's payload."""

import base64
import json

import boto3
from botocore.exceptions import ClientError

PAYLOAD_LIMIT = 262_144  # bytes that Step Functions takes between two states
SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")  # PNG, JPEG
s3 = boto3.client("s3")


class InvalidEvent(Exception): ...


class ImageNotFound(Exception): ...


class ImageTooLarge(Exception): ...


class NotAnImage(Exception): ...


def lambda_handler(event, context):
    image = read_event(event)
    try:
        content = s3.get_object(Bucket=image["s3_bucket"], Key=image["s3_key"])
    except ClientError as error:
        raise ImageNotFound(f"s3://{image['s3_bucket']}/{image['s3_key']}: {error}") from None
    if content["ContentLength"] * 4 / 3 > PAYLOAD_LIMIT - 4096:
        raise ImageTooLarge(f"{content['ContentLength']} bytes")
    data = content["Body"].read()
    if not data.startswith(SIGNATURES):
        raise NotAnImage(image["s3_key"])
    return {"statusCode": 200, "body": {**image, "image_data": base64.b64encode(data).decode(), "inferences": []}}


def read_event(event):
    body = event.get("body", event)
    return json.loads(body) if isinstance(body, str) else body
