"""What the frozen backbone sees in an image: its last two stages, pooled to 4 x 4, as one row of numbers."""

from pathlib import Path

import numpy as np
import onnxruntime

BATCH = 64
SHIFTS = ((0, 0), (-2, 0), (2, 0), (0, -2), (0, 2))


class Backbone:
    """The ONNX network in backbone/: images [N, 3, 32, 32] in 0..1 to its middle and its last stage."""

    def __init__(self, path: Path, threads: int = 0):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # other processes need the cores too
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def features(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 [N, 32, 32, 3] -> float32 [N, 5888]. The root keeps the few very strong responses from outweighing all else."""
        rows = []
        for start in range(0, len(pixels), BATCH):
            images = pixels[start : start + BATCH].transpose(0, 3, 1, 2).astype(np.float32) / 255
            stages = self._session.run(["middle", "last"], {"images": images})
            rows.append(np.concatenate([stage.reshape(len(images), -1) for stage in stages], axis=1))
        return np.sqrt(np.maximum(np.concatenate(rows), 0))


def views(pixels: np.ndarray) -> list[np.ndarray]:
    """Ten versions of the images: as they are and shifted by two pixels four ways, each of them and its mirror."""
    padded = np.pad(pixels, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
    shifted = [padded[:, 2 + down : 34 + down, 2 + right : 34 + right] for down, right in SHIFTS]
    return [version for image in shifted for version in (image, mirrored(image))]


def mirrored(pixels: np.ndarray) -> np.ndarray:
    return pixels[:, :, ::-1]
