"""Features that need no pre-training: how near an image's patches are to 400 patches that k-means found in the images.

Source: Coates, Lee and Ng, An Analysis of Single-Layer Networks in Unsupervised Feature Learning (2011).
"""

from pathlib import Path

import numpy as np
from sklearn.cluster import MiniBatchKMeans

SIDE = 6
CENTROIDS = 400
SAMPLED_PATCHES = 50_000
BATCH = 32
CELLS = 3  # the 27 x 27 places of a 6 x 6 patch in a 32 x 32 image are pooled to 3 x 3
ARRAYS = ("mean", "whitening", "centroids")


class Patches:
    """mean [108], whitening [108, 108] and centroids [400, 108]: plain arrays, kept in an .npz file without pickles."""

    file_name = "patches.npz"

    def __init__(self, mean: np.ndarray, whitening: np.ndarray, centroids: np.ndarray):
        self.mean = mean
        self.whitening = whitening
        self.centroids = centroids

    @classmethod
    def learn(cls, pixels: np.ndarray, seed: int) -> "Patches":
        """From images uint8 [N, 32, 32, 3], without their labels."""
        rng = np.random.default_rng(seed)
        sampled = _sample(pixels, rng)
        mean = sampled.mean(axis=0)
        values, axes = np.linalg.eigh(np.cov(sampled - mean, rowvar=False))
        whitening = ((axes / np.sqrt(values + 0.1)) @ axes.T).astype(np.float32)
        means = MiniBatchKMeans(CENTROIDS, batch_size=4096, max_iter=20, n_init=1, random_state=seed)
        return cls(mean, whitening, means.fit((sampled - mean) @ whitening).cluster_centers_.astype(np.float32))

    def features(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 [N, 32, 32, 3] -> float32 [N, 3600]."""
        batches = (pixels[start : start + BATCH] for start in range(0, len(pixels), BATCH))
        return np.concatenate([self._batch(images) for images in batches])

    def _batch(self, pixels: np.ndarray) -> np.ndarray:
        patches = (_normalised(_windows(pixels)) - self.mean) @ self.whitening
        squares = (patches**2).sum(axis=1, keepdims=True) + (self.centroids**2).sum(axis=1)
        distances = np.sqrt(np.maximum(squares - 2 * patches @ self.centroids.T, 0))
        nearness = np.maximum(distances.mean(axis=1, keepdims=True) - distances, 0)
        pooled = nearness.reshape(len(pixels), CELLS, 9, CELLS, 9, -1).mean(axis=(2, 4))
        return pooled.reshape(len(pixels), -1) ** np.float32(0.25)

    def save(self, folder: Path) -> None:
        np.savez(folder / self.file_name, **{name: getattr(self, name) for name in ARRAYS})

    @classmethod
    def load(cls, folder: Path) -> "Patches":
        with np.load(folder / cls.file_name, allow_pickle=False) as arrays:
            return cls(*[arrays[name] for name in ARRAYS])


def _windows(pixels: np.ndarray) -> np.ndarray:
    """All patches of the images: [N * 27 * 27, 108]."""
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (SIDE, SIDE), axis=(1, 2))
    return windows.reshape(-1, 3 * SIDE * SIDE)


def _sample(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Normalised patches [50,000, 108] from places at random."""
    images = rng.integers(0, len(pixels), SAMPLED_PATCHES)
    rows, columns = rng.integers(0, 33 - SIDE, (2, SAMPLED_PATCHES))
    across = np.arange(SIDE)
    places = images[:, None, None], (rows[:, None] + across)[:, :, None], (columns[:, None] + across)[:, None, :]
    return _normalised(pixels[places].transpose(0, 3, 1, 2).reshape(SAMPLED_PATCHES, -1))


def _normalised(patches: np.ndarray) -> np.ndarray:
    """Without their brightness and contrast: float32."""
    patches = patches.astype(np.float32)
    patches -= patches.mean(axis=1, keepdims=True)
    return patches / np.sqrt(patches.var(axis=1, keepdims=True) + 10)
