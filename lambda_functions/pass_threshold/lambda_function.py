"""ImageDataPassThreshold: stops what the model is not sure of."""

import json
import os

THRESHOLD = float(os.environ.get("THRESHOLD", "0.9"))


class ThresholdNotMet(Exception): ...


def lambda_handler(event, context):
    body = event.get("body", event)
    image = json.loads(body) if isinstance(body, str) else body
    if max(image["inferences"]) < THRESHOLD:
        raise ThresholdNotMet(f"THRESHOLD_CONFIDENCE_NOT_MET: {max(image['inferences'])} < {THRESHOLD}")
    return {"statusCode": 200, "body": image}
