"""Training: from pictures to an exported file; killed and resumed; with the same seed the same."""

import io
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from digits import digits
from PIL import Image
from torch import nn

import exporters
from exporters import protopnet
from exporters.protopnet import LabelledPictures, Schedule, training
from exporters.protopnet.model import LatentGrid
from exporters.protopnet.sources import latent_receptive_field
from exporters.torch_export import from_torch
from xai_onnx.errors import OutputFileError, PrototypeError
from xai_onnx.prototype_box import enlarged, high_box

SHORT = Schedule(warm_epochs=1, joint_epochs=2, rounds=2, last_passes=2, batch_size=16)
LONGER = Schedule(
    joint_epochs=15, batch_size=8, backbone_rate=1e-2, prototype_rate=1e-2, last_rate=1e-2
)
STEPS = ["warm", *["joint", "joint", "projection", "last layer"] * 2, "pruning", "last layer"]


def corners(count=48, seed=0):
    """Grey noise with a bright square, whose corner is the class."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 60, (count, 16, 16), dtype=np.uint8)
    classes = np.arange(count) % 3
    for picture, owner in zip(pixels, classes, strict=True):
        y, x = rng.integers(0, 4, 2) + 8 * np.array(divmod(owner, 2))
        picture[y : y + 4, x : x + 4] += 150
    recipe = "unit,size=16,color=gray,mean=0.5,std=0.5"
    return LabelledPictures(pixels, classes, labels=("a", "b", "c"), preprocess=recipe)


def backbone(seed=0):
    torch.manual_seed(seed)
    return protopnet.small_cnn(1, 4)


def small(made=None, pictures=None, **more):
    more = {"per_class": 2, "channels": 8, "schedule": SHORT, "prune": False, **more}
    return protopnet.train(made or backbone(), pictures or corners(), **more)


def differences(one, other):
    """What two trained models differ in, by name."""
    both = [trained.model.state_dict() for trained in (one, other)]
    return [name for name in both[0] if not torch.equal(both[0][name], both[1][name])]


@pytest.fixture(scope="module")
def trained():
    return small(prune=True, schedule=LONGER)


def test_stages_in_order(uninterrupted):
    assert [entry["stage"] for entry in uninterrupted.history] == STEPS


def test_learns(trained):
    held_out = corners(seed=1)
    right = protopnet.logits(trained.model, held_out).argmax(1) == held_out.classes
    assert right.mean() > 0.8


def test_every_prototype_lies_on_a_patch_of_its_class(trained):
    pictures, sources = corners(), trained.arrays.sources
    latent = LatentGrid(trained.model).eval()
    for j, vector in enumerate(trained.arrays.prototypes):
        index = int(sources.image_ids[j])
        assert pictures.classes[index] == trained.arrays.prototype_class[j]
        assert sources.image_sha256[j] == pictures.sha256(index)
        with torch.no_grad():
            z = latent(torch.from_numpy(pictures.tensor([index])))[0].numpy()
        at = divmod(int(sources.locations[j]), z.shape[2])
        # Alone, not in a batch: float32 convolutions may add in another order.
        np.testing.assert_allclose(z[:, *at], vector[:, 0, 0], rtol=0, atol=1e-6)


def test_sources_hold_box_map_and_pictures(trained):
    sources, pictures = trained.arrays.sources, corners()
    for j, shown in enumerate(sources.self_similarity):
        assert shown.flat[sources.locations[j]] == shown.max() >= 9.2
        box = sources.boxes[j]
        # The stored map is float16, the box was made of float32.
        close = high_box(enlarged(shown.astype(np.float32), 16, 16))
        assert np.abs(np.subtract(box, close)).max() <= 1
        patch, whole = (
            np.asarray(Image.open(io.BytesIO(content[j])))
            for content in (sources.patches, sources.pictures)
        )
        assert patch.shape == (box[1] - box[0], box[3] - box[2], 3)
        seen = pictures.seen(int(sources.image_ids[j])).astype(float)
        assert np.abs(whole - seen).mean() < 4  # JPEG of noise
        y0, y1, x0, x1 = sources.receptive_boxes[j]
        assert 0 <= y0 < y1 <= 16
        assert 0 <= x0 < x1 <= 16


def test_familiar_is_a_low_quantile_of_the_best_similarities():
    schedule = Schedule(warm_epochs=1, joint_epochs=0, last_passes=1)
    pictures, others = corners(), corners(60, seed=5)
    for given, measured in ((None, pictures), (others, others)):
        found = small(schedule=schedule, held_out=given)
        with torch.no_grad():
            z = found.model(torch.from_numpy(measured.tensor(np.arange(len(measured)))))
        best = np.sort(found.model.similarities(z.min_distances).amax(1).numpy())
        place = 0.025 * (len(best) - 1)
        low, part = int(place), place % 1
        expected = best[low] * (1 - part) + best[low + 1] * part
        assert found.arrays.familiar == pytest.approx(expected, rel=1e-4)
    assert protopnet.merge_duplicates(found.arrays).familiar == found.arrays.familiar


def test_exported_file_gives_the_same_scores(trained, tmp_path):
    import xai_onnx

    path = tmp_path / "corners.onnx"
    exporters.export_protopnet(trained.arrays, path)
    session = xai_onnx.load(path)
    pictures = corners(seed=2)
    tensor = pictures.tensor(np.arange(10))
    expected = protopnet.logits(trained.model, pictures)[:10]
    given = session.predict(tensor, preprocessed=True)
    np.testing.assert_allclose([p.scores for p in given], expected, rtol=1e-4, atol=1e-4)


def test_the_same_seed_gives_the_same_model():
    one, other = (small(augment=flipped) for _ in range(2))
    assert differences(one, other) == []
    assert one.history == other.history
    assert differences(one, small(augment=flipped, seed=1))


def flipped(picture, rng):
    return picture + rng.integers(0, 3, picture.shape, dtype=np.uint8)


class KilledError(Exception):
    pass


@pytest.mark.parametrize("done", range(1, len(STEPS)))
def test_a_killed_training_goes_on_where_it_was(done, tmp_path, monkeypatch, uninterrupted):
    step = training._Training.step
    count = 0

    def killed(self, *arguments):
        nonlocal count
        if count == done:
            raise KilledError
        count += 1
        return step(self, *arguments)

    monkeypatch.setattr(training._Training, "step", killed)
    monkeypatch.setattr(training._Training, "finish", lambda self, *_: self)
    with pytest.raises(KilledError):
        small(prune=True, augment=flipped, folder=tmp_path / "state")
    done = -1
    # Another start: what is on disk decides, not how the backbone was initialised.
    resumed = small(backbone(7), prune=True, augment=flipped, folder=tmp_path / "state")
    assert differences(resumed, uninterrupted) == []
    assert resumed.history == uninterrupted.history
    np.testing.assert_array_equal(resumed.places.pictures, uninterrupted.places.pictures)
    np.testing.assert_array_equal(resumed.places.locations, uninterrupted.places.locations)
    assert resumed.notes == uninterrupted.notes


@pytest.fixture(scope="module")
def uninterrupted():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training._Training, "finish", lambda self, *_: self)
        return small(prune=True, augment=flipped)


def test_the_state_of_another_training_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(training._Training, "finish", lambda self, *_: self)
    small(folder=tmp_path)
    for more, what in [
        ({"seed": 1}, "settings"),
        ({"schedule": Schedule(warm_epochs=1, joint_epochs=0)}, "schedule"),
        ({"pictures": corners(24)}, "pictures"),
        ({"augment": flipped}, "augmented"),
    ]:
        with pytest.raises(PrototypeError, match=f"another training, with other {what};"):
            small(folder=tmp_path, **more)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04"])
def test_a_damaged_state_is_refused(content, tmp_path):
    (tmp_path / "training.pt").write_bytes(content)
    with pytest.raises(PrototypeError, match=r"training\.pt: is no state of a training"):
        small(folder=tmp_path)


def test_a_state_that_would_run_code_is_refused(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (open, (str(tmp_path / "written"), "w"))

    torch.save({"told": "{}", "state": Harmful()}, tmp_path / "training.pt")
    with pytest.raises(PrototypeError, match="is no state of a training"):
        small(folder=tmp_path)
    assert not (tmp_path / "written").exists()


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputFileError, match="can't be made"):
        small(folder=tmp_path / "file")


def test_a_frozen_backbone_stays_as_it_is(monkeypatch):
    monkeypatch.setattr(training._Training, "finish", lambda self, *_: self)
    net = backbone()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    found = small(net, frozen=True)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert found.history[-1]["cross_entropy"] < found.history[0]["cross_entropy"]
    with pytest.raises(PrototypeError, match="there can't be an augmentation"):
        small(frozen=True, augment=flipped)


def test_batch_normalisation_rests_where_the_backbone_is_not_trained(monkeypatch):
    monkeypatch.setattr(training._Training, "finish", lambda self, *_: self)
    net = backbone()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    small(net, schedule=Schedule(warm_epochs=2, joint_epochs=0, last_passes=1))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_patches_of_more_cells():
    found = small(patch=(2, 2), schedule=Schedule(warm_epochs=1, joint_epochs=1, last_passes=1))
    sources = found.arrays.sources
    assert sources.self_similarity.shape == (6, 3, 3)
    assert (sources.self_similarity.max((1, 2)) >= 9.2).all()
    with pytest.raises(PrototypeError, match="5x1 cells don't fit the backbone's grid of 4x4"):
        small(patch=(5, 1))


def test_receptive_field_is_what_a_gradient_reaches():
    net = backbone().eval()
    with torch.no_grad():  # positive throughout, so that no way is closed
        for layer in net:
            if isinstance(layer, nn.Conv2d):
                layer.weight.fill_(0.1)
    module = nn.Sequential(net, nn.Conv2d(8, 4, 1), nn.Sigmoid()).eval()
    image = torch.ones(1, 1, 64, 64, requires_grad=True)
    field = latent_receptive_field(from_torch(module, image.detach()))
    cell = 8
    net(image)[0, :, cell, cell].sum().backward()
    rows = torch.nonzero(image.grad[0, 0].abs().sum(1)).flatten()
    centre = field.start + cell * field.jump
    assert (rows[0], rows[-1] + 1) == (centre - field.size / 2, centre + field.size / 2)


def test_a_class_without_pictures_is_refused():
    pictures = LabelledPictures(
        np.zeros((4, 16, 16), np.uint8),
        [0, 0, 2, 2],
        labels=("a", "b", "c"),
        preprocess="unit,size=16,color=gray,mean=0,std=1",
    )
    with pytest.raises(PrototypeError, match="no picture of b, so nothing to project"):
        small(pictures=pictures)


def test_infinite_loss_is_an_error():
    net = backbone()
    with torch.no_grad():
        net[0].weight.fill_(torch.nan)
    with pytest.raises(PrototypeError, match="the loss is nan in a warm epoch"):
        small(net)


def test_pruning_that_leaves_nothing_is_an_error(monkeypatch):
    monkeypatch.setattr(training, "kept_prototypes", lambda *_: np.zeros(0, np.int64))
    with pytest.raises(PrototypeError, match="pruning leaves no prototype"):
        small(prune=True)


@pytest.mark.parametrize("field", ["rounds", "batch_size", "warm_epochs", "backbone_rate"])
def test_schedules_that_make_no_sense(field):
    with pytest.raises(PrototypeError, match=rf"schedule: {field}=-1 must be at least"):
        Schedule(**{field: -1})


def test_torch_is_loaded_only_to_train():
    code = (
        "import sys, exporters.protopnet as p\n"
        "p.LabelledPictures, p.Schedule, p.merge_duplicates\n"
        "assert 'torch' not in sys.modules\n"
        "sys.modules['torch'] = None\n"
        "try: p.train\nexcept ImportError as error: print(type(error).__name__, error)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"DependencyError torch is missing: pip install .*\n", run.stdout)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        protopnet.trian  # noqa: B018


@pytest.mark.slow
def test_digits():
    training_set, held_out = digits()
    torch.manual_seed(0)
    found = protopnet.train(
        protopnet.small_cnn(1, 16),
        training_set,
        per_class=5,
        channels=32,
        augment=shifted,
        schedule=Schedule(
            warm_epochs=0,
            joint_epochs=12,
            last_passes=10,
            batch_size=64,
            backbone_rate=3e-3,
            last_rate=1e-3,
            decay_every=9,
        ),
    )
    right = protopnet.logits(found.model, held_out).argmax(1) == held_out.classes
    assert right.mean() >= 0.93
    owner_of = dict(zip(training_set.ids, training_set.classes, strict=True))
    sources = found.arrays.sources
    assert [owner_of[name] for name in sources.image_ids] == found.arrays.prototype_class.tolist()
    assert (sources.self_similarity.max((1, 2)) >= 9.2).all()


def shifted(picture, rng):
    """By up to two pixels along each axis, around the edges, which are black."""
    return np.roll(picture, rng.integers(-2, 3, 2), (0, 1))
