"""Copies in int8: what they are calibrated on, how they agree, and what can't be copied."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from other_nets import two_heads
from PIL import Image
from quantised_nets import float_net
from tiny_net import LABELS, PREPROCESS, photos, tensors, tiny_net

import exporters
import xai_onnx
from exporters import int8_copy
from xai_onnx.cli import main
from xai_onnx.errors import InputShapeError, ManifestError, MethodError, ModelFileError

PICTURES = tensors(3)
RECIPE = ["--preprocess", PREPROCESS]


def session(path):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(path, options)


@pytest.fixture
def copy(tmp_path):
    """Write a copy; its path, manifest and agreement."""

    def write(net, pictures=PICTURES, **options):
        path = tmp_path / "int8.onnx"
        options = {"float_layers": 0, **options}  # the tests' networks have few
        return path, *exporters.export_int8(net, path, pictures, **options)

    return write


@pytest.mark.parametrize("options", [{}, {"batch": 2}, {"layout": "NHWC"}, {"ending": "Softmax"}])
def test_a_copy_has_the_models_inputs_and_outputs_and_nearly_its_scores(copy, options):
    net = tiny_net(**options)
    x = tensors(4, layout=options.get("layout", "NCHW"))
    path, manifest, agreement = copy(net, x[:3])
    ours = onnxruntime.InferenceSession(net.SerializeToString())
    theirs = session(path)
    for a, b in zip(
        (*ours.get_inputs(), *ours.get_outputs()),
        (*theirs.get_inputs(), *theirs.get_outputs()),
        strict=True,
    ):
        assert (a.name, a.type, a.shape) == (b.name, b.type, b.shape)
    feed = {"image": x[: options.get("batch", 4)]}
    (expected,), (got,) = ours.run(None, feed), theirs.run(None, feed)
    assert 0 < np.abs(got - expected).max() < 0.05 * np.ptp(expected)
    assert agreement.correlation > 0.99
    assert (agreement.pictures, agreement.forwards) == (3, 3 * (1 + int8_copy.VARIANTS))
    assert (manifest.method, manifest.targets, manifest.map) == ("int8", "none", "")


def quantised(path):
    """Of each weight in int8 by which scales it is read."""
    stored = {t.name: t for t in onnx.load(path).graph.initializer}
    int8 = onnx.TensorProto.INT8
    return {
        name.removesuffix("_quantized"): list(stored[name.replace("_quantized", "_scale")].dims)
        for name, tensor in stored.items()
        if tensor.data_type == int8 and name.endswith("_quantized")
    }


def test_weights_are_int8_by_channel_and_only_default_operators(copy):
    path, _, _ = copy(float_net(), float_layers=0)
    assert {node.domain for node in onnx.load(path).graph.node} == {""}
    assert {name: dims for name, dims in quantised(path).items() if len(dims) == 1} == {
        "w1": [8],
        "w2": [8],
        "w3": [8],
        "w4": [12],
        "w5": [5],
    }


@pytest.mark.parametrize(("layers", "kept"), [(0, ""), (1, "1"), (2, "12"), (9, "123")])
def test_the_first_convolutions_stay_in_float(copy, layers, kept):
    path, _, _ = copy(float_net(), float_layers=layers)
    assert {name[1] for name in quantised(path) if name.startswith("w")} == set("12345") - set(kept)


def test_a_final_softmax_stays_in_float(copy):
    """In int8 it would give multiples of 1/256."""
    path, _, _ = copy(float_net())
    (scores,) = session(path).run(None, {"image": tensors(4)})
    steps = scores * 256
    assert np.abs(steps - np.rint(steps)).max() > 0.1
    np.testing.assert_allclose(scores.sum(1), 1, atol=1e-6)


def test_the_agreement_is_that_of_the_two_files(copy):
    """Of two pictures and their variants, drawn as the module draws them."""
    path, _, agreement = copy(tiny_net(), PICTURES[:2])
    generator = np.random.default_rng(0)
    families = [int8_copy._variants(p, "NCHW", generator) for _ in range(2) for p in PICTURES[:2]]
    (ours, theirs) = (
        [
            np.concatenate([run.run(None, {"image": row[None]})[0] for row in f])
            for f in families[2:]
        ]
        for run in (onnxruntime.InferenceSession(tiny_net().SerializeToString()), session(path))
    )
    same = [
        a.argmax() == b.argmax()
        for f, g in zip(ours, theirs, strict=True)
        for a, b in zip(f, g, strict=True)
    ]
    assert agreement.top1 == np.mean(same)
    both = [np.concatenate(side).astype(np.float64) for side in (ours, theirs)]
    flat = [(side - side.mean(1, keepdims=True)).ravel() for side in both]
    assert agreement.correlation == pytest.approx(np.corrcoef(*flat)[0, 1], abs=1e-6)
    explained = [
        np.corrcoef(f[:, f[0].argmax()], g[:, f[0].argmax()])[0, 1]
        for f, g in zip(ours, theirs, strict=True)
    ]
    assert agreement.of_explained == pytest.approx(np.median(explained), abs=1e-5)


def test_variants_show_the_picture_or_the_mean_of_a_cell():
    picture = tensors(1)[0]
    for layout, given in (("NCHW", picture), ("NHWC", np.moveaxis(picture, 0, -1))):
        made = int8_copy._variants(given, layout, np.random.default_rng(2))
        assert made.shape == (1 + int8_copy.VARIANTS, *given.shape)
        np.testing.assert_array_equal(made[0], given)
        planes = made if layout == "NCHW" else np.moveaxis(made, -1, 1)
        changed = (planes != picture).any(1).mean((1, 2))
        assert len(set(changed)) > 2
        first = planes[:, :, :5, :5]  # a cell of the grid over 32 pixels
        mean = picture[:, :5, :5].mean((1, 2))
        for variant in first:
            shown = np.array_equal(variant, picture[:, :5, :5])
            assert shown or np.allclose(variant, mean[:, None, None])


@pytest.mark.filterwarnings("ignore::xai_onnx.errors.LimeWarning")
def test_a_loaded_copy_predicts_and_runs_as_a_draft(copy):
    path, _, _ = copy(tiny_net(), preprocess=PREPROCESS, labels=LABELS)
    (photo,) = photos(1)
    plain = xai_onnx.load(tiny_net().SerializeToString(), preprocess=PREPROCESS)
    copied = xai_onnx.load(path).predict(photo)
    assert copied.label in LABELS
    grid = np.arange(1024).reshape(32, 32) // 128
    found = plain.lime(photo, segments=grid, draft_model=path)
    exact = plain.lime(photo, segments=grid)
    step = 0.02 * np.ptp(copied.scores)  # some steps of int8
    assert 0 < found.draft.largest_deviation < step
    assert 0 < np.abs(found.coefficients - exact.coefficients).max() < step


def test_a_copy_explains_nothing(copy):
    path, _, _ = copy(tiny_net(), preprocess=PREPROCESS)
    with pytest.raises(MethodError, match="has no saliency map inside; it only classifies"):
        xai_onnx.load(path).explain(photos(1)[0])


@pytest.mark.parametrize(
    ("net", "pictures", "error", "says"),
    [
        (
            tiny_net(),
            PICTURES[:, :1],
            InputShapeError,
            r"\[n, 3, 32, 32\], one picture or more, not",
        ),
        (tiny_net(), PICTURES[:0], InputShapeError, "one picture or more"),
        (tiny_net(), PICTURES[0], InputShapeError, "one picture or more"),
        (tiny_net(), PICTURES.astype(np.float64), InputShapeError, "not on float64"),
        (tiny_net(dtype="float16"), PICTURES, InputShapeError, "is FLOAT16; an int8 copy"),
        (two_heads(), PICTURES, InputShapeError, "takes 'meta' besides the picture"),
    ],
)
def test_refusals(tmp_path, net, pictures, error, says):
    score = "main" if len(net.graph.input) > 1 else "logits"
    with pytest.raises(error, match=says):
        exporters.export_int8(net, tmp_path / "x.onnx", pictures, score=score)
    assert not (tmp_path / "x.onnx").exists()


def test_a_negative_number_of_layers(tmp_path):
    with pytest.raises(InputShapeError, match="float_layers=-1: must be 0 or more"):
        exporters.export_int8(tiny_net(), tmp_path / "x.onnx", PICTURES, float_layers=-1)


def test_labels_that_dont_fit(tmp_path):
    with pytest.raises(ManifestError, match="has 2 names"):
        exporters.export_int8(tiny_net(), tmp_path / "x.onnx", PICTURES, labels=["a", "b"])


def test_what_quantisation_refuses_is_one_line(tmp_path, monkeypatch):
    from onnxruntime import quantization

    def broken(*arguments, **options):
        raise ValueError("no\nway")

    monkeypatch.setattr(quantization, "quantize_static", broken)
    with pytest.raises(ModelFileError, match="can't quantise it: no way"):
        exporters.export_int8(tiny_net(), tmp_path / "x.onnx", PICTURES)


class TestCommand:
    @pytest.fixture
    def pictures(self, tmp_path):
        paths = [tmp_path / f"{name}.png" for name in "ab"]
        for path, pixels in zip(paths, photos(2), strict=True):
            Image.fromarray(pixels).save(path)
        return [str(path) for path in paths]

    @pytest.fixture
    def command(self, tmp_path, tiny):
        return ["export", "int8", tiny, "-o", str(tmp_path / "x.onnx")]

    def test_it_says_how_the_copy_agrees(self, command, pictures, capsys):
        command += ["--preprocess", PREPROCESS]
        assert main([*command, "--calibrate", *pictures]) == 0
        out = capsys.readouterr().out
        assert "calibrated on  2 pictures" in out
        assert "of the predicted class's logit" in out
        assert main([*command, "--json", "--calibrate", *pictures]) == 0
        data = json.loads(capsys.readouterr().out)
        assert data["agreement"]["pictures"] == 2
        assert data["agreement"]["correlation"] > 0.9

    def test_without_preprocessing(self, command, pictures, capsys):
        assert main([*command, "--calibrate", *pictures]) == 2
        assert "say with --preprocess how a picture becomes its input" in capsys.readouterr().err

    def test_a_picture_that_isnt_there(self, command, tmp_path, capsys):
        command += ["--preprocess", PREPROCESS]
        assert main([*command, "--calibrate", str(tmp_path / "none.png")]) == 2
        assert "none.png" in capsys.readouterr().err
        assert not (tmp_path / "x.onnx").exists()
