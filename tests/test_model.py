"""`load`, `predict`, `explain`: what goes in, what comes out, and what is refused."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
from PIL import Image
from tiny_net import CLASSES, FEATURES, LABELS, SIZE, photos, saved, tensors, tiny_net

import xai_onnx
from xai_onnx import batch
from xai_onnx.errors import (
    ImageError,
    InputShapeError,
    ManifestError,
    MethodError,
    NonFiniteError,
    PreprocessError,
    ProviderError,
    ScoreError,
    TargetError,
)
from xai_onnx.preprocess import prepare
from xai_onnx.recipe import parse

TOLERANCE = 1e-5


def same(a, b):
    """Whether two explanations are of one class and agree within the tolerance."""
    scale = max(float(np.abs(b.cam).max()), 1e-30)
    return (
        a.target == b.target
        and abs(a.score - b.score) <= TOLERANCE * max(abs(b.score), 1)
        and np.abs(a.cam - b.cam).max() <= TOLERANCE * scale
        and np.abs(a.saliency_map - b.saliency_map).max() <= TOLERANCE
    )


@pytest.fixture(scope="module")
def tensor():
    return tensors(3)


@pytest.fixture
def picture_file(tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(photos(1)[0]).save(path)
    return path


@pytest.fixture(scope="module")
def explained(lite0_explained, photo):
    """The bundled photos, explained in one batch."""
    model = xai_onnx.load(lite0_explained)
    return dict(zip(photo, model.explain(list(photo.values())), strict=True))


class TestDemoPictures:
    def test_coffee_is_an_espresso_and_the_peak_is_in_the_cup(self, explained):
        found = explained["coffee"]
        assert (found.target, found.label) == (967, "espresso")
        assert found.probability > 0.5
        assert found.image.shape == (400, 600, 3)
        x, y = found.peak
        assert 200 < x < 450, "the cup's box"
        assert 60 < y < 310

    def test_the_astronaut_wears_a_football_helmet_and_the_peak_is_on_it(self, explained):
        found = explained["astronaut"]
        assert (found.target, found.label) == (560, "football helmet")
        assert found.image.shape == (512, 512, 3)
        x, y = found.peak
        assert x > 256, "the helmet is at the lower right"
        assert y > 256

    def test_the_maps_point_at_a_part_of_the_picture(self, explained):
        for found in explained.values():
            assert found.saliency_map.shape == (224, 224)
            assert found.saliency_map.min() == 0
            assert found.saliency_map.max() == 1
            assert found.saliency_map.mean() < 0.5


class TestPictures:
    def test_path_text_and_array_are_the_same_picture(self, model, picture_file):
        one = photos(1)[0]
        found = [model.explain(p) for p in (picture_file, str(picture_file), one)]
        assert all(np.array_equal(found[0].cam, other.cam) for other in found)
        assert all(np.array_equal(other.image, one) for other in found)

    def test_a_single_picture_gives_one_and_a_list_gives_a_list(self, model):
        one = photos(1)[0]
        assert isinstance(model.predict(one), xai_onnx.Prediction)
        assert isinstance(model.explain(one), xai_onnx.Explanation)
        assert [p.target for p in model.predict([one])] == [model.predict(one).target]
        assert [e.target for e in model.explain([one])] == [model.predict(one).target]

    def test_a_stack_of_pictures_is_a_list(self, model):
        stack = np.stack(photos(2))
        assert len(model.predict(stack)) == 2

    def test_no_pictures_give_no_results(self, model):
        assert model.predict([]) == []
        assert model.explain([], [1, 2]) == []

    def test_a_ready_tensor(self, model, tensor):
        found = model.explain(tensor, preprocessed=True)
        assert len(found) == 3
        assert all(e.image is None and e.box is None and e.peak is None for e in found)
        with pytest.raises(ImageError, match="ready tensor"):
            found[0].overlay()

    def test_a_picture_equals_its_own_tensor(self, model):
        one = photos(1)[0]
        recipe = parse("unit", "NCHW", SIZE, SIZE)
        ready = prepare(one, recipe).tensor[None]
        assert np.array_equal(
            model.explain(one).cam, model.explain(ready, preprocessed=True)[0].cam
        )

    def test_grey_pictures_are_taken(self, model):
        grey = photos(1)[0][..., 0]
        as_rgb = np.repeat(grey[..., None], 3, axis=2)
        assert np.array_equal(model.predict(grey).scores, model.predict(as_rgb).scores)

    def test_more_pictures_than_a_batch_equal_one_by_one(self, model, monkeypatch):
        many = tensors(7)
        monkeypatch.setattr(batch, "BATCH_SIZE", 3)
        seen = []
        together = model.explain(many, [0, -1], preprocessed=True, progress=seen.append)
        assert seen == [3, 3, 1]
        for index, row in enumerate(together):
            alone = model.explain(many[index : index + 1], [0, -1], preprocessed=True)[0]
            assert all(same(a, b) for a, b in zip(row, alone, strict=True))

    def test_predictions_beyond_a_batch(self, model):
        many = tensors(batch.BATCH_SIZE + 3)
        found = model.predict(many, preprocessed=True)
        assert len(found) == len(many)
        last = model.predict(many[-1:], preprocessed=True)[0]
        np.testing.assert_allclose(found[-1].scores, last.scores, atol=TOLERANCE)


class TestTargets:
    def test_none_and_minus_one_are_the_predicted_class(self, model, tensor):
        predicted = [p.target for p in model.predict(tensor, preprocessed=True)]
        assert predicted != [0, 0, 0]
        for target in (None, -1):
            found = model.explain(tensor, target, preprocessed=True)
            assert [e.target for e in found] == predicted

    def test_index_and_label_are_the_same(self, model, tensor):
        by_index = model.explain(tensor, 2, preprocessed=True)[0]
        by_label = model.explain(tensor, "cat", preprocessed=True)[0]
        assert by_index.label == by_label.label == "cat"
        assert np.array_equal(by_index.cam, by_label.cam)

    def test_several_classes_each_picture(self, model, tensor):
        found = model.explain(tensor, ["dog", 0, -1], preprocessed=True)
        assert [[e.target for e in row][:2] for row in found] == [[3, 0]] * 3
        for k, target in enumerate(["dog", 0, -1]):
            alone = model.explain(tensor, target, preprocessed=True)
            assert all(same(row[k], one) for row, one in zip(found, alone, strict=True))

    def test_a_list_of_one_gives_lists_of_one(self, model):
        assert [e.target for e in model.explain(photos(1)[0], [4])] == [4]

    def test_no_classes_at_all(self, model, tensor):
        assert model.explain(tensor, [], preprocessed=True) == [[], [], []]

    def test_different_classes_for_each_picture(self, model, tensor):
        rows = np.array([[0, 1], [2, -1], [4, 4]])
        found = model.explain(tensor, rows, preprocessed=True)
        for index, row in enumerate(rows):
            alone = model.explain(tensor[index : index + 1], list(row), preprocessed=True)[0]
            assert all(same(a, b) for a, b in zip(found[index], alone, strict=True))
        assert np.array_equal(found[2][0].cam, found[2][1].cam)

    def test_scores_and_probabilities_belong_to_the_class(self, model, tensor):
        prediction = model.predict(tensor, preprocessed=True)[0]
        found = model.explain(tensor, list(range(CLASSES)), preprocessed=True)[0]
        np.testing.assert_allclose([e.score for e in found], prediction.scores, atol=TOLERANCE)
        assert sum(e.probability for e in found) == pytest.approx(1)
        assert [e.label for e in found] == list(LABELS)
        assert [e.method for e in found] == ["gradcam"] * CLASSES
        assert {e.target_layers for e in found} == {("features",)}
        assert found[0].cam.shape == FEATURES[1:]

    @pytest.mark.parametrize(
        ("target", "message"),
        [
            (5, "no class 5; the model has classes 0 to 4, and -1"),
            ("wasp", "no class 'wasp'; give an index"),
            ("caat", "did you mean 'cat'"),
            (2.5, "an index or a label, not 2.5"),
        ],
    )
    def test_unknown_classes(self, model, tensor, target, message):
        with pytest.raises(TargetError, match=message):
            model.explain(tensor, target, preprocessed=True)


class TestPredictedFiles:
    @pytest.mark.parametrize("k", [1, 3])
    def test_the_classes_are_the_highest_scores_in_order(self, export, model, tensor, k):
        path = export(tiny_net(), targets="predicted", top_k=k)
        predicted = xai_onnx.load(path)
        found = predicted.explain(tensor, preprocessed=True)
        scores = [p.scores for p in predicted.predict(tensor, preprocessed=True)]
        for row, values in zip(found, scores, strict=True):
            listed = row if k > 1 else [row]
            best = list(np.argsort(-values)[:k])
            assert [e.target for e in listed] == best
        asked = model.explain(
            tensor, np.array([np.argsort(-s)[:k] for s in scores]), preprocessed=True
        )
        for row, expected in zip(found, asked, strict=True):
            pairs = zip(row if k > 1 else [row], expected, strict=True)
            assert all(same(a, b) for a, b in pairs)

    def test_of_equal_scores_the_lower_class_comes_first(self, export, tensor):
        """Among so many classes that a sort which isn't stable would mix them up."""
        net = tiny_net(gain=0.0, classes=100)
        (bias,) = [i for i in net.graph.initializer if i.name == "b3"]
        values = np.arange(100, dtype=np.float32) % 2
        bias.CopyFrom(onnx.numpy_helper.from_array(values, "b3"))
        predicted = xai_onnx.load(export(net, targets="predicted", top_k=60))
        found = predicted.explain(tensor, preprocessed=True)
        best = [*range(1, 100, 2), *range(0, 20, 2)]
        assert [[e.target for e in row] for row in found] == [best] * 3

    def test_a_class_of_ones_own_choice_is_refused(self, export, tensor):
        predicted = xai_onnx.load(export(tiny_net(), targets="predicted"))
        with pytest.raises(TargetError, match="export it with targets='class_index'"):
            predicted.explain(tensor, 1, preprocessed=True)


class TestForms:
    def test_a_file_without_saliency_map_is_scaled_on_the_host(self, export, model, tensor):
        without = xai_onnx.load(export(tiny_net(), saliency_map=False))
        assert without.manifest.saliency_map is None
        for a, b in zip(
            without.explain(tensor, 1, preprocessed=True),
            model.explain(tensor, 1, preprocessed=True),
            strict=True,
        ):
            assert same(a, b)

    @pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
    def test_so_are_maps_that_are_not_square(self, export, layout):
        image = tensors(2)[..., :24]
        image = image if layout == "NCHW" else image.transpose(0, 2, 3, 1)
        net = tiny_net(size="side", layout=layout)
        axes = {"NCHW": (2, 3), "NHWC": (1, 2)}[layout]
        for axis, size in zip(axes, ("tall", "wide"), strict=True):
            net.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = size
        files = [export(net, f"{wanted}.onnx", saliency_map=wanted) for wanted in (False, True)]
        pairs = [xai_onnx.load(path).explain(image, 1, preprocessed=True) for path in files]
        for a, b in zip(*pairs, strict=True):
            assert a.saliency_map.shape == (32, 24)
            assert same(a, b)

    def test_a_constant_map_is_all_zero_on_the_host_too(self, export, tensor):
        without = xai_onnx.load(export(tiny_net(gain=0.0), saliency_map=False))
        found = without.explain(tensor, preprocessed=True)[0]
        assert found.empty
        assert not found.saliency_map.any()

    @pytest.mark.parametrize("ending", ["Softmax", "LogSoftmax", "Sigmoid"])
    def test_endings(self, export, model, tensor, ending):
        """Scores are the file's own, probabilities what they mean, maps those of the logits."""
        ended = xai_onnx.load(export(tiny_net(ending)))
        logits = model.predict(tensor, preprocessed=True)[0].scores.astype(np.float64)
        found = ended.explain(tensor, 1, preprocessed=True)[0]
        softmax = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        expected = 1 / (1 + np.exp(-logits[1])) if ending == "Sigmoid" else softmax[1]
        assert found.probability == pytest.approx(expected, rel=1e-5)
        assert found.score == pytest.approx(
            np.log(expected) if ending == "LogSoftmax" else expected, rel=1e-5
        )
        assert same_map(found, model.explain(tensor, 1, preprocessed=True)[0])

    def test_one_logit_has_no_probability(self, export, tensor):
        one = xai_onnx.load(export(tiny_net(classes=1)))
        found = one.explain(tensor, preprocessed=True)
        assert [e.target for e in found] == [0, 0, 0]
        assert {e.probability for e in found} == {None}

    def test_one_sigmoid_has_one(self, export, tensor):
        one = xai_onnx.load(export(tiny_net("Sigmoid", classes=1)))
        found = one.explain(tensor, preprocessed=True)[0]
        assert found.probability == found.score
        assert 0 < found.probability < 1

    def test_nhwc(self, export, model, tensor):
        last = xai_onnx.load(export(tiny_net(layout="NHWC"), preprocess="unit"))
        assert last.preprocess.layout == "NHWC"
        one = photos(1)[0]
        assert same(last.explain(one, 2), model.explain(one, 2))
        ready = last.explain(tensor.transpose(0, 2, 3, 1), 2, preprocessed=True)[0]
        assert same(ready, model.explain(tensor, 2, preprocessed=True)[0])

    def test_float16(self, export, model):
        """Maps in float32 of a model in float16, as near as its eleven bits let them be."""
        half = xai_onnx.load(export(tiny_net(dtype="float16"), preprocess="unit"))
        one = photos(1)[0]
        found, exact = half.explain(one, 2), model.explain(one, 2)
        assert found.cam.dtype == found.saliency_map.dtype == np.float32
        np.testing.assert_allclose(found.cam, exact.cam, atol=0.02 * exact.cam.max())

    def test_uint8(self, export):
        whole = xai_onnx.load(export(tiny_net(dtype="uint8"), preprocess="raw"))
        floating = xai_onnx.load(export(tiny_net(), "float.onnx", preprocess="raw"))
        one = photos(1)[0]
        assert same(whole.explain(one, 2), floating.explain(one, 2))

    @pytest.mark.parametrize("count", [1, 4, 5])
    def test_a_fixed_batch_is_padded(self, export, model, count):
        fixed = xai_onnx.load(export(tiny_net(batch=4), preprocess="unit"))
        many = tensors(count)
        rows = np.arange(count)[:, None] % CLASSES
        found = fixed.explain(many, rows, preprocessed=True)
        expected = model.explain(many, rows, preprocessed=True)
        assert len(found) == count
        assert all(same(a[0], b[0]) for a, b in zip(found, expected, strict=True))
        assert len(fixed.predict(many, preprocessed=True)) == count

    def test_free_height_and_width(self, export, tensor):
        free = xai_onnx.load(export(tiny_net(size="side")))
        assert free.explain(tensor, preprocessed=True)[0].saliency_map.shape == (SIZE, SIZE)
        larger = free.explain(tensors(1, size=48), preprocessed=True)[0]
        assert larger.saliency_map.shape == (48, 48)
        assert larger.cam.shape == (12, 12)


def same_map(a, b):
    scale = max(float(np.abs(b.cam).max()), 1e-30)
    return np.abs(a.cam - b.cam).max() <= TOLERANCE * scale


def test_many_threads_get_the_same_results(model):
    one = photos(4)
    expected = [model.explain(p, [0, 3]) for p in one]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: model.explain(one[i % 4], [0, 3]), range(64)))
    for index, row in enumerate(found):
        for a, b in zip(row, expected[index % 4], strict=True):
            assert np.array_equal(a.cam, b.cam)
            assert np.array_equal(a.saliency_map, b.saliency_map)


class TestLoading:
    def test_bytes_and_path(self, tiny_explained, tensor):
        with open(tiny_explained, "rb") as file:
            from_bytes = xai_onnx.load(file.read())
        assert from_bytes.manifest == xai_onnx.load(tiny_explained).manifest
        assert from_bytes.providers == ["CPUExecutionProvider"]

    def test_preprocessing_at_load_takes_the_place_of_the_files(self, tiny_explained):
        recipe = parse("torchvision", "NCHW", SIZE, SIZE)
        by_text = xai_onnx.load(tiny_explained, preprocess="torchvision")
        by_recipe = xai_onnx.load(tiny_explained, preprocess=recipe)
        assert by_text.preprocess == by_recipe.preprocess == recipe
        assert xai_onnx.load(tiny_explained).preprocess == parse("unit", "NCHW", SIZE, SIZE)

    def test_a_plain_classifier_predicts_and_says_how_it_could_explain(self, tiny, model):
        plain = xai_onnx.load(tiny, preprocess="unit")
        one = photos(1)[0]
        found = plain.predict(one)
        assert plain.manifest is None
        assert (found.label, found.probability) == (None, None)
        np.testing.assert_array_equal(found.scores, model.predict(one).scores)
        with pytest.raises(MethodError, match=r"plain classifier .* export gradcam MODEL -o OUT"):
            plain.explain(one)

    def test_unknown_preprocessing(self, tiny):
        plain = xai_onnx.load(tiny)
        with pytest.raises(PreprocessError, match=r"presets: torchvision.*preprocessed=True"):
            plain.predict(photos(1)[0])

    @pytest.mark.parametrize(
        ("recipe", "message"),
        [
            (parse("unit", "NCHW", 40, 40), "40x40 contradicts the model's input, NCHW 32x32"),
            (parse("unit", "NHWC", SIZE, SIZE), "NHWC 32x32 contradicts"),
            ("unit,color=GRAY,mean=0,std=1", "GRAY makes 1 channels, the model takes 3"),
            ("sepia", "unknown preset 'sepia'"),
        ],
    )
    def test_preprocessing_that_does_not_fit(self, tiny, recipe, message):
        with pytest.raises(PreprocessError, match=message):
            xai_onnx.load(tiny, preprocess=recipe)

    def test_grey_and_integer_models_say_what_they_need(self, tmp_path):
        grey = saved(tiny_net(channels=1), tmp_path / "grey.onnx")
        with pytest.raises(PreprocessError, match="say color=GRAY"):
            xai_onnx.load(grey, preprocess="unit")
        whole = saved(tiny_net(dtype="uint8"), tmp_path / "whole.onnx")
        with pytest.raises(PreprocessError, match=r"integers.* preset raw"):
            xai_onnx.load(whole, preprocess="torchvision")

    def test_another_method(self, model):
        with pytest.raises(MethodError, match="'gradcam', not 'lime'; export it again"):
            model.explain(photos(1)[0], method="lime")
        assert model.explain(photos(1)[0], method="gradcam").method == "gradcam"

    def test_an_unknown_provider(self, tiny):
        with pytest.raises(ProviderError, match="no execution provider 'abacus'; one of cpu"):
            xai_onnx.load(tiny, providers=["abacus"])

    def test_several_inputs(self, tmp_path):
        net = tiny_net()
        net.graph.input.append(onnx.helper.make_tensor_value_info("more", 1, [1]))
        with pytest.raises(InputShapeError, match=r"2 inputs \(image, more\)"):
            xai_onnx.load(saved(net, tmp_path / "two.onnx"))

    def test_several_scores(self, tmp_path):
        more = onnx.helper.make_tensor_value_info("flat", 1, ["batch", 16])
        path = saved(tiny_net(extra_outputs=[more]), tmp_path / "two.onnx")
        with pytest.raises(ScoreError, match=r"2 of its outputs \(logits, flat\)"):
            xai_onnx.load(path)

    def test_a_manifest_of_another_file(self, tmp_path, tiny_explained):
        net = onnx.load(tiny_explained)
        net.graph.output.pop()
        path = saved(net, tmp_path / "less.onnx")
        with pytest.raises(ManifestError, match=r"output 'saliency_map'.*export the model again"):
            xai_onnx.load(path)


class TestTensors:
    @pytest.mark.parametrize(
        "shape", [(3, SIZE, SIZE), (1, SIZE, SIZE, 3), (1, 3, SIZE, SIZE + 1), (1, 1, SIZE, SIZE)]
    )
    def test_wrong_shapes(self, model, shape):
        with pytest.raises(InputShapeError, match=r"\[any, 3, 32, 32\], not"):
            model.explain(np.zeros(shape, np.float32), preprocessed=True)

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_not_finite(self, model, tensor, value):
        spoilt = tensor.copy()
        spoilt[1, 2, 3, 4] = value
        with pytest.raises(NonFiniteError, match="input tensor holds NaN or infinity"):
            model.predict(spoilt, preprocessed=True)

    def test_floats_for_an_integer_model(self, tmp_path, tensor):
        whole = xai_onnx.load(saved(tiny_net(dtype="uint8"), tmp_path / "whole.onnx"))
        with pytest.raises(InputShapeError, match="takes a tensor of uint8, not of float32"):
            whole.predict(tensor, preprocessed=True)

    def test_wider_floats_are_taken(self, model, tensor):
        found = model.predict(tensor.astype(np.float64), preprocessed=True)
        np.testing.assert_array_equal(
            found[0].scores, model.predict(tensor, preprocessed=True)[0].scores
        )

    def test_scores_that_are_not_finite(self, tmp_path, tensor):
        path = saved(tiny_net(gain=np.nan), tmp_path / "nan.onnx")
        with pytest.raises(NonFiniteError, match=r"scores hold NaN.*check the input's range"):
            xai_onnx.load(path).predict(tensor, preprocessed=True)
