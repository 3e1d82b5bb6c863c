"""The image-classification program by SageMaker's container contract: what it accepts, trains, logs and refuses."""

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image
from sagemaker_jobs import png

from local_aws.image_classification.failures import JobFailed, RequestRefused
from local_aws.image_classification.features import SHIPPED, Backbone
from local_aws.image_classification.hyperparameters import read_hyperparameters
from local_aws.image_classification.model import fit_models, load_model
from local_aws.image_classification.pictures import read_picture
from local_aws.image_classification.training import train
from local_aws.training import METRICS

ROOT = Path(__file__).parent.parent
REQUIRED = {"num_classes": "2", "num_training_samples": "24", "image_shape": "3,28,28", "num_layers": "20"}
NOTEBOOK = {
    **REQUIRED,
    **{
        "augmentation_type": "crop",
        "epochs": "30",
        "mini_batch_size": "32",
        "optimizer": "sgd",
        "learning_rate": "0.1",
    },
    **{"lr_scheduler_step": "20,26", "lr_scheduler_factor": "0.1", "momentum": "0.9", "weight_decay": "0.0001"},
}
VEHICLES = ("bicycle", "bus", "motorcycle", "pickup_truck", "train")
MORE_VEHICLES = ("lawn_mower", "rocket", "streetcar", "tank", "tractor")
real_images = pytest.mark.skipif("CIFAR100_ARCHIVE" not in os.environ, reason="CIFAR100_ARCHIVE is not set")


class Job:
    """A folder that stands for /opt/ml, with 24 training and 8 validation images of two classes."""

    def __init__(self, root: Path, **hyperparameters: str):
        self.root = root
        self.data = root / "input" / "data"
        (root / "input" / "config").mkdir(parents=True)
        (root / "model").mkdir()
        self.write_hyperparameters({**REQUIRED, **hyperparameters})
        for channel, count, offset in (("train", 24, 0), ("validation", 8, 1000)):
            images = [
                (f"{channel}_{number:03d}.png", number % 2, png(number % 2, number + offset)) for number in range(count)
            ]
            self.write_channel(channel, images)

    def write_hyperparameters(self, hyperparameters: dict[str, str]) -> None:
        (self.root / "input" / "config" / "hyperparameters.json").write_text(json.dumps(hyperparameters))

    def write_channel(self, channel: str, images: list[tuple[str, int, bytes]]) -> None:
        (self.data / channel).mkdir(parents=True, exist_ok=True)
        for name, _, content in images:
            (self.data / channel / name).write_bytes(content)
        self.write_list(channel, "".join(f"{row}\t{label}\t{name}\n" for row, (name, label, _) in enumerate(images)))

    def write_list(self, channel: str, text: str) -> None:
        (self.data / f"{channel}_lst").mkdir(exist_ok=True)
        (self.data / f"{channel}_lst" / f"{channel}.lst").write_text(text)

    def list_of(self, channel: str) -> str:
        return (self.data / f"{channel}_lst" / f"{channel}.lst").read_text()

    def failure(self) -> str:
        """Why the job fails: one line."""
        assert train(self.root) == 1
        reason = (self.root / "output" / "failure").read_text()
        assert "\n" not in reason
        assert list((self.root / "model").iterdir()) == []
        return reason

    def start(self) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", "local_aws.image_classification", "train", "--root", str(self.root)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )


@pytest.fixture
def job(tmp_path):
    return Job(tmp_path)


def write_data_set(job: Job, dataset, per_class: int) -> int:
    """Puts so many training images of each class, and half as many test images, into the channels; returns how many."""
    for channel, split, count in (("train", dataset.train, per_class), ("validation", dataset.test, per_class // 2)):
        places = [
            place for label in range(len(dataset.classes)) for place in np.flatnonzero(split.labels == label)[:count]
        ]
        images = [(split.names[place], int(split.labels[place]), as_png(split.pixels[place])) for place in places]
        job.write_channel(channel, images)
    return per_class * len(dataset.classes)


def peak_megabytes(process: subprocess.Popen) -> float:
    """The most memory that the process was seen to use until its end."""
    peak = 0.0
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        with contextlib.suppress(psutil.Error):
            peak = max(peak, watched.memory_info().rss / 2**20)
        time.sleep(0.02)
    return peak


def as_png(pixels: np.ndarray) -> bytes:
    return encoded(Image.fromarray(pixels), "PNG")


def encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


# Hyperparameters


def test_the_notebook_s_hyperparameters_are_accepted_and_what_has_no_effect_is_named():
    settings = read_hyperparameters(NOTEBOOK)
    assert (settings.num_classes, settings.num_training_samples) == (2, 24)
    assert "epochs" in settings.not_used
    assert "num_classes" not in settings.not_used


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"epoch": "30"}, "'epoch' is unknown"),
        ({"num_classes": "two"}, "num_classes must be a whole number of at least 2, it is 'two'"),
        ({"num_classes": "1"}, "num_classes must be a whole number of at least 2"),
        ({"num_training_samples": "24.5"}, "num_training_samples must be a whole number"),
        ({"num_training_samples": 24}, "num_training_samples must be a whole number of at least 1, it is 24"),
        ({"image_shape": "28,28"}, "image_shape must be three whole numbers: channels,height,width"),
        ({"image_shape": "4,28,28"}, "image_shape must begin with 3"),
        ({"num_layers": "21"}, "num_layers must be one of (20, 32, 44, 56, 110) for images of height 28"),
        (
            {"image_shape": "3,32,32"},
            "num_layers must be one of (18, 34, 50, 101, 152, 200, 269) for images of height 32",
        ),
        ({"learning_rate": "fast"}, "learning_rate must be a number within 0 and 1, it is 'fast'"),
        ({"learning_rate": "nan"}, "learning_rate must be a number within 0 and 1"),
        ({"optimizer": "lion"}, "optimizer must be sgd, adam, rmsprop or nag"),
        ({"lr_scheduler_step": "20;26"}, "lr_scheduler_step must be whole numbers with commas between"),
        ({"early_stopping": "yes"}, "early_stopping must be True or False"),
        ({"multi_label": "1"}, "multi_label=1 is not supported"),
    ],
)
def test_a_wrong_hyperparameter_is_named_with_its_rule(changes, says):
    with pytest.raises(JobFailed, match=re.escape(says)):
        read_hyperparameters({**REQUIRED, **changes})


@pytest.mark.parametrize("name", ["num_classes", "num_training_samples"])
def test_a_required_hyperparameter_that_is_missing_is_named(name):
    with pytest.raises(JobFailed, match=f"{name} is missing"):
        read_hyperparameters({other: value for other, value in REQUIRED.items() if other != name})


# Channels


def test_a_count_of_training_samples_that_differs_from_the_list_fails_the_job(tmp_path):
    assert (
        "num_training_samples is 7, but train_lst lists 24 images" in Job(tmp_path, num_training_samples="7").failure()
    )


def test_an_image_smaller_than_image_shape_fails_the_job_with_its_name(job):
    (job.data / "train" / "train_003.png").write_bytes(png(1, 3, size=20))
    assert (
        "'train_003.png' in the channel train: the image has 20 x 20 pixels, less than image_shape's 28"
        in job.failure()
    )


def test_a_class_index_outside_num_classes_fails_the_job_with_its_line(job):
    job.write_list("validation", job.list_of("validation").replace("4\t0\t", "4\t2\t"))
    assert "line 5 of validation_lst has the class 2; with num_classes 2 it must be 0 to 1" in job.failure()


def test_a_listed_file_that_is_missing_fails_the_job_with_its_name(job):
    (job.data / "train" / "train_003.png").unlink()
    assert "train_lst names 'train_003.png', which channel train has not" in job.failure()


def test_a_listed_file_outside_of_its_channel_fails_the_job(job):
    job.write_list("train", job.list_of("train").replace("train_003.png", "../validation/validation_000.png"))
    assert "leads outside of the channel train" in job.failure()


def test_a_listed_file_that_is_no_image_fails_the_job_with_its_name(job):
    (job.data / "train" / "train_003.png").write_bytes(b"no image")
    assert "'train_003.png' in the channel train: This is no readable PNG or JPEG image" in job.failure()


@pytest.mark.parametrize(
    ("line", "says"),
    [("0 0 train_000.png\n", "line 1 of train_lst must read row<TAB>class<TAB>path"), ("\n", "train_lst is empty")],
)
def test_a_malformed_list_fails_the_job(job, line, says):
    job.write_list("train", line)
    assert says in job.failure()


@pytest.mark.parametrize("channel", ["train", "validation", "train_lst", "validation_lst"])
def test_a_channel_that_is_missing_fails_the_job_with_its_name(job, channel):
    (job.data / channel).rename(job.root / "elsewhere")
    assert f"The channel {channel} " in job.failure()


def test_two_lists_in_a_channel_fail_the_job(job):
    (job.data / "train_lst" / "second.lst").write_text(job.list_of("train"))
    assert "The channel train_lst must hold one .lst file, it holds 2" in job.failure()


# Training


def test_the_log_lines_match_the_guide_s_metric_regexes_and_the_last_ones_are_those_of_the_model(job, capsys):
    assert train(job.root) == 0
    log = capsys.readouterr().out
    for regex in METRICS.values():
        assert all(0 <= float(value) <= 1 for value in re.findall(regex, log))
        assert len(re.findall(regex, log)) == 2
    assert re.search(r"Epoch\[1\] Time cost=[\d.]+\n", log)
    assert re.search(r"Epoch\[1\] Batch \[1\]\tSpeed: [\d.]+ samples/sec\n", log)
    images = [read_picture((job.data / "validation" / f"validation_{n:03d}.png").read_bytes()) for n in range(8)]
    predicted = load_model(job.root / "model").predict(np.stack(images)).argmax(axis=1)
    assert float(re.findall(METRICS["validation:accuracy"], log)[-1]) == (predicted == np.arange(8) % 2).mean()


def test_the_same_images_make_the_same_model_and_another_seed_shuffles_other_folds(job):
    pixels = np.stack([read_picture(png(n % 2, n)) for n in range(40)])
    labels = np.arange(40) % 2

    def fitted(seed):
        *_, model = fit_models(Backbone(SHIPPED, threads=1), pixels, labels, 2, seed)
        return model.predict(pixels)

    assert np.array_equal(fitted(0), fitted(0))
    assert not np.array_equal(fitted(0), fitted(1))


def test_left_out_use_pretrained_model_takes_the_backbone_and_only_0_does_without(tmp_path, capsys):
    for name, changes in (("left-out", {}), ("one", {"use_pretrained_model": "1"})):
        job = Job(tmp_path / name, **changes)
        assert train(job.root) == 0
        assert {file.name for file in (job.root / "model").iterdir()} == {"backbone.onnx", "classifier.npz"}
    assert "weaker" not in capsys.readouterr().out
    job = Job(tmp_path / "zero", use_pretrained_model="0")
    assert train(job.root) == 0
    assert "weaker" in capsys.readouterr().out
    assert {file.name for file in (job.root / "model").iterdir()} == {"patches.npz", "classifier.npz"}
    model = load_model(job.root / "model")
    assert model.predict(np.stack([read_picture(png(n, 5000 + n)) for n in (0, 1)])).argmax(axis=1).tolist() == [0, 1]


def test_a_class_without_images_gets_no_chance():
    pixels = np.stack([read_picture(png(n % 2, n)) for n in range(12)])
    for model in fit_models(Backbone(SHIPPED, threads=1), pixels, 2 * (np.arange(12) % 2), classes=4):
        probabilities = model.predict(pixels)
        assert probabilities[:, [1, 3]].max() < 1e-6
        assert probabilities.argmax(axis=1).tolist() == [0, 2] * 6


def test_a_job_that_is_stopped_keeps_the_model_it_has_by_then(tmp_path):
    job = Job(tmp_path, num_training_samples="300")
    job.write_channel("train", [(f"{n}.png", n % 2, png(n % 2, n)) for n in range(300)])
    process = job.start()
    for line in process.stdout:
        if "Epoch[0] Train-accuracy" in line:
            break
    process.send_signal(signal.SIGTERM)
    rest = process.stdout.read()
    process.stdout.close()
    assert process.wait(timeout=30) == 0
    assert "it keeps its first model" in rest
    assert "Epoch[1]" not in rest
    assert load_model(job.root / "model").predict(read_picture(png(1, 7))[None]).argmax() == 1


def test_a_job_that_is_stopped_before_there_is_a_model_keeps_none(job):
    process = job.start()
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    rest = process.stdout.read()
    process.stdout.close()
    assert process.wait(timeout=30) == 0
    assert "stopped before there is a model" in rest
    assert list((job.root / "model").iterdir()) == []


@real_images
def test_on_the_real_images_it_reaches_its_figures():
    from scones.data import get_cifar100

    dataset = get_cifar100()
    *_, model = fit_models(Backbone(SHIPPED), dataset.train.pixels, dataset.train.labels, 2)
    probabilities = model.predict(dataset.test.pixels)
    is_right = probabilities.argmax(axis=1) == dataset.test.labels
    is_confident = probabilities.max(axis=1) >= 0.9
    assert is_right.mean() > 0.93
    assert is_confident.mean() > 0.78
    assert is_right[is_confident].mean() > 0.97


@real_images
def test_ten_vehicle_classes_train_with_the_same_code_in_bounded_memory(tmp_path):
    from scones.data import get_cifar100

    dataset = get_cifar100((*VEHICLES, *MORE_VEHICLES))
    job = Job(tmp_path, num_classes="10", num_training_samples="600")
    assert write_data_set(job, dataset, per_class=60) == 600
    process = job.start()
    peak = peak_megabytes(process)
    log = process.stdout.read()
    process.stdout.close()
    assert process.returncode == 0, log
    assert float(re.findall(METRICS["validation:accuracy"], log)[-1]) > 0.75
    assert peak < 900
    assert load_model(job.root / "model").predict(dataset.test.pixels[:3]).shape == (3, 10)


def test_the_backbone_has_never_seen_the_two_classes_and_its_figures_stand_beside_it():
    figures = json.loads((SHIPPED.parent / "backbone.json").read_text())
    assert figures["classes_left_out"] == ["bicycle", "motorcycle"]
    assert figures["file_bytes"] == SHIPPED.stat().st_size <= 3_000_000
    assert figures["training_images"] == 98 * 500
    assert figures["test_top1_of_98"] > 0.7
    assert "seed" in figures["settings"]
    assert (SHIPPED.parent / "train_backbone.py").is_file()
    assert "torch" in (SHIPPED.parent / "requirements.txt").read_text()


# Models and pictures from outside


@pytest.fixture
def trained(job):
    """The folder of a small trained model."""
    assert train(job.root) == 0
    return job.root / "model"


def rewrite_arrays(file: Path, **changes: np.ndarray) -> None:
    with np.load(file) as arrays:
        kept = dict(arrays)
    np.savez(file, **{**kept, **changes})


class Malicious:
    def __reduce__(self):
        return os.system, ("exit 1",)


@pytest.mark.parametrize("name", ["landmarks", "slopes", "mean"])
def test_a_pickle_among_the_arrays_is_refused_and_not_read(trained, name):
    rewrite_arrays(trained / "classifier.npz", **{name: np.array([Malicious()], dtype=object)})
    with pytest.raises(JobFailed, match="allow_pickle"):
        load_model(trained)


@pytest.mark.parametrize(
    ("name", "value"),
    [("projection", np.zeros((3, 3))), ("slopes", np.full((2, 2), np.nan)), ("landmarks", np.array(["text"]))],
)
def test_arrays_that_do_not_fit_together_are_refused(trained, name, value):
    rewrite_arrays(trained / "classifier.npz", **{name: value})
    with pytest.raises(JobFailed, match="cannot be loaded"):
        load_model(trained)


def test_arrays_that_unpack_to_gigabytes_are_refused_before_they_are_unpacked(trained):
    with (
        zipfile.ZipFile(trained / "classifier.npz", "w", zipfile.ZIP_DEFLATED) as file,
        file.open("mean.npy", "w") as member,
    ):
        for _ in range(520):
            member.write(bytes(1024**2))
    with pytest.raises(JobFailed, match="at most 536870912 are read"):
        load_model(trained)


@pytest.mark.parametrize("content", [b"", b"no network", SHIPPED.read_bytes()[:100_000]])
def test_a_network_that_is_broken_is_refused(trained, content):
    (trained / "backbone.onnx").write_bytes(content)
    with pytest.raises(JobFailed, match="cannot be loaded"):
        load_model(trained)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1", "LA"])
def test_a_png_of_any_mode_is_read_and_resized_without_keeping_its_aspect(mode):
    picture = read_picture(encoded(Image.new(mode, (64, 20)), "PNG"))
    assert (picture.shape, picture.dtype) == ((32, 32, 3), np.uint8)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_of_any_mode_is_read(mode):
    assert read_picture(encoded(Image.new(mode, (40, 40)), "JPEG")).shape == (32, 32, 3)


@pytest.mark.parametrize(
    "content",
    [
        encoded(Image.new("RGB", (32, 32)), "GIF"),
        encoded(Image.new("RGB", (32, 32)), "BMP"),
        encoded(Image.effect_noise((64, 64), 90), "PNG")[:900],
        encoded(Image.effect_noise((64, 64), 90), "JPEG")[:300],
    ],
)
def test_other_formats_and_truncated_images_are_refused(content):
    with pytest.raises(RequestRefused, match="no readable PNG or JPEG image") as refusal:
        read_picture(content)
    assert refusal.value.status == 415


def test_a_small_file_that_would_decode_to_gigabytes_is_refused():
    bomb = encoded(Image.new("1", (20_000, 20_000)), "PNG")
    assert len(bomb) < 100_000
    with pytest.raises(RequestRefused, match=r"at most 25000000 are decoded|DecompressionBombError"):
        read_picture(bomb)
