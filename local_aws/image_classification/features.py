"""What a frozen network sees in images: the responses of its last two stages, pooled to 4 x 4, as rows of numbers."""

from pathlib import Path

import numpy as np
import onnxruntime

SHIPPED = Path(__file__).parent / "backbone" / "backbone.onnx"
BATCH = 64


class Backbone:
    """The ONNX network in backbone/, or a copy of it in a model's folder."""

    file_name = "backbone.onnx"

    def __init__(self, path: Path, threads: int = 0):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # other processes need the cores too
        self._content = path.read_bytes()
        self._session = onnxruntime.InferenceSession(self._content, options, providers=["CPUExecutionProvider"])

    def features(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 [N, 32, 32, 3] -> float32 [N, 5888].

        The fourth root keeps the few very strong responses from outweighing all else.
        """
        rows = []
        for start in range(0, len(pixels), BATCH):
            images = pixels[start : start + BATCH].transpose(0, 3, 1, 2).astype(np.float32) / 255
            stages = self._session.run(["middle", "last"], {"images": images})
            rows.append(np.concatenate([stage.reshape(len(images), -1) for stage in stages], axis=1))
        return np.maximum(np.concatenate(rows), 0) ** np.float32(0.25)

    def save(self, folder: Path) -> None:
        (folder / self.file_name).write_bytes(self._content)

    @classmethod
    def load(cls, folder: Path) -> "Backbone":
        return cls(folder / cls.file_name, threads=1)
