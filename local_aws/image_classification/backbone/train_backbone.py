"""Trains the backbone that the local image-classification algorithm ships, on classes it will never be asked about.

A small ResNet-9 learns 98 of CIFAR-100's classes; bicycle and motorcycle are left out, so that nothing of the
notebook's task, neither its training nor its test images, has shaped the features. It writes

    backbone.onnx   input "images": float32 [N, 3, 32, 32], RGB in 0..1;
                    outputs "middle": [N, 160, 4, 4] and "last": [N, 208, 4, 4]; weights stored as float16
    backbone.json   the settings, the seed and the figures of that run

Run it with its own requirements (requirements.txt beside it), from anywhere:

    python train_backbone.py PATH/TO/cifar-100-python.tar.gz

bfloat16 and channels-last make an epoch about three times as fast on a CPU that has AVX512-BF16 or AMX.
"""

import argparse
import json
import platform
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[2]))

from scones.archive import class_names, read_archive

LEFT_OUT = ("bicycle", "motorcycle")
WIDTHS = (24, 80, 160, 208)
PIXEL_MEAN = (0.507, 0.487, 0.441)
PIXEL_STD = (0.267, 0.256, 0.276)


def convolution(inputs, outputs, halve=False):
    pool = [nn.MaxPool2d(2)] if halve else []
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), *pool, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.body = nn.Sequential(convolution(width, width), convolution(width, width))

    def forward(self, x):
        return x + self.body(x)


class Backbone(nn.Module):
    """ResNet-9 narrowed to 1.33 million weights: stem, then three stages that each halve the image."""

    def __init__(self):
        super().__init__()
        stem, first, middle, last = WIDTHS
        self.register_buffer("mean", torch.tensor(PIXEL_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(PIXEL_STD).view(1, 3, 1, 1))
        self.to_middle = nn.Sequential(
            convolution(3, stem),
            convolution(stem, first, halve=True),
            Residual(first),
            convolution(first, middle, halve=True),
        )
        self.to_last = nn.Sequential(convolution(middle, last, halve=True), Residual(last))

    def forward(self, images):
        middle = self.to_middle((images - self.mean) / self.std)
        return F.avg_pool2d(middle, 2), self.to_last(middle)


class Classifier(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.backbone = Backbone()
        self.head = nn.Linear(WIDTHS[-1], classes, bias=False)

    def forward(self, images):
        _, last = self.backbone(images)
        return 0.125 * self.head(last.amax(dim=(2, 3)))


def tensors(split):
    """uint8 [N, 3, 32, 32] and labels 0..97 [N]."""
    return torch.from_numpy(split.pixels.transpose(0, 3, 1, 2).copy()), torch.from_numpy(split.labels)


def augmented(images, generator):
    """A batch as float, each image flipped or not, shifted by up to 4 pixels, with an 8x8 hole."""
    count = len(images)
    padded = F.pad(images.float() / 255, (4, 4, 4, 4), mode="reflect")
    flips = torch.rand(count, generator=generator) < 0.5
    padded[flips] = padded[flips].flip(3)
    rows, columns = torch.randint(0, 9, (2, count, 1), generator=generator)
    across = torch.arange(32)
    shifted = padded[torch.arange(count)[:, None, None], :, (rows + across)[:, :, None], (columns + across)[:, None, :]]
    shifted = shifted.permute(0, 3, 1, 2)
    hole_rows, hole_columns = torch.randint(0, 25, (2, count, 1), generator=generator)
    in_rows = (across >= hole_rows) & (across < hole_rows + 8)
    in_columns = (across >= hole_columns) & (across < hole_columns + 8)
    hole = (in_rows[:, :, None] & in_columns[:, None, :])[:, None]
    means = torch.tensor(PIXEL_MEAN).view(1, 3, 1, 1)
    return torch.where(hole, means, shifted).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def accuracy(model, images, labels):
    model.eval()
    right = sum(
        int((model(images[at : at + 500].float() / 255).argmax(1) == labels[at : at + 500]).sum())
        for at in range(0, len(images), 500)
    )
    return right / len(images)


def train(settings, train_split, test_split):
    images, labels = train_split
    torch.manual_seed(settings.seed)
    generator = torch.Generator().manual_seed(settings.seed)
    model = Classifier(98).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=settings.learning_rate, momentum=0.9, nesterov=True, weight_decay=settings.weight_decay
    )
    batches = len(images) // settings.batch_size
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, settings.epochs * batches, pct_start=0.2, cycle_momentum=False
    )
    for epoch in range(settings.epochs):
        model.train()
        started, losses = time.perf_counter(), []
        order = torch.randperm(len(images), generator=generator)
        for batch in order[: batches * settings.batch_size].split(settings.batch_size):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                scores = model(augmented(images[batch], generator))
            loss = F.cross_entropy(scores.float(), labels[batch], label_smoothing=settings.label_smoothing)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        print(
            f"epoch {epoch + 1}/{settings.epochs} loss {np.mean(losses):.4f} "
            f"test top-1 {accuracy(model, *test_split):.4f} {time.perf_counter() - started:.0f} s",
            flush=True,
        )
    return model


def export(backbone, path):
    """Writes the ONNX file with its weights as float16, cast back to float32 when the file is loaded."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    torch.onnx.export(
        backbone,
        (torch.rand(2, 3, 32, 32),),
        str(path),
        dynamo=False,
        opset_version=17,
        input_names=["images"],
        output_names=["middle", "last"],
        dynamic_axes={name: {0: "N"} for name in ("images", "middle", "last")},
    )
    model = onnx.load(path)
    casts = []
    for weight in [w for w in model.graph.initializer if w.data_type == TensorProto.FLOAT and len(w.dims) == 4]:
        name, values = weight.name, numpy_helper.to_array(weight)
        weight.CopyFrom(numpy_helper.from_array(values.astype(np.float16), name + ".float16"))
        casts.append(helper.make_node("Cast", [name + ".float16"], [name], to=TensorProto.FLOAT))
    nodes = casts + list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def largest_difference(backbone, path, images):
    """Between PyTorch's features and ONNX Runtime's, as a share of the largest feature."""
    import onnxruntime

    batch = images[:64].float() / 255
    with torch.no_grad():
        expected = [output.numpy() for output in backbone(batch)]
    found = onnxruntime.InferenceSession(str(path)).run(["middle", "last"], {"images": batch.numpy()})
    return max(float(np.abs(a - b).max() / np.abs(a).max()) for a, b in zip(expected, found, strict=True))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path)
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=0.4)
    parser.add_argument("--weight-decay", type=float, default=5e-4)
    parser.add_argument("--label-smoothing", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, default=HERE)
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)

    kept = [name for name in class_names(settings.archive) if name not in LEFT_OUT]
    train_split, test_split = map(tensors, read_archive(settings.archive, kept))
    started = time.perf_counter()
    model = train(settings, train_split, test_split)
    seconds = time.perf_counter() - started

    settings.output.mkdir(parents=True, exist_ok=True)
    onnx_file = settings.output / "backbone.onnx"
    backbone = model.backbone.to(memory_format=torch.contiguous_format)
    export(backbone, onnx_file)
    figures = {
        "classes_left_out": list(LEFT_OUT),
        "weights": sum(weight.numel() for weight in backbone.parameters()),
        "settings": {name: value for name, value in vars(settings).items() if name not in ("archive", "output")},
        "training_images": len(train_split[0]),
        "test_images": len(test_split[0]),
        "test_top1_of_98": round(accuracy(model, *test_split), 4),
        "seconds": round(seconds),
        "file_bytes": onnx_file.stat().st_size,
        "onnx_largest_relative_difference": round(largest_difference(backbone, onnx_file, test_split[0]), 6),
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {settings.threads} threads",
    }
    (settings.output / "backbone.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
