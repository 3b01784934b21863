"""Train a ProtoPNet: the stages of Chen et al. 2019, resumable after each epoch.

Two things differ from the original's code, so that a projected prototype stays on its patch: where
the backbone isn't trained, it is in evaluation mode, so that its batch normalisation doesn't drift;
and the last layer is fitted to the similarities of the pictures as they are, computed once.

Everything that is drawn in a step (order of the pictures, augmentation, dropout) comes from the
seed and the number of the step, so that a resumed training does what an uninterrupted one does.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as everywhere in torch

from exporters.protopnet import resume
from exporters.protopnet.arrays import ProtoPNetArrays
from exporters.protopnet.evidence import start_on_evidence
from exporters.protopnet.labelled_pictures import Augment, LabelledPictures
from exporters.protopnet.loss import loss, sparsity
from exporters.protopnet.model import LatentGrid, ProtoPNet, grid_of
from exporters.protopnet.passes import Grids, batches, grids_of, kept_grids, outputs
from exporters.protopnet.projection import Places, project
from exporters.protopnet.pruning import kept_prototypes
from exporters.protopnet.schedule import Schedule
from exporters.protopnet.sources import latent_receptive_field, record
from exporters.torch_export import from_torch
from xai_onnx.errors import PrototypeError

STARTS = ("random", "evidence")
FAMILIAR = 0.025  # share of known pictures whose best similarity may count as "no familiar part"


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained ProtoPNet.

    Attributes:
        model: as a torch module, in evaluation mode.
        arrays: as plain data with its sources, ready for `exporters.export_protopnet`.
        history: for each step its stage, the mean of the loss's terms, and the share of training
            pictures that were classified right, where the stage has these.
    """

    model: ProtoPNet
    arrays: ProtoPNetArrays
    history: tuple[dict[str, Any], ...]


def train(
    backbone: nn.Module,
    pictures: LabelledPictures,
    *,
    per_class: int = 10,
    channels: int = 128,
    patch: tuple[int, int] = (1, 1),
    add_on: str = "regular",
    similarity: str = "log",
    start: str = "random",
    schedule: Schedule | None = None,
    augment: Augment | None = None,
    frozen: bool = False,
    prune: bool = True,
    held_out: LabelledPictures | None = None,
    seed: int = 0,
    folder: str | os.PathLike[str] | None = None,
    after_step: Callable[[str, ProtoPNet], object] = lambda stage, model: None,
) -> Trained:
    """Train a ProtoPNet over `backbone` on the device that its weights are on.

    Args:
        backbone: gives a grid [B, channels, h, w] (see `exporters.protopnet.model.grid_of`); it is
            trained in place.
        pictures: the training set.
        per_class: prototypes of each class.
        channels: D, of a prototype.
        patch: h1, w1, cells of a prototype.
        add_on: layers between backbone and latent grid, `exporters.protopnet.model.ADD_ONS`.
        similarity: ``"log"`` or ``"linear"``.
        start: ``"random"``, U[0, 1) as the original, or ``"evidence"``: on patches of the class's
            pictures that speak for it, for a backbone that is trained already
            (`exporters.protopnet.evidence`).
        schedule: epochs and rates; ``None``: the original's.
        augment: changes a picture in the first two stages; projection, last layer and pruning see
            the pictures as they are.
        frozen: leave the backbone as it is; its grids are computed once and kept in memory, N
            times channels times h times w numbers, so that there is no augmentation.
        prune: whether to drop prototypes that stand for no class (`exporters.protopnet.pruning`).
        held_out: pictures of the same kind that nothing is trained on. They decide below which
            similarity a picture has no familiar part (`FAMILIAR`); ``None``: the training set
            does, where the best similarities are a little higher than elsewhere.
        seed: of all that is drawn but the backbone's own weights.
        folder: where the state is kept after each epoch. If there is one of the same training, it
            goes on from there.
        after_step: called with the stage and the model after each epoch, and after each stage
            that has none; for instance to measure the accuracy on other pictures.

    Raises:
        PrototypeError: the settings contradict each other, the backbone gives no grid, a class
            has no picture, the loss is not finite, or `folder` holds the state of another training.
        OutputFileError: `folder` can't be written.
    """
    schedule = schedule or Schedule()
    if start not in STARTS:
        raise PrototypeError(f"start {start!r} is none of {', '.join(STARTS)}")
    if frozen and augment is not None:
        raise PrototypeError(
            "a frozen backbone sees every picture once, so there can't be an augmentation; "
            "leave out augment= or frozen=True, or put augmented copies among the pictures"
        )
    missing = sorted({*range(len(pictures.labels))} - {*pictures.classes.tolist()})
    if missing:
        names = ", ".join(pictures.labels[index] for index in missing[:5])
        raise PrototypeError(
            f"the training set: no picture of {names}, so nothing to project their prototypes on; "
            "leave such classes out"
        )
    with _drawn_from(seed, 0):
        model = _new_model(
            backbone, pictures, per_class, channels, patch, add_on=add_on, similarity=similarity
        )
    training = _Training(model, pictures, schedule, augment, frozen, seed)
    told = {
        "schedule": asdict(schedule),
        "settings": [
            per_class,
            channels,
            list(patch),
            add_on,
            similarity,
            start,
            frozen,
            prune,
            seed,
        ],
        "augmented": augment is not None,
        "pictures": resume.fingerprint(pictures),
    }
    file = None if folder is None else Path(folder) / "training.pt"
    steps = schedule.steps(prune)
    if file is not None and file.exists():
        training.restore(resume.load(file, told))
    elif start == "evidence":
        rng = np.random.default_rng([seed, 0])
        start_on_evidence(model, training.grids, pictures.classes, rng)
    for number in range(len(training.history), len(steps)):
        with _drawn_from(seed, number + 1):
            measured = training.step(steps[number], np.random.default_rng([seed, number + 1]))
        training.history.append({"stage": steps[number], **measured})
        if file is not None:
            resume.save(file, told, training.state())
        after_step(steps[number], model)
    return training.finish(add_on, held_out)


class _Training:
    """The model on its way, and what a resumed training needs to know besides."""

    def __init__(
        self,
        model: ProtoPNet,
        pictures: LabelledPictures,
        schedule: Schedule,
        augment: Augment | None,
        frozen: bool,
        seed: int,
    ) -> None:
        self.model, self.pictures, self.schedule = model, pictures, schedule
        self.augment, self.frozen = augment, frozen
        self.history: list[dict[str, Any]] = []
        self.places: Places | None = None
        self.notes: list[str] = []
        self.device = model.prototype_vectors.device
        self.classes = torch.from_numpy(pictures.classes).to(self.device)
        self.grids: Grids = (kept_grids if frozen else grids_of)(model, pictures)
        add_on = {
            "params": [*model.add_on_layers.parameters()],
            "lr": schedule.prototype_rate,
            "weight_decay": schedule.weight_decay,
        }
        prototypes = {"params": [model.prototype_vectors], "lr": schedule.prototype_rate}
        features = {
            "params": [*model.features.parameters()],
            "lr": schedule.backbone_rate,
            "weight_decay": schedule.weight_decay,
        }
        trained = [] if frozen or not features["params"] else [features]
        self.optimizers = {
            "warm": torch.optim.Adam([add_on, prototypes]),
            "joint": torch.optim.Adam([*trained, dict(add_on), dict(prototypes)]),
        }

    def step(self, stage: str, rng: np.random.Generator) -> dict[str, float]:
        """One epoch of a stage, or all of a stage without epochs."""
        if stage in self.optimizers:
            return self._epoch(stage, rng)
        if stage == "projection":
            self.places = project(self.model, self.grids, self.pictures.classes)
            return {}
        if stage == "pruning":
            return self._prune()
        return self._fit_last_layer(rng)

    def _epoch(self, stage: str, rng: np.random.Generator) -> dict[str, float]:
        model, optimizer = self.model, self.optimizers[stage]
        trains = stage == "joint" and not self.frozen
        model.train()
        model.features.train(trains)
        for parameter in model.features.parameters():
            parameter.requires_grad_(trains)
        if stage == "joint":
            done = sum(entry["stage"] == "joint" for entry in self.history)
            if done and done % self.schedule.decay_every == 0:
                for group in optimizer.param_groups:
                    group["lr"] *= self.schedule.decay
        order = rng.permutation(len(self.pictures))
        terms, right = torch.zeros(4), 0
        for batch in batches(order, f"{stage} epoch", self.schedule.batch_size):
            with torch.set_grad_enabled(trains):
                grid = self._grid(batch, rng)
            given = model.head(grid)
            classes = self.classes[torch.from_numpy(batch)]
            found = loss(
                given.logits,
                given.min_distances,
                classes,
                model.prototype_class,
                model.last_layer.weight,
            )
            total = found.total(self.schedule.separation)
            if not torch.isfinite(total):
                raise PrototypeError(
                    f"the loss is {total.item()} in a {stage} epoch; lower the rates of the "
                    "schedule, or look for NaN in the pictures"
                )
            optimizer.zero_grad()
            torch.autograd.backward(total)
            optimizer.step()
            terms += torch.stack(found).detach().cpu() * len(batch)
            right += int((given.logits.argmax(1) == classes).sum())
        names = ("cross_entropy", "cluster", "separation", "sparsity")
        means = (terms / len(order)).tolist()
        return {**dict(zip(names, means, strict=True)), "accuracy": right / len(order)}

    def _grid(self, batch: NDArray[np.int64], rng: np.random.Generator) -> Tensor:
        if self.augment is None:
            return self.grids(batch)
        images = self.pictures.tensor(batch, self.augment, rng)
        return self.model.grid(torch.from_numpy(images).to(self.device))

    def _fit_last_layer(self, rng: np.random.Generator) -> dict[str, float]:
        """Cross entropy + sparsity * |weights of other classes|, on fixed similarities."""
        model, schedule = self.model, self.schedule
        similarities = model.similarities(self._min_distances())
        weight = model.last_layer.weight
        optimizer = torch.optim.Adam([weight], lr=schedule.last_rate)
        for _ in range(schedule.last_passes):
            order = rng.permutation(len(self.pictures))
            for batch in batches(order, "last layer", schedule.batch_size):
                rows = torch.from_numpy(batch)
                entropy = F.cross_entropy(model.last_layer(similarities[rows]), self.classes[rows])
                optimizer.zero_grad()
                total = entropy + schedule.sparsity * sparsity(weight, model.prototype_class)
                torch.autograd.backward(total)
                optimizer.step()
        with torch.no_grad():
            given = model.last_layer(similarities)
            right = (given.argmax(1) == self.classes).float().mean()
            return {
                "cross_entropy": F.cross_entropy(given, self.classes).item(),
                "accuracy": right.item(),
            }

    def _min_distances(self) -> Tensor:
        given = outputs(self.model, self.grids, len(self.pictures), "distances")
        return given.min_distances

    def _familiar(self, held_out: LabelledPictures | None) -> float:
        """The quantile `FAMILIAR` of the pictures' largest similarities."""
        distances = self._min_distances()
        if held_out is not None:
            grids = grids_of(self.model, held_out)
            distances = outputs(self.model, grids, len(held_out), "familiar").min_distances
        best = self.model.similarities(distances).amax(1).double()
        return float(np.quantile(best.cpu().numpy(), FAMILIAR))

    def _prune(self) -> dict[str, float]:
        model, labels = self.model, self.pictures.labels
        owners = model.prototype_class.cpu().numpy()
        kept = kept_prototypes(self._min_distances().cpu().numpy(), self.pictures.classes, owners)
        if len(kept) == 0:
            raise PrototypeError(
                "pruning leaves no prototype: none is close to pictures of its own class; train "
                "longer, or with prune=False"
            )
        model.keep(kept.tolist())
        assert self.places is not None
        self.places = self.places.kept(kept)
        self.notes = [f"pruning dropped {len(owners) - len(kept)} of {len(owners)} prototypes"]
        for number in sorted({*owners.tolist()} - {*owners[kept].tolist()}):
            self.notes.append(f"no prototype of {labels[number]} is left")
        return {}

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on, as tensors and plain values."""
        places = self.places
        return {
            "model": self.model.state_dict(),
            "optimizers": {name: item.state_dict() for name, item in self.optimizers.items()},
            "history": self.history,
            "notes": self.notes,
            "places": None
            if places is None
            else torch.from_numpy(np.stack([places.pictures, places.locations])),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        model = self.model
        left = len(state["model"]["prototype_class"])
        if left < len(model.prototype_class):  # pruned: the optimisers have done their work
            model.keep(range(left))
        model.load_state_dict(state["model"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.history, self.notes = list(state["history"]), list(state["notes"])
        if state["places"] is not None:
            self.places = Places(*state["places"].numpy())

    def finish(self, add_on: str, held_out: LabelledPictures | None) -> Trained:
        """The model and its arrays, with the record of each prototype's source."""
        model, pictures = self.model.eval(), self.pictures
        assert self.places is not None
        example = torch.from_numpy(pictures.tensor([0])).to(self.device)
        latent = from_torch(LatentGrid(model), example)
        sources = record(model, self.grids, pictures, self.places, latent_receptive_field(latent))
        arrays = ProtoPNetArrays(
            prototypes=model.prototype_vectors.detach().cpu().numpy().copy(),
            prototype_class=model.prototype_class.detach().cpu().numpy().copy(),
            weights=model.last_layer.weight.detach().cpu().numpy().copy(),
            backbone=latent,
            similarity=model.similarity,
            epsilon=model.epsilon,
            add_on=add_on,
            preprocess=pictures.recipe,
            labels=pictures.labels,
            sources=sources,
            familiar=self._familiar(held_out),
            notes=tuple(self.notes),
        )
        return Trained(model, arrays, tuple(self.history))


def _new_model(
    backbone: nn.Module,
    pictures: LabelledPictures,
    per_class: int,
    channels: int,
    patch: tuple[int, int],
    **more: Any,
) -> ProtoPNet:
    weights = next(backbone.parameters(), None)
    device = torch.device("cpu") if weights is None else weights.device
    was = backbone.training
    backbone.eval()
    with torch.no_grad():
        grid = grid_of(backbone(torch.from_numpy(pictures.tensor([0])).to(device)))
    backbone.train(was)
    if patch[0] > grid.shape[2] or patch[1] > grid.shape[3]:
        raise PrototypeError(
            f"prototypes of {patch[0]}x{patch[1]} cells don't fit the backbone's grid of "
            f"{grid.shape[2]}x{grid.shape[3]}; choose a smaller patch"
        )
    count = len(pictures.labels)
    model = ProtoPNet(
        backbone,
        grid.shape[1],
        count,
        per_class=per_class,
        channels=channels,
        patch=patch,
        **more,
    )
    return model.to(device)


@contextmanager
def _drawn_from(seed: int, number: int) -> Iterator[None]:
    """Let torch draw from a seed of its own for a step, and leave the caller's generators alone."""
    (mixed,) = np.random.SeedSequence([seed, number]).generate_state(1)
    with torch.random.fork_rng():
        torch.manual_seed(int(mixed))
        yield
