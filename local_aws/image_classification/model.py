"""The model folder: the backbone's ONNX file and the classifier's arrays. Nothing in it is ever unpickled."""

import shutil
from pathlib import Path

import numpy as np

from local_aws.image_classification.classifier import Classifier
from local_aws.image_classification.failures import JobFailed
from local_aws.image_classification.features import Backbone

BACKBONE_FILE = "backbone.onnx"
CLASSIFIER_FILE = "classifier.npz"
ARRAYS = ("mean", "projection", "weights", "bias", "temperature")


def save_model(folder: Path, classifier: Classifier, backbone: Path) -> None:
    shutil.copyfile(backbone, folder / BACKBONE_FILE)
    np.savez(folder / CLASSIFIER_FILE, **{name: getattr(classifier, name) for name in ARRAYS})


def load_model(folder: Path) -> tuple[Backbone, Classifier]:
    """Raises JobFailed for a folder that holds no model of this algorithm."""
    try:
        with np.load(folder / CLASSIFIER_FILE, allow_pickle=False) as arrays:
            classifier = Classifier(*[arrays[name] for name in ARRAYS[:-1]], temperature=float(arrays["temperature"]))
        return Backbone(folder / BACKBONE_FILE, threads=1), classifier
    except Exception as error:  # whatever a broken or hostile file makes numpy or ONNX Runtime raise
        raise JobFailed(f"The model cannot be loaded ({type(error).__name__}: {error}); train it again") from error
