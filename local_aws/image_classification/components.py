"""The principal components of features: of thousands of numbers an image, the 256 in which images differ most."""

from dataclasses import dataclass

import numpy as np

DIMENSIONS = 256
FLOOR = 0.1  # of the mean deviation: what hardly ever varies is not blown up


@dataclass(frozen=True)
class Components:
    """mean [F] and projection [F, D]."""

    mean: np.ndarray
    projection: np.ndarray

    def project(self, features: np.ndarray) -> np.ndarray:
        """float32 [N, F] -> [N, D]"""
        return (features - self.mean) @ self.projection


def find_components(features: np.ndarray) -> Components:
    """Of features [N, F], each scaled to unit deviation, by way of the small N x N Gram matrix; no label is needed."""
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    scale = 1 / (deviation + FLOOR * deviation.mean() + np.float32(1e-9))
    centred = (features - mean) * scale
    values, vectors = np.linalg.eigh((centred @ centred.T).astype(np.float64))
    order = np.argsort(values)[::-1][:DIMENSIONS]
    kept = order[values[order] > values[order[0]] * 1e-9]
    axes = centred.T @ (vectors[:, kept] / np.sqrt(values[kept])).astype(np.float32)
    return Components(mean, scale[:, None] * axes)
