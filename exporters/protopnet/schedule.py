"""What a training does, in order, and how fast."""

from __future__ import annotations

from dataclasses import dataclass, fields

from xai_onnx.errors import PrototypeError

SEPARATION, SPARSITY = 0.08, 1e-4  # Chen et al. 2019


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The three stages of Chen et al. 2019, section 2.2 to 2.4; the defaults are the original's.

    First the add-on layers and the prototypes alone ("warm"); then `rounds` times: everything but
    the last layer ("joint"), projection, the last layer alone. At the end the pruning, and the last
    layer once more. Adam throughout.

    Attributes:
        warm_epochs: of the first stage.
        joint_epochs: of each round.
        rounds: how often prototypes are projected, at least once.
        last_passes: over the training set, each time the last layer is fitted.
        batch_size: pictures.
        backbone_rate: learning rate of the backbone in the joint stage.
        prototype_rate: of add-on layers and prototypes, in both stages.
        last_rate: of the last layer.
        decay_every: joint epochs after which the rates are multiplied by `decay`.
        decay: that factor.
        weight_decay: of backbone and add-on layers.
        separation: factor of the distance to the closest prototype of another class; the larger,
            the less a prototype can lie on what the classes share, such as backgrounds.
        sparsity: factor of the absolute weights between prototypes and classes that they don't
            belong to, while the last layer is fitted; the larger, the fewer points a class loses
            to what speaks for another.
    """

    warm_epochs: int = 5
    joint_epochs: int = 10
    rounds: int = 1
    last_passes: int = 20
    batch_size: int = 80
    backbone_rate: float = 1e-4
    prototype_rate: float = 3e-3
    last_rate: float = 1e-4
    decay_every: int = 5
    decay: float = 0.1
    weight_decay: float = 1e-3
    separation: float = SEPARATION
    sparsity: float = SPARSITY

    def __post_init__(self) -> None:
        lowest = {"rounds": 1, "batch_size": 1, "decay_every": 1}
        for field in fields(self):
            value = getattr(self, field.name)
            if not value >= lowest.get(field.name, 0):
                raise PrototypeError(
                    f"schedule: {field.name}={value} must be at least {lowest.get(field.name, 0)}"
                )

    def steps(self, prune: bool) -> list[str]:
        """The stages in order, once for each epoch; those without epochs once."""
        steps = ["warm"] * self.warm_epochs
        for _ in range(self.rounds):
            steps += ["joint"] * self.joint_epochs + ["projection", "last layer"]
        return steps + (["pruning", "last layer"] if prune else [])
