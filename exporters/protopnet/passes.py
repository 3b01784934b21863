"""Passes of a set of pictures through a model, in batches, without gradients."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from exporters.protopnet.labelled_pictures import LabelledPictures
from exporters.protopnet.model import Outputs, ProtoPNet

BATCH = 64

Grids = Callable[[NDArray[np.int64]], Tensor]


def grids_of(model: ProtoPNet, pictures: LabelledPictures) -> Grids:
    """What gives the backbone's grid of some pictures, computed when asked."""
    device = model.prototype_vectors.device

    def grids(indices: NDArray[np.int64]) -> Tensor:
        return model.grid(torch.from_numpy(pictures.tensor(indices)).to(device))

    return grids


def kept_grids(model: ProtoPNet, pictures: LabelledPictures) -> Grids:
    """The same, computed once and kept in memory: for a backbone that isn't trained."""
    model.eval()
    compute = grids_of(model, pictures)
    with torch.no_grad():
        kept = torch.cat(
            [compute(batch) for batch in batches(np.arange(len(pictures)), "backbone")]
        )
    return lambda indices: kept[torch.from_numpy(indices).to(kept.device)]


def outputs(model: ProtoPNet, grids: Grids, count: int, name: str) -> Outputs:
    """What the model gives for the first `count` pictures, in evaluation mode."""
    model.eval()
    with torch.no_grad():
        given = [model.head(grids(batch)) for batch in batches(np.arange(count), name)]
    return Outputs(*(torch.cat(parts) for parts in zip(*given, strict=True)))


def logits(model: ProtoPNet, pictures: LabelledPictures) -> NDArray[np.float32]:
    """The scores of all pictures, [N, C], in evaluation mode."""
    given = outputs(model, grids_of(model, pictures), len(pictures), "scores")
    return given.logits.cpu().numpy()


def batches(
    indices: NDArray[np.int64], name: str, size: int = BATCH
) -> Iterator[NDArray[np.int64]]:
    """`indices` in batches, with a progress bar where standard error is a terminal."""
    starts: Sequence[int] = range(0, len(indices), size)
    for start in tqdm(starts, desc=name, leave=False, disable=not sys.stderr.isatty()):
        yield indices[start : start + size]
