"""What a file takes besides pictures and targets: defaults, and what callers give."""

import numpy as np
import pytest
from onnx import TensorProto, helper
from other_nets import embedding_net, segmentation_net, two_heads
from tiny_net import SIZE, photos, tensors, tiny_net

import exporters
import xai_onnx
from xai_onnx.errors import InputShapeError
from xai_onnx.extra_inputs import NOISE_LEVEL, SAMPLES, STEPS, ExtraInputs
from xai_onnx.preprocess import prepare


@pytest.fixture
def load(tmp_path):
    """Export, and load: ``load(proto, method="smoothgrad")``; a method of attribution or a CAM."""

    def write(proto, method="saliency", preprocess=None, **options):
        path = tmp_path / "x.onnx"
        cam = method in ("gradcam", "hirescam")
        export = exporters.export_gradcam if cam else exporters.export_attribution
        export(proto, path, method=method, preprocess=preprocess, **options)
        return xai_onnx.load(path)

    return write


def extra(model, given=None, explaining=True, pictures=2):
    known = (model._session, model.manifest, model._input, model.preprocess)
    return ExtraInputs(*known, given, pictures=pictures, explaining=explaining)


def fed(model, given=None, explaining=True, count=2, which=None, dtype="float32"):
    tensor = tensors(count, dtype=dtype)
    return extra(model, given, explaining, count).feed(which or slice(0, count), tensor)


class TestDefaults:
    def test_steps_from_black(self, load):
        feed = fed(load(tiny_net(), "integrated-gradients"))
        assert feed["steps"].tolist() == [STEPS]
        assert feed["steps"].dtype == np.int64
        np.testing.assert_array_equal(feed["baseline"], np.zeros((1, 3, 32, 32), np.float32))

    @pytest.mark.parametrize("preset", ["unit", "torchvision", "caffe", "inception", "lite", "raw"])
    @pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
    def test_black_is_what_a_black_picture_becomes(self, load, preset, layout):
        model = load(tiny_net(layout=layout), "integrated-gradients", preset)
        feed = extra(model).feed(slice(0, 1), tensors(1, layout=layout))
        black = prepare(np.zeros((SIZE, SIZE, 3), np.uint8), model.preprocess).tensor
        assert feed["baseline"].shape == (1, *black.shape)
        np.testing.assert_allclose(feed["baseline"][0], black, rtol=1e-6, atol=1e-6)

    def test_noise_of_a_known_strength(self, load):
        feed = fed(load(tiny_net(), "smoothgrad"))
        assert feed["noise"].shape == (SAMPLES, 3, 32, 32)
        assert feed["noise"].std() == pytest.approx(NOISE_LEVEL, rel=0.02)
        assert abs(feed["noise"].mean()) < 0.01

    def test_noise_is_the_same_each_time(self, load):
        model = load(tiny_net(), "smoothgrad", "unit")
        first, second = (model.explain(photos(1)[0]) for _ in range(2))
        np.testing.assert_array_equal(first.attribution, second.attribution)

    @pytest.mark.parametrize(
        ("method", "role"), [("smoothgrad", "noise"), ("integrated-gradients", "steps")]
    )
    def test_a_prediction_takes_no_step(self, load, method, role):
        feed = fed(load(tiny_net(), method), explaining=False)
        assert (len(feed["noise"]) if role == "noise" else feed["steps"][0]) == 0

    @pytest.mark.parametrize("method", ["smoothgrad", "integrated-gradients"])
    def test_they_have_the_type_of_the_image(self, load, method):
        feed = fed(load(tiny_net(dtype="float16"), method), dtype="float16")
        assert {feed[role].dtype for role in feed if role != "steps"} == {np.dtype(np.float16)}

    def test_names_that_are_taken(self, load):
        """Roles stay the same; the file says which input they are."""
        net = tiny_net()
        for item in net.graph.node:
            for names in (item.input, item.output):
                names[:] = ["steps" if name == "c1" else name for name in names]
        model = load(net, "integrated-gradients")
        assert set(fed(model)) == {"steps_2", "baseline"}
        assert fed(model, {"steps": [7]})["steps_2"].tolist() == [7]

    def test_a_plain_file_takes_nothing(self, model, tiny):
        assert fed(model) == {}
        plain = xai_onnx.load(tiny)
        assert fed(plain) == {}


class TestGiven:
    def test_steps_and_baseline(self, load):
        model = load(tiny_net(), "integrated-gradients")
        given = {"steps": [5], "baseline": np.ones((1, 3, 32, 32))}
        feed = fed(model, given)
        assert feed["steps"].tolist() == [5]
        assert feed["baseline"].dtype == np.float32
        np.testing.assert_array_equal(feed["baseline"], 1)

    def test_they_make_a_difference(self, load):
        model, x = load(tiny_net(), "integrated-gradients"), tensors(1)
        one, other = (
            model.explain(x, 1, preprocessed=True, inputs={"baseline": np.full((1, 3, 32, 32), b)})
            for b in (0.0, 0.5)
        )
        assert not np.allclose(one[0].attribution, other[0].attribution)

    def test_a_vector_for_all_pictures(self, load):
        model = load(embedding_net(), "gradcam", score="embedding", target_layer="features")
        reference = np.arange(7.0)[None]
        for count in (1, 3):
            feed = fed(model, {"reference": reference}, count=count)
            np.testing.assert_array_equal(feed["reference"], reference)

    def test_a_row_for_each_picture_is_cut_and_padded(self, load):
        model = load(two_heads(), "gradcam", score="main")
        rows = np.arange(12.0).reshape(3, 4)
        found = extra(model, {"meta": rows}, pictures=3)
        first = found.feed(slice(0, 2), tensors(2))["meta"]
        last = found.feed(slice(2, 3), tensors(2))["meta"]
        np.testing.assert_array_equal(first, rows[:2])
        np.testing.assert_array_equal(last, rows[[2, 2]])

    def test_over_several_runs(self, load, monkeypatch):
        """Five pictures in runs of two give what one by one gives."""
        model = load(two_heads(), "gradcam", "unit", score="main")
        pictures = photos(5)
        rows = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
        monkeypatch.setattr("xai_onnx.batch.BATCH_SIZE", 2)
        together = model.explain(pictures, 1, inputs={"meta": rows})
        predicted = model.predict(pictures, inputs={"meta": rows})
        for index, picture in enumerate(pictures):
            alone = model.explain(picture, 1, inputs={"meta": rows[index : index + 1]})
            assert together[index].score == pytest.approx(alone.score, rel=1e-5)
            np.testing.assert_allclose(together[index].cam, alone.cam, rtol=1e-4, atol=1e-6)
            one = model.predict(picture, inputs={"meta": rows[index : index + 1]})
            np.testing.assert_allclose(predicted[index].scores, one.scores, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("batch", ["batch", 2])
    def test_a_mask_for_each_picture(self, load, batch):
        """With a fixed batch, the last run is padded, and so are its masks."""
        net = segmentation_net()
        net.graph.input[0].type.tensor_type.shape.dim[0].dim_param = ""
        if batch == 2:
            net.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
        else:
            net.graph.input[0].type.tensor_type.shape.dim[0].dim_param = batch
        model = load(net, "gradcam", "unit", score="region", target_layer="features")
        masks = np.random.default_rng(0).integers(0, 2, (3, 1, 32, 32))
        found = model.explain(photos(3), 1, inputs={"mask": masks})
        everywhere = model.explain(photos(3), 1, inputs={"mask": np.ones_like(masks)})
        for one, other in zip(found, everywhere, strict=True):
            assert one.score != pytest.approx(other.score, rel=1e-3)


REGION = {"score": "region", "target_layer": "features"}


class TestRefusals:
    @pytest.mark.parametrize(
        ("given", "message"),
        [
            (
                None,
                r"needs 'mask', tensor\(float\) of shape \['batch', 1, 32, 32\]; give it as inp",
            ),
            ({}, "needs 'mask'"),
            (
                {"mask": np.ones((2, 1, 32, 32)), "maks": 1},
                "takes no input 'maks' .*; it takes mask",
            ),
            (
                {"mask": np.ones((2, 32, 32))},
                r"'mask' must be .*, not float64 of shape \[2, 32, 32\]",
            ),
            ({"mask": np.ones((2, 1, 16, 32))}, r"not float64 of shape \[2, 1, 16, 32\]"),
            ({"mask": np.ones((2, 1, 32, 32), complex)}, "not complex128"),
            ({"mask": np.full((2, 1, 32, 32), "x")}, "not <U1"),
            ({"mask": 1}, r"not int64 of shape \[\]"),
        ],
        ids=str,
    )
    def test_of_a_mask(self, load, given, message):
        model = load(segmentation_net(), "gradcam", **REGION)
        for call in (model.explain, model.predict):
            with pytest.raises(InputShapeError, match=message):
                call(tensors(2), preprocessed=True, inputs=given)

    @pytest.mark.parametrize("rows", [1, 2, 4])
    def test_rows_that_are_no_row_for_each_picture(self, load, rows):
        model = load(segmentation_net(), "gradcam", **REGION)
        mask = np.ones((rows, 1, 32, 32))
        with pytest.raises(InputShapeError, match=rf"'mask' has {rows} rows? for 3 pictures"):
            model.explain(tensors(3), preprocessed=True, inputs={"mask": mask})

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            (
                {"steps": 3},
                r"'steps' must be tensor\(int64\) of shape \[1\], not int64 of shape \[\]",
            ),
            ({"steps": [1, 2]}, r"not int64 of shape \[2\]"),
            ({"steps": [1.5]}, "not float64"),
            ({"baseline": np.zeros((2, 3, 32, 32))}, r"shape \[1, 3, 32, 32\], not float64"),
            ({"noise": np.zeros((2, 3, 32, 32))}, "no input 'noise' .* takes steps, baseline"),
        ],
        ids=str,
    )
    def test_of_integrated_gradients(self, load, given, message):
        model = load(tiny_net(), "integrated-gradients")
        with pytest.raises(InputShapeError, match=message):
            model.explain(tensors(1), preprocessed=True, inputs=given)

    @pytest.mark.parametrize("loaded", ["tiny", "tiny_explained"])
    def test_of_a_file_that_takes_nothing(self, request, loaded):
        model = xai_onnx.load(request.getfixturevalue(loaded))
        with pytest.raises(InputShapeError, match=r"takes no input 'mask' .*; it takes none"):
            model.predict(tensors(1), preprocessed=True, inputs={"mask": 1})

    def test_of_a_type_that_has_no_array(self, load):
        net = tiny_net()
        net.graph.input.append(helper.make_tensor_value_info("name", TensorProto.STRING, [1]))
        model = load(net, "gradcam")
        with pytest.raises(InputShapeError, match=r"'name' must be tensor\(string\)"):
            model.explain(tensors(1), preprocessed=True, inputs={"name": ["x"]})
