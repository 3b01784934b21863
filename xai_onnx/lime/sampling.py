"""Sampling designs: which superpixels stay on in each perturbed image, and what each row weighs.

A mask is a row of d numbers, 1 where a superpixel keeps its pixels and 0 where the fill replaces
them. A design yields blocks of masks; a block is the smallest set that is balanced in itself, and
the unit that the jackknife leaves out (`xai_onnx.lime.surrogate`).

| design | masks | weights | for |
|---|---|---|---|
| ``foldover`` | randomised Hadamard rows, each followed by its complement | proximity | default |
| ``iid`` | fair coins, the first row all ones: lime's own stream | proximity | comparison |
| ``glime`` | the number of ones by the proximity kernel, then which ones | 1 | narrow kernels |
| ``full`` | all 2^d masks once | proximity | few superpixels |

Foldover frees the coefficients from interactions of even order, and needs a third to a fifth of
the forwards of fair coins where the score is nearly additive. Interactions of odd order, three and
more, count double in the variance: at worst, for a score that is antisymmetric about half of the
superpixels, the error is 1.4 times that of fair coins (`benchmarks/lime_designs.py`). GLIME (Tan et
al. 2023, "GLIME: General, Stable and Local LIME Explanation") wins where the kernel is so narrow
that most fair coins weigh nothing.

Every design draws from `numpy.random.RandomState`, whose streams numpy has frozen, one whole block
at a time: the same seed gives the same masks on every machine, whatever the batch size, and more
samples begin with the same blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xai_onnx.errors import SamplingError

WIDTH = 0.25  # of the proximity kernel, in units of cosine distance: lime's default for images
LARGEST_SEED = 2**32 - 1
USUAL_SAMPLES = 1024
FEWEST_BLOCKS = 4  # fewer give no standard error worth the name


@dataclass(frozen=True, eq=False)
class Block:
    """Rows that belong together.

    Attributes:
        masks: uint8 [n, d], 1 where a superpixel is on.
        weights: of the rows in the surrogate's fit, float64 [n].
    """

    masks: NDArray[np.uint8]
    weights: NDArray[np.float64]


Blocks = Iterator[Block]
Design = Callable[[int, int, int, float], Blocks]

SAMPLING_DESIGNS: dict[str, Design] = {}


def design(function: Design) -> Design:
    """Enter a function into `SAMPLING_DESIGNS` under its own name."""
    name = function.__name__
    if name in SAMPLING_DESIGNS:
        raise KeyError(f"there are two sampling designs called {name!r}")
    SAMPLING_DESIGNS[name] = function
    return function


def proximity(d: int, width: float = WIDTH) -> NDArray[np.float64]:
    """Weight of a mask with k of its d superpixels on, for k = 0..d.

    ``sqrt(exp(-D² / width²))`` with D the cosine distance to the row of ones, ``1 - sqrt(k / d)``;
    lime's kernel, which the distance alone decides.

    Returns:
        float64 [d + 1], from the weight of the empty mask to 1.

    Raises:
        SamplingError: `width` isn't a positive number.
    """
    if not (math.isfinite(width) and width > 0):
        raise SamplingError(f"the proximity kernel's width must be a positive number, not {width}")
    distance = 1 - np.sqrt(np.arange(d + 1) / d)
    weights: NDArray[np.float64] = np.sqrt(np.exp(-(distance**2) / width**2))
    return weights


def block_size(d: int) -> int:
    """Rows in a block for d superpixels: twice the order of the smallest Hadamard matrix > d."""
    return 2 << d.bit_length()


def usual_samples(d: int) -> int:
    """How many masks are drawn where nobody says: 1,024, or four blocks; 2^d if that is fewer."""
    usual = max(USUAL_SAMPLES, FEWEST_BLOCKS * block_size(d))
    return min(usual, 1 << d)


def fitting(name: str, d: int, num_samples: int) -> str:
    """The design to use: ``full`` where all masks are no more than asked for, else `name`.

    ``iid`` stays what it is, so that it can be compared with lime.

    Raises:
        SamplingError: no such design, nothing to sample, or ``full`` with too few samples.
    """
    if name not in SAMPLING_DESIGNS:
        raise SamplingError(
            f"there is no sampling design {name!r}; one of {', '.join(SAMPLING_DESIGNS)}"
        )
    if num_samples < 1:
        raise SamplingError(f"{num_samples} samples can't be drawn; ask for at least 1")
    complete = 1 << d <= num_samples
    if name == "full" and not complete:
        raise SamplingError(
            f"sampling 'full' takes all 2^{d} masks of {d} superpixels, not {num_samples}; choose "
            "fewer superpixels, more samples or another design"
        )
    return "full" if complete and name != "iid" else name


def count(name: str, d: int, num_samples: int) -> int:
    """How many masks the design that is used, `name`, yields for d superpixels."""
    return 1 << d if name == "full" else num_samples


def masks(
    d: int, num_samples: int, seed: int = 0, *, sampling: str = "foldover", width: float = WIDTH
) -> Blocks:
    """Draw masks over d superpixels, block by block; the last block may be cut short.

    Args:
        d: number of superpixels, at least 1.
        num_samples: number of masks; `fitting` says when all 2^d are taken instead.
        seed: 0 to 2^32 - 1.
        sampling: a key of `SAMPLING_DESIGNS`.
        width: of the proximity kernel.

    Raises:
        SamplingError: one of these is out of range.
    """
    if not 0 <= seed <= LARGEST_SEED:
        raise SamplingError(f"a seed is a whole number from 0 to {LARGEST_SEED}, not {seed}")
    return SAMPLING_DESIGNS[fitting(sampling, d, num_samples)](d, num_samples, seed, width)


@design
def foldover(d: int, num_samples: int, seed: int, width: float = WIDTH) -> Blocks:
    """d random columns of a Hadamard matrix with random signs, each row then its complement.

    The rows of a block are an orthogonal array of strength 2, with their complements of strength 3:
    in every three superpixels all eight patterns are equally frequent, so that two-way interactions
    don't leak into the coefficients (Box and Wilson 1951, section on folding over). Rows come in
    random order, so that a block that is cut short isn't lopsided.
    """
    table = proximity(d, width)
    state = np.random.RandomState(seed)
    order = block_size(d) // 2
    kind = np.min_scalar_type(order)
    for size in _sizes(d, num_samples):
        columns = (1 + state.permutation(order - 1)[:d]).astype(kind)
        signs = state.randint(0, 2, d).astype(np.uint8)
        rows = state.permutation(order)[: -(-size // 2)].astype(kind)
        half = np.bitwise_count(rows[:, None] & columns) & np.uint8(1) ^ signs
        both = np.stack([half, 1 - half], axis=1).reshape(-1, d)[:size]
        yield Block(both, table[both.sum(1)])


@design
def iid(d: int, num_samples: int, seed: int, width: float = WIDTH) -> Blocks:
    """What lime draws after ``numpy.random.RandomState(seed)``; the first row is the image."""
    table = proximity(d, width)
    state = np.random.RandomState(seed)
    first = True
    for size in _sizes(d, num_samples):
        rows = state.randint(0, 2, size * d).astype(np.uint8).reshape(size, d)
        if first:
            rows[0], first = 1, False
        yield Block(rows, table[rows.sum(1)])


@design
def glime(d: int, num_samples: int, seed: int, width: float = WIDTH) -> Blocks:
    """k superpixels on with a chance of C(d, k) w(k), any k of them alike; every row weighs 1."""
    state = np.random.RandomState(seed)
    logs = [math.lgamma(k + 1) + math.lgamma(d - k + 1) for k in range(d + 1)]
    with np.errstate(divide="ignore"):  # of a narrow kernel the smallest weights are 0
        chances = np.log(proximity(d, width)) - logs
    cumulative = np.exp(chances - chances.max()).cumsum()
    whole = block_size(d)
    for size in _sizes(d, num_samples):
        ones = cumulative.searchsorted(state.random_sample(whole) * cumulative[-1], "right")
        ranks = state.random_sample((whole, d)).argsort(1, "stable").argsort(1, "stable")
        yield Block((ranks < ones[:, None]).astype(np.uint8)[:size], np.ones(size))


@design
def full(d: int, num_samples: int, seed: int, width: float = WIDTH) -> Blocks:
    """All 2^d masks in random order, each standing for `num_samples` / 2^d draws.

    The ridge penalty isn't relative to the number of rows: without this, eight masks of three
    superpixels would be shrunk a hundred times as much as a thousand draws among the same eight.
    """
    table = proximity(d, width) * (num_samples / 2**d)
    numbers = np.random.RandomState(seed).permutation(1 << d)
    start = 0
    for size in _sizes(d, 1 << d):
        chosen = numbers[start : start + size]
        start += size
        rows = (chosen[:, None] >> np.arange(d) & 1).astype(np.uint8)
        yield Block(rows, table[rows.sum(1)])


def _sizes(d: int, num_samples: int) -> Iterator[int]:
    """Sizes of the blocks: all alike but the last."""
    whole = block_size(d)
    for start in range(0, num_samples, whole):
        yield min(whole, num_samples - start)
