"""A trained model: what sees the features, their components, and the classifier. Nothing of it is ever unpickled."""

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from local_aws.image_classification.classifier import Classifier, fit_classifiers
from local_aws.image_classification.components import Components, find_components
from local_aws.image_classification.failures import JobFailed
from local_aws.image_classification.features import Backbone
from local_aws.image_classification.patches import Patches
from local_aws.image_classification.pictures import SIDE

CLASSIFIER_FILE = "classifier.npz"
COMPONENTS_ARRAYS = ("mean", "projection")
CLASSIFIER_ARRAYS = ("landmarks", "gamma", "coefficients", "slopes", "intercepts")
MAX_ARRAY_BYTES = 512 * 1024**2
IMAGES_FOR_COMPONENTS = 1000
BATCH = 256


@dataclass(frozen=True)
class Model:
    extractor: Backbone | Patches
    components: Components
    classifier: Classifier

    def predict(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 [N, 32, 32, 3] -> the probabilities [N, K], from each image and its mirror."""
        return self.classifier.probabilities(_see(self.extractor, self.components, pixels))

    def save(self, folder: Path) -> None:
        self.extractor.save(folder)
        np.savez(folder / CLASSIFIER_FILE, **vars(self.components), **vars(self.classifier))


def fit_models(
    extractor: Backbone | Patches, pixels: np.ndarray, labels: np.ndarray, classes: int, seed: int = 0
) -> Iterator[Model]:
    """Yields a first model soon, then the one that cross-validation has chosen. uint8 [N, 32, 32, 3], int [N]."""
    order = np.random.default_rng(seed).permutation(len(pixels))
    first, rest = order[:IMAGES_FOR_COMPONENTS], order[IMAGES_FOR_COMPONENTS:]
    features = extractor.features(_with_mirrors(pixels[first]))
    components = find_components(features)
    views = np.empty((2, len(pixels), components.projection.shape[1]), np.float32)
    views[:, first] = components.project(features).reshape(2, len(first), -1)
    if len(rest):
        views[:, rest] = _see(extractor, components, pixels[rest])
    for classifier in fit_classifiers(views, labels, classes, seed):
        yield Model(extractor, components, classifier)


def load_model(folder: Path) -> Model:
    """Raises JobFailed for a folder that holds no model of this algorithm, by trying it on a black image."""
    try:
        kind = next(kind for kind in (Backbone, Patches) if (folder / kind.file_name).is_file())
        for file in folder.glob("*.npz"):
            _check_size(file)
        with np.load(folder / CLASSIFIER_FILE, allow_pickle=False) as arrays:
            components = Components(*[arrays[name] for name in COMPONENTS_ARRAYS])
            classifier = Classifier(*[arrays[name] for name in CLASSIFIER_ARRAYS])
        model = Model(kind.load(folder), components, classifier)
        _check_answer(model.predict(np.zeros((1, SIDE, SIDE, 3), np.uint8)))
        return model
    except StopIteration:
        names = f"{Backbone.file_name} or {Patches.file_name}"
        raise JobFailed(f"The model has neither {names}; train it with the local algorithm") from None
    except Exception as error:  # whatever a broken or hostile file makes numpy or ONNX Runtime raise
        raise JobFailed(f"The model cannot be loaded ({type(error).__name__}: {error}); train it again") from error


def _see(extractor: Backbone | Patches, components: Components, pixels: np.ndarray) -> np.ndarray:
    """The components [2, N, D] of the images and of their mirrors, batch by batch so that memory stays bounded."""
    seen = []
    for start in range(0, len(pixels), BATCH):
        both = components.project(extractor.features(_with_mirrors(pixels[start : start + BATCH])))
        seen.append(both.reshape(2, len(both) // 2, -1))
    return np.concatenate(seen, axis=1)


def _with_mirrors(pixels: np.ndarray) -> np.ndarray:
    return np.concatenate([pixels, pixels[:, :, ::-1]])


def _check_size(file: Path) -> None:
    with zipfile.ZipFile(file) as arrays:
        size = sum(member.file_size for member in arrays.infolist())
    if size > MAX_ARRAY_BYTES:
        raise ValueError(f"{file.name} unpacks to {size} bytes; at most {MAX_ARRAY_BYTES} are read")


def _check_answer(probabilities: np.ndarray) -> None:
    if probabilities.ndim != 2 or not np.isfinite(probabilities).all():
        raise ValueError(f"it answers {probabilities} to a black image, which are no probabilities")
