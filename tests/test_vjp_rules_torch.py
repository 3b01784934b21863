"""Gradient rules against torch.autograd, where torch has the operator: at kinks and ties, too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from test_vjp_rules import Bench
from torch.nn import functional as F  # noqa: N812
from vjp_cases import Case, ints, scalar

# Both sides are float32, and sum a few dozen terms in orders of their own.
TOLERANCE = 2e-6
IMAGE = (2, 2, 4, 6)


def _grid() -> Any:
    return np.random.default_rng(1).uniform(-1.4, 1.4, (2, 3, 5, 2)).astype(np.float32)


def _grid_samples() -> list[Any]:
    made = []
    for mode, torch_mode in (("linear", "bilinear"), ("nearest", "nearest"), ("cubic", "bicubic")):
        for padding in ("zeros", "border", "reflection"):
            for align in (False, True):
                given = f'mode="{mode}", padding_mode="{padding}", align_corners={int(align)}'
                settings = (torch_mode, padding, align)
                images = (f"GridSample<{given}>(x, r)", IMAGE, {"r": _grid()}, {})
                grids = (f"GridSample<{given}>(r, x)", (2, 3, 5, 2), {"r": IMAGE}, {})
                made += [
                    (*images, lambda x, r, s=settings: F.grid_sample(x, r, *s)),
                    (*grids, lambda x, r, s=settings: F.grid_sample(r, x, *s)),
                ]
    return made


def _scatter_reduce(reduce: str) -> Callable[..., Any]:
    def run(x: Any, i: Any, v: Any) -> Any:
        return x.scatter_reduce(1, i, v, reduce)

    return run


INDEX = np.array([[0, 2, 0], [1, 1, 1]])
TIED = np.array([[1, 2, 0], [0, 1, 1]], np.float32)
MASK = np.array([[True, False, True], [False, True, True], [True, True, False]])
HEADS = "q_num_heads=2, kv_num_heads=2"


def _heads(x: Any) -> Any:
    return x.reshape(2, 3, 2, 4).transpose(1, 2)


def _attended(x: Any, **more: Any) -> Any:
    q = _heads(x)
    y = F.scaled_dot_product_attention(q, q, q, **more)
    return y.transpose(1, 2).reshape(2, 3, 8)


OPERATORS = [
    *_grid_samples(),
    (f"Attention<{HEADS}>(x, x, x)", (2, 3, 8), {}, {}, _attended),
    (f"Attention<{HEADS}, is_causal=1>(x, x, x)", (2, 3, 8), {}, {},
     lambda x: _attended(x, is_causal=True)),
    (f"Attention<{HEADS}>(x, x, x, m)", (2, 3, 8), {"m": MASK}, {},
     lambda x, m: _attended(x, attn_mask=m)),
    ('ScatterElements<axis=1, reduction="max">(x, i, v)', (2, 3), {"i": INDEX, "v": TIED},
     {"at": np.array([1, 2, 3, 0, 1, 2])}, _scatter_reduce("amax")),
    ('ScatterElements<axis=1, reduction="min">(x, i, v)', (2, 3), {"i": INDEX, "v": TIED},
     {"at": np.array([1, 2, 0, 0, 1, 2])}, _scatter_reduce("amin")),
    ('ScatterElements<axis=1, reduction="mul">(x, i, v)', (2, 3), {"i": INDEX, "v": TIED}, {},
     _scatter_reduce("prod")),
    ("Col2Im<pads=[1, 1, 1, 1], strides=[2, 1], dilations=[1, 2]>(x, s, b)", (2, 8, 18),
     {"s": ints(4, 6), "b": ints(2, 2)}, {},
     lambda x, s, b: F.fold(x, (4, 6), (2, 2), (1, 2), 1, (2, 1))),
    ("LpPool<p=3, kernel_shape=[2, 3], strides=[2, 1]>(x)", IMAGE, {}, {},
     lambda x: F.lp_pool2d(x.abs(), 3, (2, 3), (2, 1))),
    ("y, i = TopK<axis=1>(x, k)", (2, 5, 3), {"k": ints(3)}, {},
     lambda x, k: x.topk(3, dim=1).values),
    ("AffineGrid(x, s)", (2, 2, 3), {"s": ints(2, 1, 3, 4)}, {},
     lambda x, s: F.affine_grid(x, (2, 1, 3, 4), align_corners=False)),
    ("DFT<onesided=1>(x)", (2, 3, 6, 1), {}, {},
     lambda x: torch.view_as_real(torch.fft.rfft(x[..., 0]))),
    ("DFT<inverse=1, onesided=1>(x)", (2, 3, 4, 2), {}, {},
     lambda x: torch.fft.irfft(torch.view_as_complex(x))[..., None]),
    ("r = Round(x)  y = Mul(r, x)", IMAGE, {}, {}, lambda x: x.round() * x),
    ("r = Sign(x)  y = Add(r, x)", (1, 3), {}, {"at": np.array([-1, 0, 2])},
     lambda x: x.sign() + x),
    ("Shrink<lambd=0.5>(x)", (1, 4), {}, {"at": np.array([-0.5, 0.5, -2, 2])}, F.hardshrink),
    ("Clip(z, x, h)", (1, 1), {"z": np.array([[-1, 0.25, 3]], np.float32), "h": scalar(1)},
     {"at": np.array([-0.5])}, lambda x, z, h: z.clamp(min=x, max=h)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "shape", "constants", "more", "original"),
    OPERATORS,
    ids=[f"{index} {row[0]}" for index, row in enumerate(OPERATORS)],
)
def test_gradient_is_that_of_torch(body, shape, constants, more, original):
    if "Clip" in body:  # whose bound is a number
        body = f"s = Squeeze(x)  y = {body.replace('x', 's')}"
    case = Case("torch", body, shape, constants, batch_free=False, opset=23, **more)
    bench = Bench(case, static=True)
    bench.differentiate("gradient", bench.dense_cotangent())
    bench.finish()
    feed = bench.feed()
    x = torch.tensor(feed["x"], dtype=torch.float32, requires_grad=True)
    given = {name: torch.tensor(bench.constants[name]) for name in constants}
    y = original(x, **given)
    u = bench.rng.standard_normal((1, *y.shape)).astype(np.float32)
    y.backward(torch.tensor(u[0]))
    results = bench.run({**feed, "u": u})
    np.testing.assert_allclose(results["forward"], y.detach(), rtol=1e-5, atol=1e-5)
    expected = x.grad.numpy()
    apart = np.abs(results["gradient"][0] - expected).max()
    assert apart <= TOLERANCE * max(np.abs(expected).max(), 1)
