"""Features to probabilities: a projection, a multinomial logistic regression, and a temperature.

Regularisation and temperature are chosen by cross-validation on the training images alone; all views of an image stay in
one fold. Everything is deterministic for a seed.
"""

from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

DIMENSIONS = 256
STRENGTHS = (0.1, 0.3, 1.0)
FOLDS = 5
TEMPERATURES = np.geomspace(0.5, 2.0, 41)


@dataclass(frozen=True)
class Classifier:
    """mean [F], projection [F, D], weights [K, D], bias [K]: plain arrays, kept in an .npz file without pickles."""

    mean: np.ndarray
    projection: np.ndarray
    weights: np.ndarray
    bias: np.ndarray
    temperature: float

    def probabilities(self, views: list[np.ndarray]) -> np.ndarray:
        """float [N, K]: the mean over the views of an image; each view is its features [N, F]."""
        return np.mean([softmax(self._scores(features) / self.temperature) for features in views], axis=0)

    def _scores(self, features: np.ndarray) -> np.ndarray:
        return (features - self.mean) @ self.projection @ self.weights.T + self.bias


def train_classifier(views: list[np.ndarray], labels: np.ndarray, classes: int, seed: int = 0) -> Classifier:
    """views: the features [N, F] of each version of the images, the first two as they are and mirrored; labels [N]."""
    mean, projection = _principal_axes(np.concatenate(views[:2]))
    projected = np.stack([(features - mean) @ projection for features in views])
    strength, held_out, held_out_labels = _choose_strength(projected, labels, seed)
    weights, bias = _fit(projected, labels, strength, classes)
    return Classifier(mean, projection, weights, bias, _choose_temperature(held_out, held_out_labels))


def softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def _principal_axes(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean, and the main axes scaled so that the first has unit variance, by way of the small Gram matrix."""
    mean = features.mean(axis=0)
    centred = features - mean
    values, vectors = np.linalg.eigh((centred @ centred.T).astype(np.float64))
    order = np.argsort(values)[::-1][:DIMENSIONS]
    kept = order[values[order] > values[order[0]] * 1e-9]
    axes = centred.T @ (vectors[:, kept] / np.sqrt(values[kept])).astype(np.float32)
    return mean, axes / np.float32(np.sqrt(values[order[0]] / len(features)))


def _fit(projected: np.ndarray, labels: np.ndarray, strength: float, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """weights [K, D] and bias [K] from all views [V, N, D]; a class without images gets no chance."""
    model = LogisticRegression(C=strength, max_iter=500)
    model.fit(projected.reshape(-1, projected.shape[-1]), np.tile(labels, len(projected)))
    weights, bias = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # scikit-learn keeps one row for two classes: that of the second
        weights, bias = np.stack([-weights[0] / 2, weights[0] / 2]), np.array([-bias[0] / 2, bias[0] / 2])
    all_weights, all_bias = np.zeros((classes, weights.shape[1])), np.full(classes, -1e3)
    all_weights[model.classes_], all_bias[model.classes_] = weights, bias
    return all_weights, all_bias


def _choose_strength(projected: np.ndarray, labels: np.ndarray, seed: int) -> tuple[float, np.ndarray, np.ndarray]:
    """The inverse regularisation of the lowest held-out loss, with the held-out scores [2, N, K] and labels behind it."""
    folds = min(FOLDS, np.bincount(labels)[np.unique(labels)].min())
    if folds < 2:
        return STRENGTHS[0], np.zeros((2, len(labels), 1)), np.zeros(len(labels), int)
    splits = list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(projected[0], labels))
    classes = labels.max() + 1
    best = None
    for strength in STRENGTHS:
        scores = np.empty((2, len(labels), classes))
        for train, held in splits:
            weights, bias = _fit(projected[:, train], labels[train], strength, classes)
            scores[:, held] = projected[:2, held] @ weights.T + bias
        loss = _loss(scores, labels, 1.0)
        if best is None or loss < best[0]:
            best = (loss, strength, scores)
    return best[1], best[2], labels


def _choose_temperature(scores: np.ndarray, labels: np.ndarray) -> float:
    return float(min(TEMPERATURES, key=lambda temperature: _loss(scores, labels, temperature)))


def _loss(scores: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    """The mean negative log-likelihood of the views' mean probabilities."""
    probabilities = softmax(scores / temperature).mean(axis=0)
    return float(-np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-12)).mean())
