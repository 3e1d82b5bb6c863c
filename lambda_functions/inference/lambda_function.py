"""ImageDataInference: asks the SageMaker endpoint for the probabilities of the classes.

event: {"image_data": "<base64>", ...}; in the result's body inferences is filled in, as a list of floats.
"""

import base64
import json
import os

import boto3
from botocore.exceptions import BotoCoreError, ClientError

ENDPOINT_NAME = os.environ.get("ENDPOINT_NAME", "scones-unlimited-classifier")
PASSING = {"ValidationError", "ModelNotReadyException", "ServiceUnavailable", "InternalFailure", "ThrottlingException"}

runtime = boto3.client("sagemaker-runtime")


class InvalidEvent(Exception): ...


class NotAnImage(Exception): ...


class EndpointUnavailable(Exception): ...


def lambda_handler(event, context):
    request, image = read_request(event)
    content_type = "image/png" if image.startswith(b"\x89PNG") else "image/jpeg"
    return {"statusCode": 200, "body": {**request, "inferences": ask_endpoint(image, content_type)}}


def read_request(event):
    request = event.get("body", event) if isinstance(event, dict) else event
    try:
        request = json.loads(request) if isinstance(request, str) else request
        image = base64.b64decode(request["image_data"], validate=True)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InvalidEvent(f"The event must be an object with the image as base64 in image_data: {error!r}") from None
    if not image:
        raise InvalidEvent("image_data is empty; ImageDataSerialize fills it in")
    return request, image


def ask_endpoint(image, content_type):
    try:
        answer = runtime.invoke_endpoint(EndpointName=ENDPOINT_NAME, ContentType=content_type, Body=image)
        return [float(probability) for probability in json.loads(answer["Body"].read())]
    except ClientError as error:
        if error.response["Error"]["Code"] == "ModelError" and error.response.get("OriginalStatusCode", 500) < 500:
            raise NotAnImage(f"The model takes no such image: {error.response.get('OriginalMessage')}") from None
        if error.response["Error"]["Code"] not in PASSING | {"ModelError"}:
            raise
        raise EndpointUnavailable(f"{ENDPOINT_NAME}: {error}") from None
    except BotoCoreError as error:
        raise EndpointUnavailable(f"{ENDPOINT_NAME}: {error}") from None
