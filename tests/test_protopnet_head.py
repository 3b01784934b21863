"""The head's numbers: against a slow twin in float64, and the paper's formulas in torch."""

import numpy as np
import onnx
import onnxruntime
import pytest
import reference_protopnet as twin
import torch
from small_protopnet import SIZE, backbone, small_arrays
from tiny_net import tensors

import exporters
from exporters.protopnet import head
from exporters.protopnet.arrays import ProtoPNetArrays
from xai_onnx.errors import PrototypeError

# Of float32: the sum of D terms below 1, the quotient, the logarithm; F3 of the specification
# allows it in the similarity.
EXACT = 1e-5


def run(path, pictures, asked=-1, names=None):
    """Outputs by name; `asked` is the class of every picture."""
    session = onnxruntime.InferenceSession(path)
    feed = {"image": pictures}
    if any(value.name == "class_index" for value in session.get_inputs()):
        feed["class_index"] = np.full((len(pictures), 1), asked)
    names = names or [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


def grids(model, pictures):
    """The latent grid as ONNX Runtime computes it."""
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (z,) = session.run(["z"], {session.get_inputs()[0].name: pictures})
    return z


def projected(classes, each, channels, seed=0, patch=(1, 1), **more):
    """Prototypes that are patches of random pictures, as training makes them."""
    base = small_arrays(classes, each, channels, patch, seed, **more)
    count = classes * each
    z = grids(base.backbone, tensors(count, seed=seed + 7))
    rng = np.random.default_rng(seed)
    places = rng.integers(0, 8 - max(patch) + 1, (count, 2))
    vectors = [z[j, :, y : y + patch[0], x : x + patch[1]] for j, (y, x) in enumerate(places)]
    return ProtoPNetArrays(
        prototypes=np.stack(vectors),
        prototype_class=base.prototype_class,
        weights=base.weights,
        backbone=base.backbone,
        similarity=base.similarity,
        epsilon=base.epsilon,
    )


@pytest.fixture
def export(tmp_path):
    def write(arrays, **options):
        path = str(tmp_path / "model.onnx")
        exporters.export_protopnet(arrays, path, **options)
        return path

    return write


@pytest.mark.parametrize("patch", [(1, 1), (2, 2), (1, 3), (8, 8)])
@pytest.mark.parametrize("kind", ["log", "linear"])
def test_against_the_slow_twin(export, patch, kind):
    arrays = small_arrays(patch=patch, similarity=kind, epsilon=1e-3)
    pictures = tensors(2)
    found = run(export(arrays), pictures)
    for index, z in enumerate(grids(arrays.backbone, pictures)):
        logits, similarities, smallest, places = twin.forward(
            z, arrays.prototypes, arrays.weights, kind, 1e-3
        )
        np.testing.assert_allclose(found["min_distances"][index], smallest, rtol=1e-5)
        np.testing.assert_allclose(found["similarities"][index], similarities, rtol=1e-5)
        np.testing.assert_array_equal(found["locations"][index], places)
        np.testing.assert_allclose(found["logits"][index], logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("block", "blocks"), [(1, 12), (200, 2), (10**6, 1)])
def test_blocks_change_nothing(export, monkeypatch, block, blocks):
    arrays, pictures = small_arrays(), tensors(3)
    expected = run(export(arrays), pictures)
    monkeypatch.setattr(head, "BLOCK", block)
    path = export(arrays)
    assert [node.op_type for node in onnx.load(path).graph.node].count("GatherND") == blocks
    for name, value in run(path, pictures).items():
        # Of a single row the sum may be added in another order.
        np.testing.assert_allclose(value, expected[name], rtol=1e-6, atol=1e-6)


def test_exact_minimum_against_float64(export):
    """Where it is hard: prototypes that lie in the pictures, so that distances are nearly 0."""
    arrays = projected(20, 5, 32)
    pictures = np.concatenate([tensors(100, seed=7)[:4], tensors(3, seed=3)])
    found = run(export(arrays), pictures)
    near = 0
    for index, z in enumerate(grids(arrays.backbone, pictures)):
        _, similarities, smallest, places = twin.forward(z, arrays.prototypes, arrays.weights)
        np.testing.assert_allclose(found["similarities"][index], similarities, atol=EXACT)
        maps = twin.distances(z, arrays.prototypes).reshape(len(places), -1)
        at = maps[np.arange(len(places)), found["locations"][index]]
        # Another place only where its distance is the same but for float32's rounding in the
        # search: 16 * 2^-23 of the squared lengths.
        lengths = (z.astype(float) ** 2).sum(0).max() + (arrays.prototypes**2).sum((1, 2, 3))
        assert (at - smallest <= 16 * 2.0**-23 * lengths).all()
        near += int((smallest < 1e-9).sum())
    assert near == 4  # the pictures that a prototype was cut from


def test_distances_against_torch(export):
    """The paper's formula, as the original computes it, in float32 (F2)."""
    arrays = projected(10, 4, 16)
    pictures = tensors(6)
    maps = run(export(arrays, activation_maps=True), pictures)["activation_maps"]
    z = torch.from_numpy(grids(arrays.backbone, pictures))
    p = torch.from_numpy(arrays.prototypes)
    squares = torch.nn.functional.conv2d(z**2, torch.ones_like(p))
    crossed = torch.nn.functional.conv2d(z, p)
    lengths = (p**2).sum((1, 2, 3)).view(-1, 1, 1)
    expected = torch.relu(squares + (lengths - 2 * crossed)).double().numpy()
    # The map is log((d + 1) / (d + epsilon)), so d = (1 - epsilon e^s) / (e^s - 1).
    powers = np.exp(maps.astype(np.float64))
    got = (1 - 1e-4 * powers) / (powers - 1)
    limit = 16 * 2.0**-23 * (squares.double().numpy() + lengths.double().numpy())
    # Besides: inverting the rounded similarity turns its error of 2^-22 s into |dd/ds| of it.
    inverting = 2.0**-22 * np.abs(maps) * (got + 1) * (got + 1e-4)
    assert (np.abs(got - expected) <= limit + inverting).all()


def test_logits_against_torch(export):
    arrays = projected(10, 4, 16)
    pictures = tensors(6)
    found = run(export(arrays), pictures)
    z = torch.from_numpy(grids(arrays.backbone, pictures)).double()
    p = torch.from_numpy(arrays.prototypes).double()
    apart = torch.nn.functional.unfold(z, 1).unsqueeze(1) - p.view(1, *p.shape[:2], 1)
    smallest = (apart**2).sum(2).min(2).values
    similar = torch.log((smallest + 1) / (smallest + 1e-4))
    expected = similar @ torch.from_numpy(arrays.weights).double().T
    np.testing.assert_allclose(found["logits"], expected.numpy(), rtol=1e-5, atol=1e-4)


def test_half_precision_search(export):
    """fp16, centred, with the exact minimum: the same classes, |ds| <= .05 (F4)."""
    arrays = projected(20, 5, 64)
    pictures = tensors(400, seed=5)
    half = run(export(arrays, precision="float16"), pictures)
    names = ["logits", "similarities"]
    exact = run(export(arrays), pictures, names=names)
    agreed = (half["logits"].argmax(1) == exact["logits"].argmax(1)).mean()
    worst = np.abs(half["similarities"] - exact["similarities"]).max()
    print(f"float16: top-1 agreement {agreed:.2%}, |ds| up to {worst:.2g}")
    assert agreed >= 0.995
    assert worst <= 0.05


def test_a_half_precision_backbone(export):
    arrays = small_arrays(backbone=backbone(dtype="float16"))
    pictures = tensors(2, dtype="float16")
    found = run(export(arrays), pictures)
    z = grids(arrays.backbone, pictures)
    _, similarities, _, _ = twin.forward(z[0], arrays.prototypes, arrays.weights)
    assert found["similarities"].dtype == np.float32
    # Alone, the backbone rounds z to float16; before the head ONNX Runtime leaves that out, so z
    # differs by 2^-12, and a similarity by sqrt(D) times that and its slope, below 2.
    np.testing.assert_allclose(found["similarities"][0], similarities, atol=2 * 6**0.5 * 2**-12)


def test_the_evidence_adds_up(export):
    arrays = projected(20, 5, 32)
    found = run(export(arrays), tensors(8))
    evidence = found["similarities"][:, None].astype(np.float64) * arrays.weights
    scale = np.abs(evidence).sum(-1)
    assert (np.abs(evidence.sum(-1) - found["logits"]) <= 1e-4 * scale).all()


@pytest.mark.parametrize("count", [1, 3, 8])
def test_any_batch(export, count):
    arrays = small_arrays()
    pictures = tensors(8)
    path = export(arrays, activation_maps=True)
    together, alone = run(path, pictures), run(path, pictures[:count])
    for name, array in alone.items():
        np.testing.assert_allclose(array, together[name][:count], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("asked", [-1, 0, 3])
def test_the_top_prototypes_of_a_class(export, asked):
    arrays = small_arrays()
    found = run(export(arrays, top_count=5, activation_maps=True), tensors(3), asked)
    for index in range(3):
        target = found["logits"][index].argmax() if asked < 0 else asked
        evidence = found["similarities"][index] * arrays.weights[target]
        order = np.argsort(-evidence, kind="stable")[:5]
        np.testing.assert_array_equal(found["top_indices"][index], order)
        # The maps of all come from the search's distances, which are less exact.
        maps = found["activation_maps"][index][order]
        np.testing.assert_allclose(found["top_maps"][index], maps, atol=1e-4)
        largest = found["top_maps"][index].reshape(5, -1).max(1)
        # The same sum, whose order follows from where the numbers lie in memory.
        np.testing.assert_allclose(largest, found["similarities"][index][order], rtol=2**-20)


def test_the_predicted_class_without_an_input(export):
    arrays, pictures = small_arrays(), tensors(2)
    predicted = run(export(arrays, targets="predicted"), pictures)
    asked = run(export(arrays), pictures)
    for name, array in asked.items():
        np.testing.assert_array_equal(predicted[name], array)


def test_one_prototype_and_one_class(export):
    arrays = small_arrays(1, 1)
    found = run(export(arrays), tensors(2))
    assert {name: array.shape[1:] for name, array in found.items()} == {
        "logits": (1,),
        "similarities": (1,),
        "min_distances": (1,),
        "locations": (1,),
        "top_indices": (1,),
        "top_maps": (1, 8, 8),
    }


def test_the_first_of_several_equal_places(export):
    """A constant picture: inside, all cells are the same."""
    arrays = small_arrays()
    found = run(export(arrays), np.zeros((1, 3, SIZE, SIZE), np.float32))
    z = grids(arrays.backbone, np.zeros((1, 3, SIZE, SIZE), np.float32))[0]
    maps = twin.distances(z, arrays.prototypes).reshape(12, -1)
    for j, place in enumerate(found["locations"][0]):
        same = np.flatnonzero(np.abs(maps[j] - maps[j].min()) <= 1e-6)
        assert place == same[0]


def test_two_equal_prototypes_stand_side_by_side(export):
    base = small_arrays(2, 2)
    vectors = base.prototypes.copy()
    vectors[1] = vectors[0]
    arrays = ProtoPNetArrays(
        prototypes=vectors,
        prototype_class=base.prototype_class,
        weights=np.ones((2, 4), np.float32),
        backbone=base.backbone,
    )
    found = run(export(arrays), tensors(4))
    first, second = found["similarities"][:, :2].T
    np.testing.assert_allclose(first, second, rtol=2**-20)  # float32's sum, in another order
    np.testing.assert_array_equal(*found["locations"][:, :2].T)
    for row in found["top_indices"].tolist():
        assert abs(row.index(0) - row.index(1)) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"top_count": 0}, "top_count must be 1 to 12, the prototypes, not 0"),
        ({"precision": "int8"}, "precision 'int8' is none of float32, float16"),
    ],
)
def test_what_is_refused(export, options, words):
    with pytest.raises(PrototypeError, match=words):
        export(small_arrays(), **options)


def test_prototypes_larger_than_the_grid(export):
    with pytest.raises(PrototypeError, match="9x1 cells don't fit the latent grid of 8x8"):
        export(small_arrays(patch=(9, 1)))
