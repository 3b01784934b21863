"""What a file says of its prototypes: the ProtoPNet part of the manifest, and of its bank.

Standard library only, as `xai_onnx.manifest`, which holds it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from xai_onnx.errors import ManifestError

SIMILARITIES = ("log", "linear")
EPSILON = 1e-4  # of the log similarity, Chen et al. 2019
BANK_SUFFIX = ".protobank.safetensors"
BANK_SCHEMA = "1"  # in the bank's own metadata, under "schema_version"


@dataclass(frozen=True)
class ReceptiveField:
    """The pixels that can reach a cell of the latent grid, along both axes.

    Attributes:
        cells: side of the grid.
        jump: pixels between the centres of neighbouring cells.
        size: pixels along a side.
        start: centre of the first cell, in pixels.
    """

    cells: int
    jump: float
    size: float
    start: float


@dataclass(frozen=True)
class Prototypes:
    """The ProtoPNet part of a manifest.

    Attributes:
        count: P.
        size: D, h1, w1 of a prototype.
        grid: h, w of the similarity maps.
        similarity: one of `SIMILARITIES`.
        epsilon: of the log similarity.
        add_on: what the layers before the latent grid are called; ``""`` where unknown.
        receptive_field: of one cell; ``None`` where it is the whole picture or unknown.
        familiar: a largest similarity below this is shown as "no familiar part".
        bank: file name of the bank, which lies beside the model.
        bank_sha256: of the bank's bytes.
        redacted: whether the bank holds no pictures.
        similarities, min_distances: the outputs [B, P].
        locations: the output int64 [B, P], y * w + x of the largest similarity.
        top_indices, top_maps: the outputs [B, K] and [B, K, h, w]: the prototypes that add most to
            the class asked for, and their similarity maps.
        activation_maps: the output [B, P, h, w] of all maps; ``None`` in a file made without it.
        top_count: K.
    """

    count: int
    size: tuple[int, int, int]
    grid: tuple[int, int]
    similarity: str
    epsilon: float
    add_on: str
    receptive_field: ReceptiveField | None
    familiar: float
    bank: str
    bank_sha256: str
    redacted: bool
    similarities: str
    min_distances: str
    locations: str
    top_indices: str
    top_maps: str
    activation_maps: str | None
    top_count: int

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs that a file of this kind has."""
        named = (self.similarities, self.min_distances, self.locations, self.top_indices)
        more = () if self.activation_maps is None else (self.activation_maps,)
        return (*named, self.top_maps, *more)

    @classmethod
    def from_dict(cls, data: Any, where: str) -> Prototypes:
        """Rebuild from the manifest's JSON; `where` names the file in error messages.

        Raises:
            ManifestError: malformed.
        """
        try:
            return cls._read(data)
        except (TypeError, ValueError, AttributeError, KeyError, OverflowError) as error:
            raise ManifestError(
                f"{where}: the manifest's prototypes are malformed: {error}; export the model again"
            ) from error

    @classmethod
    def _read(cls, data: Mapping[str, Any]) -> Prototypes:
        names = {field.name for field in fields(cls)}
        if set(data) != names:
            raise ValueError(f"missing or unknown fields {sorted(set(data) ^ names)}")
        values = dict(data)
        field = values["receptive_field"]
        if field is not None:
            numbers = ("jump", "size", "start")
            sizes = [float(field[name]) for name in numbers]
            if not all(map(math.isfinite, sizes)):
                raise ValueError("receptive_field is not finite")
            field = ReceptiveField(int(field["cells"]), *sizes)
        values["receptive_field"] = field
        for name, length in (("size", 3), ("grid", 2)):
            values[name] = _sides(values[name], name, length)
        for name in ("count", "top_count"):
            (values[name],) = _sides([values[name]], name, 1)
        for name in ("epsilon", "familiar"):
            values[name] = float(values[name])
            if not math.isfinite(values[name]):
                raise ValueError(f"{name} is not finite")
        texts = {f.name for f in fields(cls) if f.type == "str"}
        wrong = [name for name in sorted(texts) if not isinstance(values[name], str)]
        if wrong or not isinstance(values["activation_maps"], str | None):
            raise ValueError(f"{', '.join(wrong) or 'activation_maps'} must be text")
        if not isinstance(values["redacted"], bool):
            raise ValueError("redacted must be true or false")
        if values["similarity"] not in SIMILARITIES:
            raise ValueError(f"similarity {values['similarity']!r}")
        name = values["bank"]
        if "/" in name or "\\" in name or not name.endswith(BANK_SUFFIX):
            raise ValueError(f"the bank {name!r} is no *{BANK_SUFFIX} beside the model")
        return cls(**values)


def _sides(given: Any, name: str, length: int) -> tuple[Any, ...]:
    right = isinstance(given, list) and len(given) == length
    if not right or not all(type(side) is int and side > 0 for side in given):
        raise ValueError(f"{name} must be {length} whole number(s) above 0")
    return tuple(given)
