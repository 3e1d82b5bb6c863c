"""Image files to pixels: PNG and JPEG, of a size that is safe to decode, resized to what the backbone takes."""

import io
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError

from local_aws.image_classification.failures import RequestRefused

SIDE = 32
MAX_PIXELS = 25_000_000
FORMATS = ("PNG", "JPEG")


def read_picture(content: bytes, at_least: tuple[int, int] = (1, 1)) -> np.ndarray:
    """uint8 [32, 32, 3], resized without keeping the aspect ratio, as the service does.

    Raises RequestRefused: 415 for what is no image, 400 for one that is absurdly large or smaller than at_least
    (height, width).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the size is checked before decoding
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                _check_size(image, at_least)
                colour = image.convert("RGB")
    except RequestRefused:
        raise
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError) as error:
        raise RequestRefused(415, f"This is no readable PNG or JPEG image ({type(error).__name__})") from None
    if colour.size != (SIDE, SIDE):
        colour = colour.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return np.asarray(colour)


def _check_size(image: Image.Image, at_least: tuple[int, int]) -> None:
    size = f"{image.width} x {image.height} pixels"
    if image.width * image.height > MAX_PIXELS:
        raise RequestRefused(400, f"the image has {size}; at most {MAX_PIXELS} are decoded")
    height, width = at_least
    if image.height < height or image.width < width:
        raise RequestRefused(400, f"the image has {size}, less than image_shape's {width} x {height}")
