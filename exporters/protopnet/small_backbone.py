"""A small backbone for small pictures, whose cells see parts rather than the whole."""

from __future__ import annotations

from torch import nn


def small_cnn(channels: int = 3, width: int = 32) -> nn.Sequential:
    """Four convolutions with batch normalisation and ReLU; the grid is a quarter of the picture.

    A cell of the grid [B, 2 * width, H / 4, W / 4] sees 21 pixels along each axis.

    Args:
        channels: of the picture, 1 or 3.
        width: of the first two convolutions; the others are twice as wide.
    """
    layers: list[nn.Module] = []
    plan = [(channels, width, 5, 2), (width, width, 3, 1)]
    plan += [(width, 2 * width, 3, 2), (2 * width, 2 * width, 3, 1)]
    for before, after, kernel, stride in plan:
        convolution = nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False)
        layers += [convolution, nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers)
