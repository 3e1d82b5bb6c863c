"""Draws bicycles and motorcycles, for a run that has neither CIFAR-100 nor a network.

Thin wheels and an open frame against thick wheels and a solid body, in varied poses, colours, light and blur: a model
can learn them, but not from one pixel. They are no CIFAR-100, and no figure measured on them says anything about it.
"""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIDE = 32
CANVAS = 128


def draw_stand_in(name: str, rng: np.random.Generator) -> np.ndarray:
    """One image, uint8 [32, 32, 3], of a "bicycle" or a "motorcycle"."""
    image = _background(rng)
    vehicle = Image.new("RGBA", (CANVAS, CANVAS))
    {"bicycle": _bicycle, "motorcycle": _motorcycle}[name](ImageDraw.Draw(vehicle), rng)
    if rng.random() < 0.5:
        vehicle = vehicle.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    right, down = rng.integers(-10, 11, 2)
    vehicle = vehicle.rotate(rng.uniform(-18, 18), Image.Resampling.BILINEAR, translate=(int(right), int(down)))
    image.paste(vehicle, mask=vehicle)
    _occlude(image, rng)
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 3.5))).resize((SIDE, SIDE), Image.Resampling.BOX)
    noisy = np.asarray(image, float) * rng.uniform(0.7, 1.15) + rng.normal(0, rng.uniform(2, 14), (SIDE, SIDE, 3))
    return noisy.clip(0, 255).astype(np.uint8)


def _background(rng: np.random.Generator) -> Image.Image:
    """Sky above, ground below, each a colour of its own with soft blotches."""
    pixels = np.empty((CANVAS, CANVAS, 3))
    horizon = int(rng.integers(30, 110))
    pixels[:horizon] = rng.integers(90, 256, 3)
    pixels[horizon:] = rng.integers(50, 230, 3)
    blotches = Image.fromarray(rng.integers(0, 256, (6, 6), np.uint8)).resize(
        (CANVAS, CANVAS), Image.Resampling.BICUBIC
    )
    pixels += (np.asarray(blotches, float)[..., None] - 128) * rng.uniform(0, 0.5)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _wheels(draw: ImageDraw.ImageDraw, rng: np.random.Generator, radius: float, tyre: int) -> tuple[tuple, tuple]:
    colour = tuple(int(part) for part in rng.integers(0, 90, 3))
    height = rng.uniform(80, 92)
    half = rng.uniform(29, 35)
    hubs = (64 - half, height), (64 + half, height)
    for x, y in hubs:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=colour, width=tyre)
    return hubs


def _bicycle(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    rear, front = _wheels(draw, rng, rng.uniform(22, 28), int(rng.integers(2, 6)))
    colour = _paint(rng)
    width = int(rng.integers(3, 7))
    crank = (60, rear[1] + 2)
    saddle = (50 + rng.uniform(-3, 3), 46)
    head = (84 + rng.uniform(-3, 3), 48)
    for line in ((rear, crank), (rear, saddle), (crank, saddle), (crank, head), (saddle, head), (head, front)):
        draw.line(line, fill=colour, width=width)
    draw.line((saddle[0] - 8, 40, saddle[0] + 8, 40), fill=(20, 20, 20), width=5)
    draw.line((head, (head[0] - 2, 36), (head[0] + 8, 34)), fill=(40, 40, 40), width=4)


def _motorcycle(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    rear, front = _wheels(draw, rng, rng.uniform(20, 26), int(rng.integers(5, 11)))
    colour = _paint(rng)
    top = rng.uniform(46, 54)
    draw.line((front, (84, 38)), fill=(90, 90, 90), width=int(rng.integers(4, 8)))
    draw.polygon(((44, top + 6), (60, top), (86, top - 4), (88, top + 14), (70, top + 22), (50, top + 18)), fill=colour)
    draw.polygon(((28, top + 4), (52, top + 2), (58, top + 12), (34, top + 14)), fill=(25, 25, 25))
    engine = tuple(int(part) for part in rng.integers(60, 150, 3))
    draw.rectangle((50, top + 18, 50 + rng.uniform(16, 26), rear[1] + 4), fill=engine)
    draw.line((58, rear[1] + 4, rear[0] - 10, rear[1] + 6), fill=(150, 150, 150), width=int(rng.integers(3, 7)))
    draw.line(((84, 38), (76, 34)), fill=(30, 30, 30), width=5)
    if rng.random() < 0.5:
        draw.polygon(((84, 30), (96, 40), (90, 58), (82, 54)), fill=colour)


def _paint(rng: np.random.Generator) -> tuple[int, ...]:
    return tuple(int(part) for part in rng.integers(0, 256, 3))


def _occlude(image: Image.Image, rng: np.random.Generator) -> None:
    """Every third vehicle stands behind something."""
    if rng.random() < 0.33:
        x, y = rng.integers(0, CANVAS, 2)
        width, height = rng.integers(10, 45, 2)
        ImageDraw.Draw(image).rectangle((x, y, x + width, y + height), fill=_paint(rng))
