"""One run of the session, made into explanations: every kind of file."""

import numpy as np
import onnxruntime
import pytest
from onnx import helper
from other_nets import embedding_net, segmentation_net
from reference import min_max
from reference import saliency_map as slow_map
from tiny_net import photos, tensors, tiny_net

import exporters
import xai_onnx
from xai_onnx.errors import TargetError

ATTRIBUTIONS = pytest.mark.parametrize(
    "method", ["saliency", "input-x-gradient", "smoothgrad", "integrated-gradients"]
)


@pytest.fixture
def load(tmp_path):
    def write(proto, method="gradcam", name="x.onnx", **options):
        path = tmp_path / name
        cam = "target_layer" in options or "cam" in method
        export = exporters.export_gradcam if cam else exporters.export_attribution
        export(proto, path, method=method, **options)
        return xai_onnx.load(path)

    return write


class TestAttributions:
    @ATTRIBUTIONS
    @pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
    def test_what_an_explanation_holds(self, load, method, layout):
        model, x = load(tiny_net(layout=layout), method), tensors(2, layout=layout)
        found = model.explain(x, [1, 2], preprocessed=True)
        for row in found:
            assert [item.target for item in row] == [1, 2]
            for item in row:
                assert (item.method, item.target_layers, item.cam) == (method, (), None)
                assert item.attribution.shape == (3, 32, 32), "channels first, whatever the layout"
                assert not item.empty
                expected = min_max(np.abs(item.attribution.astype(np.float64)).sum(0))
                np.testing.assert_allclose(item.saliency_map, expected, atol=1e-6)

    @pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
    def test_without_saliency_map_it_is_made_on_the_host(self, load, layout):
        x = tensors(2, layout=layout)
        whole, bare = (
            load(tiny_net(layout=layout), "saliency", f"{wanted}.onnx", saliency_map=wanted)
            for wanted in (True, False)
        )
        for a, b in zip(
            whole.explain(x, 1, preprocessed=True),
            bare.explain(x, 1, preprocessed=True),
            strict=True,
        ):
            np.testing.assert_array_equal(a.attribution, b.attribution)
            np.testing.assert_allclose(a.saliency_map, b.saliency_map, atol=1e-6)

    def test_one_that_is_the_same_everywhere_is_empty(self, load):
        """A score that is linear in the mean of the image: another number in each channel."""
        net = tiny_net()
        nodes = [
            helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["flat"]),
            helper.make_node("Gemm", ["flat", "w", "b3"], ["logits"]),
        ]
        del net.graph.node[:]
        net.graph.node.extend(nodes)
        w = np.arange(1.0, 16).reshape(3, 5)
        net.graph.initializer.append(helper.make_tensor("w", 1, (3, 5), w.ravel()))
        model = load(net, "saliency", preprocess="unit")
        item = model.explain(photos(1)[0], 1)
        np.testing.assert_allclose(item.attribution, np.tile(w[:, 1, None, None] / 1024, (32, 32)))
        assert item.empty
        assert item.peak is None
        assert item.drawn()[1].max() == 0

    def test_a_prediction_takes_no_step(self, load, monkeypatch):
        model = load(tiny_net(), "smoothgrad", preprocess="unit")
        plain = onnxruntime.InferenceSession(tiny_net().SerializeToString())
        x = tensors(2)
        found = model.predict(x, preprocessed=True)
        expected = plain.run(None, {"image": x})[0]
        np.testing.assert_array_equal([item.scores for item in found], expected)


class TestCotangents:
    WEIGHTS = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)

    def test_one_row_is_a_class(self, load, model):
        """A one-hot row explains that class, as a file that takes classes does."""
        x = tensors(2)
        found = load(tiny_net(), targets="cotangent").explain(x, np.eye(5), preprocessed=True)
        expected = model.explain(x, list(range(5)), preprocessed=True)
        for row, classes in zip(found, expected, strict=True):
            for k, (a, b) in enumerate(zip(row, classes, strict=True)):
                assert (a.target, a.label, a.probability) == (k, "cotangent", None)
                assert a.score == pytest.approx(b.score, rel=1e-5)
                np.testing.assert_allclose(a.cam, b.cam, rtol=1e-4, atol=1e-6)

    def test_a_sum_of_classes(self, load):
        """Gradients are linear in the weights; without the ReLU maps would be, too."""
        model, x = load(tiny_net(), "input-x-gradient", targets="cotangent"), tensors(2)
        rows = model.explain(x, self.WEIGHTS, preprocessed=True)
        every = model.explain(x, np.eye(5), preprocessed=True)
        for row, basis in zip(rows, every, strict=True):
            for weights, item in zip(self.WEIGHTS, row, strict=True):
                expected = sum(w * b.attribution for w, b in zip(weights, basis, strict=True))
                np.testing.assert_allclose(item.attribution, expected, rtol=1e-3, atol=1e-6)
                assert item.score == pytest.approx(
                    sum(w * b.score for w, b in zip(weights, basis, strict=True)), rel=1e-4
                )

    def test_other_weights_for_each_picture(self, load):
        model, x = load(tiny_net(), targets="cotangent"), tensors(2)
        weights = np.random.default_rng(1).standard_normal((2, 3, 5))
        together = model.explain(x, weights, preprocessed=True)
        for index in range(2):
            alone = model.explain(x[index : index + 1], weights[index], preprocessed=True)[0]
            for a, b in zip(together[index], alone, strict=True):
                np.testing.assert_allclose(a.cam, b.cam, rtol=1e-4, atol=1e-6)

    def test_none_at_all(self, load):
        model = load(tiny_net(), targets="cotangent")
        assert model.explain(tensors(2), np.zeros((0, 5)), preprocessed=True) == [[], []]

    def test_a_picture_of_one(self, load):
        model = load(tiny_net(), targets="cotangent", preprocess="unit")
        (item,) = model.explain(photos(1)[0], self.WEIGHTS[:1])
        assert item.title == "cotangent (0)"
        assert item.overlay().shape == photos(1)[0].shape

    def test_predictions_are_as_ever(self, load, model):
        x = tensors(2)
        found = load(tiny_net(), targets="cotangent").predict(x, preprocessed=True)
        for a, b in zip(found, model.predict(x, preprocessed=True), strict=True):
            np.testing.assert_allclose(a.scores, b.scores, rtol=1e-6)

    @pytest.mark.parametrize("target", [None, 1, "cat", [1, 2], np.eye(4), np.zeros((3, 1, 5))])
    def test_refusals(self, load, target):
        model = load(tiny_net(), targets="cotangent")
        with pytest.raises((TargetError, ValueError)) as raised:
            model.explain(tensors(2), target, preprocessed=True)
        assert isinstance(raised.value, TargetError), raised.value
        assert "\n" not in str(raised.value)

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_not_finite(self, load, value):
        model = load(tiny_net(), targets="cotangent")
        with pytest.raises(TargetError, match="the cotangents hold NaN or infinity"):
            model.explain(tensors(1), np.full((1, 5), value), preprocessed=True)

    def test_float16(self, load):
        model = load(tiny_net(dtype="float16"), targets="cotangent")
        (item,) = model.explain(tensors(1, dtype="float16"), self.WEIGHTS[:1], preprocessed=True)[0]
        assert item.cam.dtype == np.float32


class TestSeveralLayers:
    LAYERS = ("early", "features")

    def test_the_map_is_the_mean_of_theirs(self, load):
        model, x = load(tiny_net(), target_layer=self.LAYERS), tensors(2)
        alone = [load(tiny_net(), name=f"{n}.onnx", target_layer=n) for n in self.LAYERS]
        found = model.explain(x, [1, 3], preprocessed=True)
        maps = [one.explain(x, [1, 3], preprocessed=True) for one in alone]
        for b, row in enumerate(found):
            for k, item in enumerate(row):
                assert item.target_layers == self.LAYERS
                large = [slow_map(one[b][k].cam, 32, 32) for one in maps]
                np.testing.assert_allclose(item.cam, np.mean(large, axis=0), atol=1e-5)
                np.testing.assert_allclose(
                    item.saliency_map, min_max(np.mean(large, axis=0)), atol=1e-5
                )

    def test_every_layers_activations_are_in_the_file(self, load, tmp_path):
        load(tiny_net(), target_layer=self.LAYERS)
        session = onnxruntime.InferenceSession(tmp_path / "x.onnx")
        shapes = {value.name: value.shape for value in session.get_outputs()}
        assert shapes == {
            "logits": ["batch", 5],
            "activations": ["batch", 8, 16, 16],
            "activations_2": ["batch", 16, 8, 8],
            "cam": ["batch", "K", 32, 32],
            "saliency_map": ["batch", "K", 32, 32],
        }

    def test_a_picture(self, load, tmp_path):
        model = load(tiny_net(), target_layer=self.LAYERS, preprocess="unit")
        item = model.explain(photos(1)[0])
        item.save(tmp_path / "x.png")
        assert item.to_dict()["target_layers"] == list(self.LAYERS)
        assert item.peak is not None

    def test_without_saliency_map_and_of_free_size(self, load):
        x = tensors(1)
        options = {"target_layer": self.LAYERS}
        fixed = load(tiny_net(), **options).explain(x, 1, preprocessed=True)[0]
        free = load(tiny_net(size="s"), name="f.onnx", saliency_map=False, **options)
        item = free.explain(x, 1, preprocessed=True)[0]
        np.testing.assert_allclose(item.cam, fixed.cam, atol=1e-5)
        np.testing.assert_allclose(item.saliency_map, fixed.saliency_map, atol=1e-5)


class TestScores:
    def test_a_segmentation(self, load):
        model = load(segmentation_net(), score="segmentation", target_layer="features")
        found = model.explain(tensors(2), preprocessed=True)
        scores = [p.scores for p in model.predict(tensors(2), preprocessed=True)]
        for item, row in zip(found, scores, strict=True):
            assert item.target == row.argmax()
            assert item.score == pytest.approx(row.max(), rel=1e-6)
            assert item.probability is None
            assert item.cam.shape == (16, 16)

    def test_a_similarity(self, load):
        model = load(embedding_net(), score="embedding", target_layer="features")
        item = model.explain(
            tensors(1), 0, preprocessed=True, inputs={"reference": np.ones((1, 7))}
        )[0]
        assert -1 <= item.score <= 1
        assert item.probability is None
