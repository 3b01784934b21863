"""The preprocessing recipe: how a picture becomes the model's input tensor, as data.

Standard library only; `xai_onnx.preprocess` carries it out. A recipe is written as text, for the
command line and for `export_gradcam(preprocess=...)`:

    PRESET[,key=value]...        e.g.  torchvision   or   lite,size=224,resize=256
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from xai_onnx.errors import InputShapeError, PreprocessError

INTERPOLATIONS = ("nearest", "box", "bilinear", "bicubic", "lanczos")
COLORS = ("RGB", "BGR", "GRAY")
LAYOUTS = ("NCHW", "NHWC")
MAX_SIDE = 10_000  # pixels of an input
MAX_NUMBERS = 2**26  # of an input whose sizes are all fixed, its batch as well


@dataclass(frozen=True)
class Preprocess:
    """From a picture to the tensor ``(pixel * scale - mean) / std``.

    Attributes:
        height, width: size of the input tensor, in pixels.
        shortest_side: the picture is resized, keeping its proportions, until its shorter side has
            this many pixels, then the centre is cropped to `height` x `width`. ``None``: the whole
            picture is squashed to `height` x `width`.
        interpolation: one of `INTERPOLATIONS`; always antialiased, as Pillow, torchvision and
            timm resize.
        color: channel order of the tensor, one of `COLORS`.
        layout: ``"NCHW"`` or ``"NHWC"``.
        scale: factor on the 0..255 pixel values.
        mean, std: per channel of the tensor, in the tensor's channel order, after `scale`.
    """

    height: int
    width: int
    shortest_side: int | None
    interpolation: str
    color: str
    layout: str
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        channels = 1 if self.color == "GRAY" else 3
        problems = {
            "height, width and shortest_side must be whole numbers": not all(
                isinstance(side, int) for side in (self.height, self.width, self.shortest_side or 1)
            ),
            "size must be at least 1 pixel": min(self.height, self.width) < 1,
            f"size and resize must be at most {MAX_SIDE} pixels": (
                max(self.height, self.width, self.shortest_side or 1) > MAX_SIDE
            ),
            f"resize={self.shortest_side} is smaller than the crop {self.height}x{self.width}": (
                self.shortest_side is not None and self.shortest_side < max(self.height, self.width)
            ),
            f"interpolation must be one of {', '.join(INTERPOLATIONS)}": (
                self.interpolation not in INTERPOLATIONS
            ),
            f"color must be one of {', '.join(COLORS)}": self.color not in COLORS,
            f"layout must be one of {', '.join(LAYOUTS)}": self.layout not in LAYOUTS,
            f"mean and std must have {channels} numbers for {self.color}": (
                {len(self.mean), len(self.std)} != {channels}
            ),
            "scale, mean and std must be finite, std and scale not 0": (
                not all(math.isfinite(x) for x in (self.scale, *self.mean, *self.std))
                or 0 in (self.scale, *self.std)
            ),
        }
        for problem, present in problems.items():
            if present:
                raise PreprocessError(f"preprocessing: {problem}")

    @property
    def summary(self) -> str:
        """The recipe in words, one line."""
        cut = "squashed"
        if self.shortest_side is not None:
            cut = f"short side to {self.shortest_side}, centre crop"
        numbers = ["/".join(f"{x:g}" for x in values) for values in (self.mean, self.std)]
        return (
            f"{self.color} {self.height}x{self.width} {self.layout}, {cut}, {self.interpolation}, "
            f"(pixel * {self.scale:g} - {numbers[0]}) / {numbers[1]}"
        )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str) -> Preprocess:
        """Rebuild a recipe from its JSON object; `where` names the file in error messages."""
        names = {field.name for field in fields(cls)}
        try:
            if set(data) != names:
                raise ValueError(f"missing or unknown fields {sorted(set(data) ^ names)}")
            values = dict(data)
            values["mean"] = tuple(float(x) for x in values["mean"])
            values["std"] = tuple(float(x) for x in values["std"])
            return cls(**values)
        except (TypeError, ValueError, OverflowError) as error:
            raise PreprocessError(f"{where}: the preprocessing is malformed: {error}") from error


@dataclass(frozen=True)
class Preset:
    """What a family of models has in common; the size comes from the model's input."""

    about: str
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    color: str = "RGB"
    interpolation: str = "bilinear"
    enlarge: float | None = None  # shortest side before the crop / crop; None: squash


PRESETS: dict[str, Preset] = {
    "torchvision": Preset(
        "torchvision, timm: RGB, /255, ImageNet mean and std, short side 256/224, centre crop",
        1 / 255,
        (0.485, 0.456, 0.406),
        (0.229, 0.224, 0.225),
        enlarge=256 / 224,
    ),
    "inception": Preset(
        "Keras 'tf' mode, ViT, Inception, MobileNetV2 of Keras: RGB, x/127.5 - 1, squashed",
        1 / 127.5,
        (1.0, 1.0, 1.0),
        (1.0, 1.0, 1.0),
    ),
    "caffe": Preset(
        "Keras 'caffe' mode, VGG, SqueezeNet of Keras: BGR minus the ImageNet mean, squashed",
        1.0,
        (103.939, 116.779, 123.68),
        (1.0, 1.0, 1.0),
        color="BGR",
    ),
    "lite": Preset(
        "EfficientNet-Lite: RGB, (x - 127) / 128, short side 256/224 bicubic, centre crop",
        1.0,
        (127.0, 127.0, 127.0),
        (128.0, 128.0, 128.0),
        interpolation="bicubic",
        enlarge=256 / 224,
    ),
    "unit": Preset("RGB, x/255, squashed", 1 / 255, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "raw": Preset("RGB, 0..255, squashed", 1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}


def parse(text: str, layout: str, height: int | None, width: int | None) -> Preprocess:
    """Read a recipe written as ``PRESET[,key=value]...`` or as a JSON object.

    Keys: ``size`` (N or HxW), ``resize`` (pixels of the short side, or ``squash``),
    ``interpolation``, ``color``, ``scale``, ``mean`` and ``std`` (numbers joined by ``/``).

    Args:
        text: the recipe.
        layout: layout of the model's input, ``"NCHW"`` or ``"NHWC"``.
        height, width: size of the model's input in pixels; ``None`` where it is free.

    Raises:
        PreprocessError: unknown preset, key or value, a size that contradicts the model's, or no
            size where the model leaves it free.
    """
    if text.lstrip().startswith("{"):
        try:
            recipe = Preprocess.from_dict(json.loads(text), "--preprocess")
        except (json.JSONDecodeError, RecursionError) as error:
            raise PreprocessError(f"preprocessing: not JSON: {error}") from error
        _check_size(recipe, layout, height, width)
        return recipe
    name, *pairs = [part.strip() for part in text.split(",")]
    if name not in PRESETS:
        choices = ", ".join(PRESETS)
        raise PreprocessError(f"preprocessing: unknown preset {name!r}; one of {choices}")
    preset = PRESETS[name]
    settings: dict[str, str] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or key not in _KEYS or key in settings:
            raise PreprocessError(
                f"preprocessing: {pair!r} is not key=value, said once, with a key among "
                f"{', '.join(_KEYS)}"
            )
        settings[key] = value
    height, width = _size(settings.get("size"), height, width)
    enlarged = None if preset.enlarge is None else round(preset.enlarge * max(height, width))
    recipe = Preprocess(
        height=height,
        width=width,
        shortest_side=enlarged,
        interpolation=settings.get("interpolation", preset.interpolation),
        color=preset.color,
        layout=layout,
        scale=preset.scale,
        mean=preset.mean,
        std=preset.std,
    )
    changes: dict[str, Any] = {}
    if "resize" in settings:
        side = settings["resize"]
        changes["shortest_side"] = None if side == "squash" else _number(side, "resize", int)
    if "color" in settings:
        changes["color"] = settings["color"].upper()
        if changes["color"] == recipe.color[::-1]:
            changes["mean"], changes["std"] = recipe.mean[::-1], recipe.std[::-1]
    if "scale" in settings:
        changes["scale"] = _number(settings["scale"], "scale", float)
    for key in ("mean", "std"):
        if key in settings:
            changes[key] = tuple(_number(x, key, float) for x in settings[key].split("/"))
    return replace(recipe, **changes)


def fitting(
    recipe: Preprocess | str,
    layout: str,
    channels: int | None,
    height: int | None,
    width: int | None,
    *,
    whole: bool,
) -> Preprocess:
    """The recipe, read if it is text, and checked against the model's input.

    Args:
        recipe: the recipe, or its text form.
        layout, channels, height, width: of the model's input; ``None`` where it is free.
        whole: whether the model takes integers, which hold pixel values and nothing else.

    Raises:
        PreprocessError: malformed, or the tensor that it makes isn't what the model takes.
    """
    if isinstance(recipe, str):
        recipe = parse(recipe, layout, height, width)
    _check_size(recipe, layout, height, width)
    if channels not in (None, len(recipe.mean)):
        raise PreprocessError(
            f"preprocessing: color {recipe.color} makes {len(recipe.mean)} channels, the model "
            f"takes {channels}" + ("; say color=GRAY,mean=M,std=S" if channels == 1 else "")
        )
    unchanged = (recipe.scale, {*recipe.mean}, {*recipe.std}) == (1, {0}, {1})
    if whole and not unchanged:
        raise PreprocessError(
            "preprocessing: the model takes integers, so scale must be 1, mean 0 and std 1, as in "
            "the preset raw"
        )
    return recipe


def check_extent(sizes: Sequence[int | None], where: str) -> None:
    """Check that a model's fixed input can be filled at all: a damaged file may ask for anything.

    Args:
        sizes: of the input called `where` in messages, ``None`` where they are free.

    Raises:
        InputShapeError: a side beyond `MAX_SIDE`, or more than `MAX_NUMBERS` altogether.
    """
    sides = [size for size in sizes[1:] if size is not None]
    if max(sides, default=1) > MAX_SIDE or math.prod(sides) * (sizes[0] or 1) > MAX_NUMBERS:
        shape = ", ".join("free" if size is None else str(size) for size in sizes)
        raise InputShapeError(
            f"{where} of shape [{shape}] is too large: at most {MAX_SIDE:,} pixels a side and "
            f"{MAX_NUMBERS:,} numbers are taken; export the model with a smaller or a free batch"
        )


def _check_size(recipe: Preprocess, layout: str, height: int | None, width: int | None) -> None:
    own = (layout, height or recipe.height, width or recipe.width)
    if (recipe.layout, recipe.height, recipe.width) != own:
        raise PreprocessError(
            f"preprocessing: {recipe.layout} {recipe.height}x{recipe.width} contradicts the "
            f"model's input, {layout} {height or '?'}x{width or '?'}; correct the recipe"
        )


_KEYS = ("size", "resize", "interpolation", "color", "scale", "mean", "std")


def _number(text: str, key: str, kind: type[int] | type[float]) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise PreprocessError(f"preprocessing: {key}={text!r} is not a number") from None


def _size(text: str | None, height: int | None, width: int | None) -> tuple[int, int]:
    """The tensor's height and width in pixels: the model's own, or as written where it's free."""
    if text is not None:
        parts = [_number(part, "size", int) for part in text.lower().split("x")]
        if len(parts) > 2:
            raise PreprocessError(f"preprocessing: size={text!r} is neither N nor HxW")
        asked = (parts[0], parts[-1])
        if any(own not in (None, want) for own, want in zip((height, width), asked, strict=True)):
            raise PreprocessError(
                f"preprocessing: size={text} contradicts the model's input, {height}x{width}; "
                "leave size out"
            )
        return asked
    if height is None or width is None:
        raise PreprocessError("preprocessing: the model leaves its input size free; add size=N")
    return height, width
