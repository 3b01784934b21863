"""Trains the ProtoPNet of `xai-onnx demo --method protopnet`, in `xai_onnx/assets`.

==========================================  ===================================================
asset                                       made from
==========================================  ===================================================
fashion_protopnet.onnx                      trained here on Fashion-MNIST's 60,000 pictures
fashion_protopnet.protobank.safetensors     its prototypes, with the training pictures they lie on
fashion_*.png                               pictures of Fashion-MNIST's test split
==========================================  ===================================================

The backbone is first trained as a classifier, with a linear layer behind its pooled features. The
original starts from a classifier of ImageNet; here, too, prototypes can then start on what speaks
for their class, and fewer of them lie on the background.

Fashion-MNIST (Xiao, Rasul, Vollgraf 2017; MIT licence) comes as Debian's package
dataset-fashion-mnist. `LICENSES.md`, beside the assets, is written by hand: change it with this
script. Where the `dev` extra is installed:

    python scripts/train_demo_protopnet.py [--data /usr/share/datasets/fashion-mnist]
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from skimage import data
from torch import nn
from torch.nn import functional as F  # noqa: N812 - as everywhere in torch

import exporters
from exporters import protopnet
from exporters.protopnet import LabelledPictures, Schedule, Trained
from exporters.protopnet.passes import batches, grids_of, outputs

ASSETS = Path(__file__).parents[1] / "xai_onnx" / "assets"
DATA = Path("/usr/share/datasets/fashion-mnist")

LABELS = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
RECIPE = "unit,size=28,color=gray,mean=0.2860,std=0.3530"  # mean and deviation of the training set
WIDTH, PER_CLASS, CHANNELS, SEED = 32, 6, 64, 0
LINEAR_EPOCHS, LINEAR_RATE, LINEAR_DECAY = 8, 3e-3, 1e-4
SCHEDULE = Schedule(
    warm_epochs=0,
    joint_epochs=6,
    last_passes=5,
    batch_size=64,
    backbone_rate=1e-3,
    last_rate=1e-3,
    decay_every=4,
    weight_decay=1e-2,
    separation=0.14,
    sparsity=1e-2,
)
SHOWN = {"ankle_boot": 0, "bag": 18, "dress": 13}  # places in the test split


def read_fashion_mnist(folder: Path, split: str) -> LabelledPictures:
    """The pictures of a split, ``"train"`` or ``"t10k"``, uint8 [N, 28, 28]."""
    pixels = _idx(folder / f"{split}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
    classes = _idx(folder / f"{split}-labels-idx1-ubyte.gz", 8)
    ids = [f"Fashion-MNIST {split} {number}" for number in range(len(pixels))]
    return LabelledPictures(
        pixels, classes.astype(np.int64), labels=LABELS, preprocess=RECIPE, ids=ids
    )


def _idx(path: Path, header: int) -> NDArray[np.uint8]:
    with gzip.open(path) as file:
        return np.frombuffer(file.read(), np.uint8, offset=header)


def linear_classifier(pictures: LabelledPictures) -> nn.Sequential:
    """The small CNN, which is the first module, with a linear layer on its pooled features."""
    torch.manual_seed(SEED)
    net = nn.Sequential(
        protopnet.small_cnn(1, WIDTH),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * WIDTH, len(pictures.labels)),
    )
    optimizer = torch.optim.Adam(net.parameters(), LINEAR_RATE, weight_decay=LINEAR_DECAY)
    decay = torch.optim.lr_scheduler.MultiStepLR(optimizer, [LINEAR_EPOCHS - 2], SCHEDULE.decay)
    classes, rng = torch.from_numpy(pictures.classes), np.random.default_rng(SEED)
    for epoch in range(LINEAR_EPOCHS):
        order = rng.permutation(len(pictures))
        for batch in batches(order, f"linear epoch {epoch}", SCHEDULE.batch_size):
            scores = net(torch.from_numpy(pictures.tensor(batch)))
            optimizer.zero_grad()
            F.cross_entropy(scores, classes[torch.from_numpy(batch)]).backward()
            optimizer.step()
        decay.step()
    return net.eval()


def train(backbone: nn.Module, pictures: LabelledPictures, **options: Any) -> Trained:
    """As the shipped model was trained; `options` are further ones of `protopnet.train`."""
    return protopnet.train(
        backbone,
        pictures,
        per_class=PER_CLASS,
        channels=CHANNELS,
        start="evidence",
        schedule=SCHEDULE,
        seed=SEED,
        **options,
    )


def unfamiliar(trained: Trained, pictures: LabelledPictures) -> float:
    """The share of pictures in which no prototype finds a familiar part."""
    grids = grids_of(trained.model, pictures)
    distances = outputs(trained.model, grids, len(pictures), "familiar").min_distances
    best = trained.model.similarities(distances).amax(1)
    return float((best < trained.arrays.familiar).float().mean())


def noise(count: int = 1000) -> LabelledPictures:
    """Pictures of no thing: every pixel drawn by itself."""
    pixels = np.random.default_rng(SEED).integers(0, 256, (count, 28, 28), np.uint8)
    return _of_no_class(pixels)


def photos(each: int = 250) -> LabelledPictures:
    """Pictures of other things: square crops of photos."""
    rng, crops = np.random.default_rng(SEED), []
    for name in ("astronaut", "chelsea", "coffee", "rocket"):
        photo = Image.fromarray(getattr(data, name)()).convert("L")
        for _ in range(each):
            side = int(rng.integers(60, min(photo.size) + 1))
            x, y = (int(rng.integers(extent - side + 1)) for extent in photo.size)
            crops.append(np.asarray(photo.resize((28, 28), box=(x, y, x + side, y + side))))
    return _of_no_class(np.stack(crops))


def _of_no_class(pixels: NDArray[np.uint8]) -> LabelledPictures:
    classes = np.zeros(len(pixels), np.int64)
    return LabelledPictures(pixels, classes, labels=LABELS, preprocess=RECIPE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the four .gz files")
    parser.add_argument(
        "--state", type=Path, help="folder where a killed training goes on from, once it began"
    )
    parser.add_argument("-o", "--output", type=Path, default=ASSETS)
    arguments = parser.parse_args()
    test = read_fashion_mnist(arguments.data, "t10k")
    pictures = read_fashion_mnist(arguments.data, "train")
    begun = arguments.state is not None and arguments.state.exists()
    backbone = protopnet.small_cnn(1, WIDTH) if begun else linear_classifier(pictures)[0]
    trained = train(backbone, pictures, folder=arguments.state)
    right = protopnet.logits(trained.model, test).argmax(1) == test.classes
    print(f"test accuracy {right.mean():.2%}", *trained.arrays.notes, sep="; ")
    strange = {"test pictures": test, "noise": noise(), "crops of photos": photos()}
    shares = [f"{unfamiliar(trained, seen):.1%} of {name}" for name, seen in strange.items()]
    print(f"no familiar part (below {trained.arrays.familiar:.2f}) in", ", ".join(shares))
    exporters.export_protopnet(
        protopnet.merge_duplicates(trained.arrays), arguments.output / "fashion_protopnet.onnx"
    )
    for name, number in SHOWN.items():
        Image.fromarray(test.seen(number)).save(arguments.output / f"fashion_{name}.png")


if __name__ == "__main__":
    main()
