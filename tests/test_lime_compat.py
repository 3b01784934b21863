"""The drop-in against lime 0.2.0.1 itself: the same pictures, superpixels, numbers and errors."""

import inspect
import itertools
import sys

import lime.lime_image
import lime.wrappers.scikit_image
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from skimage import data, segmentation
from sklearn.linear_model import Lasso, LinearRegression

from xai_onnx.errors import (
    DependencyError,
    InputShapeError,
    NonFiniteError,
    SamplingError,
    TargetError,
    XaiOnnxError,
)
from xai_onnx.lime import compat
from xai_onnx.lime.compat.neighborhood import distances

EXACT = 1e-12  # of numbers of order 1, from sums in another order

PHOTO = np.asarray(Image.fromarray(data.coffee()).resize((60, 48)))
PHOTOS = {
    "uint8": PHOTO,
    "float32": (PHOTO / 255).astype(np.float32),
    "float64": PHOTO / 255,
    "0..255": PHOTO.astype(float),
    "-1..1": PHOTO / 127.5 - 1,
    "grey": PHOTO[..., 1],
    "float grey": PHOTO[..., 1] / 255,
}


class Classifier:
    """Logistic on the quarters' colours, float32 as a network's; it remembers what it was shown."""

    def __init__(self, classes=8):
        self.weights = np.random.default_rng(0).standard_normal((classes, 64))
        self.seen = []

    def __call__(self, images):
        self.seen.append(images.copy())
        n, h, w, c = images.shape
        blocks = images[:, : h // 4 * 4, : w // 4 * 4].astype(float)
        blocks = blocks.reshape(n, 4, h // 4, 4, w // 4, c).mean((2, 4)).reshape(n, -1)
        logits = blocks @ self.weights[:, : blocks.shape[1]].T / np.abs(blocks).max() / 2
        odds = np.exp(logits)
        return (odds / odds.sum(1, keepdims=True)).astype(np.float32)


def both(image=PHOTO, create=None, calls=1, **options):
    """lime's explanation and ours, of the same calls on equal explainers, with what each showed."""
    results = []
    for explainers in (lime.lime_image, compat):
        classifier = Classifier()
        explainer = explainers.LimeImageExplainer(**{"random_state": 7, **(create or {})})
        for _ in range(calls):
            explanation = explainer.explain_instance(
                image, classifier, **{"num_samples": 103, **options}
            )
        results.append((explanation, classifier.seen))
    return results


def assert_equal(results, tolerance=EXACT):
    (theirs, shown), (ours, ours_shown) = results
    assert len(shown) == len(ours_shown)
    for a, b in zip(shown, ours_shown, strict=True):
        assert a.dtype == b.dtype
        assert a.tobytes() == b.tobytes()
    assert np.array_equal(theirs.segments, ours.segments)
    assert theirs.segments.dtype == ours.segments.dtype
    assert list(theirs.local_exp) == list(ours.local_exp) == list(ours.intercept)
    assert getattr(theirs, "top_labels", None) == ours.top_labels
    for label in theirs.local_exp:
        features, coefficients = zip(*theirs.local_exp[label], strict=True)
        ours_features, ours_coefficients = zip(*ours.local_exp[label], strict=True)
        assert features == ours_features
        assert np.abs(np.subtract(coefficients, ours_coefficients)).max() <= tolerance
        assert abs(theirs.intercept[label] - ours.intercept[label]) <= tolerance
    assert abs(theirs.score - ours.score) <= tolerance
    assert theirs.local_pred.shape == ours.local_pred.shape
    assert np.abs(theirs.local_pred - ours.local_pred).max() <= tolerance


@pytest.mark.parametrize("photo", PHOTOS)
def test_every_type_of_picture(photo):
    assert_equal(both(PHOTOS[photo]))


@pytest.mark.parametrize(
    "options",
    [
        {"hide_color": 0},
        {"hide_color": (10, 20, 300.7)},
        {"top_labels": 2},
        {"top_labels": 100},
        {"top_labels": None, "labels": (3, 0, 3)},
        {"top_labels": 0, "labels": [1, -1]},
        {"batch_size": 1},
        {"batch_size": 17},
        {"batch_size": 1000},
        {"num_samples": 2},
        {"num_samples": 10},
        {"random_seed": 3},
    ],
    ids=str,
)
def test_options(options):
    image = PHOTO.astype(np.float32) if isinstance(options.get("hide_color"), tuple) else PHOTO
    assert_equal(both(image, **options))


@pytest.mark.filterwarnings("ignore:R.2 score is not well-defined")
def test_of_one_sample_nothing_can_be_said():
    (theirs, _), (ours, _) = both(num_samples=1)
    assert ours.local_exp == theirs.local_exp
    assert ours.intercept == theirs.intercept
    assert np.isnan([theirs.score, ours.score]).all()


def test_labels_from_an_iterator():
    explainer = compat.LimeImageExplainer(random_state=7)
    explanation = explainer.explain_instance(
        PHOTO, Classifier(), labels=iter([2, 4]), top_labels=None, num_samples=20
    )
    assert list(explanation.local_exp) == [2, 4]


@pytest.mark.parametrize(
    "metric",
    ["euclidean", "l2", "manhattan", "l1", "chebyshev", "hamming", "jaccard", "dice", "yule"],
)
@pytest.mark.filterwarnings("ignore:Data was converted to boolean")
def test_distances(metric):
    assert_equal(both(distance_metric=metric, create={"kernel_width": 3.0}))


def test_a_metric_of_the_callers():
    def differing(a, b):
        return (a != b).mean()

    assert_equal(both(distance_metric=differing))


def test_the_cosine_distance_is_scikit_learns_to_rounding():
    from sklearn.metrics import pairwise_distances

    masks = np.random.default_rng(0).integers(0, 2, (200, 37)).astype(np.uint8)
    masks[0], masks[1] = 1, 0
    wanted = pairwise_distances(masks.astype(int), masks[:1].astype(int), "cosine").ravel()
    assert np.abs(distances(masks, "cosine") - wanted).max() <= 4e-16
    assert distances(masks, "cosine")[1] == 1


def test_a_kernel_of_the_callers():
    def kernel(d, kernel_width):
        return np.where(d < kernel_width, 1.0, 0.5)

    assert_equal(both(create={"kernel": kernel, "kernel_width": 0.3}))


FLOAT = PHOTOS["0..255"]  # of which quickshift makes more superpixels


@pytest.mark.parametrize(
    ("selection", "count"),
    [
        *(("none", count) for count in (1, 1000)),
        *(("forward_selection", count) for count in (1, 9)),  # more take lime too long
        *(("highest_weights", count) for count in (1, 5, 1000)),
        *(("auto", count) for count in (1, 6, 7, 1000)),
    ],
)
def test_selections(selection, count):
    options = {"num_features": count, "top_labels": 1, "num_samples": 200}
    assert_equal(both(FLOAT, create={"feature_selection": selection}, **options))


@pytest.mark.parametrize("count", [1, 5, 1000])
def test_the_lasso_path(count):
    options = {"num_features": count, "top_labels": 2, "num_samples": 200}
    assert_equal(both(FLOAT, create={"feature_selection": "lasso_path"}, **options))


def test_the_lasso_path_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    explainer = compat.LimeImageExplainer(feature_selection="lasso_path", random_state=0)
    with pytest.raises(DependencyError, match=r"pip install xai-onnx\[lime\]"):
        explainer.explain_instance(PHOTO, Classifier(), num_samples=20)


@pytest.mark.parametrize("regressor", [LinearRegression(), Lasso(alpha=1e-5)])
def test_a_regressor_of_the_callers(regressor):
    # what it does with columns that depend on each other is its own affair, so few of them
    assert_equal(both(model_regressor=regressor, num_features=5, top_labels=2), 1e-10)


def test_the_state_advances_from_call_to_call_and_a_seed_repeats():
    assert_equal(both(calls=3))
    (_, first), (_, second) = both(calls=1)[1], both(calls=2)[1]
    assert first[0].tobytes() == second[0].tobytes()
    assert first[1].tobytes() != second[len(first) + 1].tobytes()


@pytest.mark.parametrize("state", [None, np.random, "state"])
def test_random_states(state):
    results = []
    for explainers in (lime.lime_image, compat):
        np.random.seed(5)
        given = np.random.RandomState(9) if state == "state" else state
        classifier = Classifier()
        explainer = explainers.LimeImageExplainer(random_state=given)
        results.append(
            (explainer.explain_instance(PHOTO, classifier, num_samples=30), classifier.seen)
        )
    assert_equal(results)


def slic(**options):
    return lambda image: segmentation.slic(image, n_segments=20, **options)


@pytest.mark.parametrize(
    "segment",
    [
        slic(start_label=0),
        slic(start_label=1),  # label 0 is a phantom, and the last superpixel is never off
        lambda image: slic(start_label=1)(image) * 3,
        lambda image: slic(start_label=0)(image).astype(float) / 2,
        lambda image: slic(start_label=0)(image) - 4,
        lambda image: np.zeros(image.shape[:2], int),
        lambda image: (slic()(image) % 2).astype(bool),
        lambda image: slic(start_label=0)(image).astype(np.uint8),
        lambda image: segmentation.felzenszwalb(image, scale=300, min_size=50),
    ],
    ids=["0..d-1", "1..d", "gaps", "halves", "negative", "one", "bool", "uint8", "felzenszwalb"],
)
@pytest.mark.parametrize("photo", ["uint8", "float32"])
def test_segmentations_of_the_callers(segment, photo):
    assert_equal(both(PHOTOS[photo], segmentation_fn=segment))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("quickshift", {"kernel_size": 1, "max_dist": 200, "ratio": 0.2, "random_seed": 3}),
        ("felzenszwalb", {"scale": 100, "sigma": 0.5, "min_size": 50, "nonsense": 1}),
        ("slic", {"n_segments": 30, "compactness": 10, "sigma": 1}),
    ],
)
def test_segmentation_algorithms(name, parameters):
    theirs = lime.wrappers.scikit_image.SegmentationAlgorithm(name, **parameters)
    ours = compat.SegmentationAlgorithm(name, **parameters)
    assert np.array_equal(theirs(PHOTO), ours(PHOTO))
    assert theirs.target_params == ours.target_params
    assert_equal(both(segmentation_fn=ours))


FLAGS = [
    dict(zip(("positive_only", "negative_only", "hide_rest"), flags, strict=True))
    for flags in itertools.product([True, False], repeat=3)
    if flags[:2] != (True, True)
]


@pytest.fixture(scope="module")
def explained():
    return [explanation for explanation, _ in both(FLOAT)], [e for e, _ in both()]


@pytest.mark.parametrize("flags", FLAGS, ids=lambda flags: " ".join(k for k in flags if flags[k]))
@pytest.mark.parametrize("count", [0, 1, 3, 1000])
@pytest.mark.parametrize("least", [0.0, 0.003, 1.0])
def test_pictures_and_masks(explained, flags, count, least):
    for theirs, ours in explained:
        for label in theirs.top_labels:
            wanted = theirs.get_image_and_mask(label, num_features=count, min_weight=least, **flags)
            found = ours.get_image_and_mask(label, num_features=count, min_weight=least, **flags)
            for a, b in zip(wanted, found, strict=True):
                assert a.dtype == b.dtype
                assert np.array_equal(a, b)


def test_errors_of_the_picture_and_mask(explained):
    for explanation in explained[0]:
        label = explanation.top_labels[0]
        with pytest.raises(ValueError, match="cannot be true at the same time"):
            explanation.get_image_and_mask(label, negative_only=True)
        with pytest.raises(KeyError, match="Label not in explanation"):
            explanation.get_image_and_mask(77)


def test_a_mask_of_unsigned_segments_can_be_negative():
    segments = slic(start_label=0)
    _, (ours, _) = both(segmentation_fn=lambda image: segments(image).astype(np.uint8))
    _, mask = ours.get_image_and_mask(ours.top_labels[0], positive_only=False, num_features=1000)
    assert mask.min() == -1


@pytest.mark.parametrize("explainers", [lime.lime_image, compat])
def test_the_notebooks_steps(explainers):
    """The tutorial of lime, with nothing but the import changed."""
    explainer = explainers.LimeImageExplainer()
    explanation = explainer.explain_instance(
        PHOTO.astype("double"), Classifier(), top_labels=5, hide_color=0, num_samples=100
    )
    temp, mask = explanation.get_image_and_mask(
        explanation.top_labels[0], positive_only=True, num_features=5, hide_rest=True
    )
    assert segmentation.mark_boundaries(temp / 2 + 0.5, mask).shape == PHOTO.shape
    temp, mask = explanation.get_image_and_mask(
        explanation.top_labels[0], positive_only=False, num_features=1000, min_weight=0.001
    )
    assert segmentation.mark_boundaries(temp / 2 + 0.5, mask).shape == PHOTO.shape
    weights = dict(explanation.local_exp[explanation.top_labels[0]])
    heatmap = np.vectorize(weights.get)(explanation.segments)
    assert heatmap.shape == PHOTO.shape[:2]


def test_the_signature_is_limes_and_then_some():
    for name in ("__init__", "explain_instance", "data_labels"):
        theirs = inspect.signature(getattr(lime.lime_image.LimeImageExplainer, name)).parameters
        ours = inspect.signature(getattr(compat.LimeImageExplainer, name)).parameters
        assert list(ours)[: len(theirs)] == list(theirs)
        for parameter in theirs.values():
            assert ours[parameter.name].default == parameter.default
    theirs = inspect.signature(lime.lime_image.ImageExplanation.get_image_and_mask).parameters
    ours = inspect.signature(compat.ImageExplanation.get_image_and_mask).parameters
    assert [(p.name, p.default) for p in ours.values()] == [
        (p.name, p.default) for p in theirs.values()
    ]


def test_data_labels():
    results = []
    for explainers in (lime.lime_image, compat):
        explainer = explainers.LimeImageExplainer(random_state=1)
        fill, segments = np.zeros_like(PHOTO), slic(start_label=1)(PHOTO)
        results.append(explainer.data_labels(PHOTO, fill, segments, Classifier(), 25))
    for a, b in zip(*results, strict=True):
        assert a.dtype == b.dtype
        assert np.array_equal(a, b)


def test_per_label_keeps_what_the_release_overwrites():
    _, (last, _) = both()
    ours = compat.LimeImageExplainer(random_state=7, per_label=True)
    explanation = ours.explain_instance(PHOTO, Classifier(), num_samples=103)
    assert list(explanation.score) == list(explanation.local_exp) == list(explanation.local_pred)
    assert explanation.score[explanation.top_labels[0]] == last.score
    assert np.array_equal(explanation.local_pred[explanation.top_labels[0]], last.local_pred)
    for label in explanation.top_labels:
        once = compat.LimeImageExplainer(random_state=7).explain_instance(
            PHOTO, Classifier(), labels=(label,), top_labels=None, num_samples=103
        )
        assert once.score == pytest.approx(explanation.score[label], rel=1e-12)


def test_verbose_prints_limes_lines(capsys):
    lines = []
    for explainers in (lime.lime_image, compat):
        explainer = explainers.LimeImageExplainer(verbose=True, random_state=0)
        explainer.explain_instance(PHOTO, Classifier(), num_samples=20, top_labels=2)
        lines.append([line.split()[0] for line in capsys.readouterr().out.splitlines()])
    assert lines[0] == lines[1] != []


def test_a_progress_bar_as_limes_and_none_where_it_is_not_wanted(capsys):
    explainer = compat.LimeImageExplainer()
    explainer.explain_instance(PHOTO, Classifier(), num_samples=35)
    assert "35/35" in capsys.readouterr().err
    explainer.explain_instance(PHOTO, Classifier(), num_samples=35, progress_bar=False)
    assert capsys.readouterr().err == ""


def test_the_classifier_may_keep_or_change_what_it_gets():
    """A preprocessing in place, as Keras's, and a list of all batches."""
    kept = []

    def changing(images):
        kept.append(images)
        images /= 2
        return Classifier()(images)

    compat.LimeImageExplainer(random_state=7).explain_instance(FLOAT, changing, num_samples=30)
    _, (_, shown) = both(FLOAT, num_samples=30)
    assert len(kept) == len(shown)
    for a, b in zip(kept, shown, strict=True):
        assert np.array_equal(a * 2, b)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError("the classifier's own")])
def test_an_error_of_the_classifier_passes_and_the_explainer_still_works(error, capsys):
    calls = itertools.count()

    def failing(images):
        if next(calls) == 3:
            raise error
        return Classifier()(images)

    explainer = compat.LimeImageExplainer(random_state=7)
    image = PHOTO.copy()
    with pytest.raises(error if isinstance(error, type) else type(error)):
        explainer.explain_instance(image, failing, num_samples=100)
    assert np.array_equal(image, PHOTO)
    assert "30/100" in capsys.readouterr().err  # the bar was closed where it stood
    twin = lime.lime_image.LimeImageExplainer(random_state=7)
    twin.explain_instance(PHOTO, Classifier(), num_samples=100)
    results = []
    for each in (twin, explainer):  # both have drawn the masks of one call
        classifier = Classifier()
        results.append((each.explain_instance(PHOTO, classifier, num_samples=30), classifier.seen))
    assert_equal(results)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_channels_that_lime_cannot_take(channels):
    image = np.random.default_rng(0).random((20, 24, channels))
    classifier = Classifier()
    explanation = compat.LimeImageExplainer(random_state=0).explain_instance(
        image, classifier, segmentation_fn=lambda image: np.arange(480).reshape(20, 24) // 100
    )
    assert classifier.seen[0].shape == (10, 20, 24, channels)
    assert len(explanation.local_exp[explanation.top_labels[0]]) == 5


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_samples": 0}, SamplingError, "num_samples is 0"),
        ({"batch_size": 0}, SamplingError, "batch_size is 0"),
        ({"num_features": 0}, SamplingError, "num_features is 0"),
        ({"distance_metric": "cosinus"}, SamplingError, "distance_metric 'cosinus'"),
        ({"distance_metric": "correlation"}, NonFiniteError, "kernel's weights"),
        ({"top_labels": None, "labels": (1, 8)}, TargetError, r"labels \[8\].*8 classes"),
        ({"top_labels": None, "labels": ()}, TargetError, "at least one"),
        (
            {"segmentation_fn": lambda image: np.zeros((2, 2), int)},
            InputShapeError,
            r"segmentation_fn gave labels of shape \[2, 2\]",
        ),
        (
            {"segmentation_fn": lambda image: np.full(image.shape[:2], np.nan)},
            NonFiniteError,
            "among the labels",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_bad_options_are_one_clear_error(options, error, message):
    with pytest.raises(error, match=message) as caught:
        compat.LimeImageExplainer(random_state=0).explain_instance(
            PHOTO, Classifier(), **{"num_samples": 20, **options}
        )
    assert isinstance(caught.value, XaiOnnxError)


@pytest.mark.parametrize(
    ("answers", "error", "message"),
    [
        (lambda n: np.zeros(n), InputShapeError, r"shape \[10\] for 10 pictures"),
        (lambda n: np.zeros((n - 1, 3)), InputShapeError, r"shape \[9, 3\] for 10 pictures"),
        (lambda n: np.full((n, 3), np.nan), NonFiniteError, "classifier_fn's answers"),
    ],
)
def test_bad_answers_are_one_clear_error(answers, error, message):
    with pytest.raises(error, match=message):
        compat.LimeImageExplainer(random_state=0).explain_instance(
            PHOTO, lambda images: answers(len(images)), num_samples=20
        )


@pytest.mark.parametrize("state", ["seed", -1, 2**32, 1.5])
def test_what_is_no_seed_is_refused(state):
    with pytest.raises(SamplingError, match="random_state"):
        compat.LimeImageExplainer(random_state=state)


def test_what_cannot_be_chosen_is_refused():
    with pytest.raises(SamplingError, match="one of auto, none, forward_selection"):
        compat.LimeImageExplainer(feature_selection="best")
    with pytest.raises(InputShapeError, match="one of quickshift, felzenszwalb, slic"):
        compat.SegmentationAlgorithm("watershed")
    for image in (np.zeros(3), np.zeros((0, 4, 3)), np.zeros((1, 4, 4, 3))):
        with pytest.raises(InputShapeError, match="image of shape"):
            compat.LimeImageExplainer().explain_instance(image, Classifier())


def test_answers_may_be_lists():
    explanation = compat.LimeImageExplainer(random_state=7).explain_instance(
        PHOTO, lambda images: Classifier()(images).tolist(), num_samples=103
    )
    _, (wanted, _) = both()
    assert explanation.top_labels == wanted.top_labels


def test_a_constant_classifier_explains_nothing():
    explanation = compat.LimeImageExplainer(random_state=7).explain_instance(
        PHOTO, lambda images: np.full((len(images), 2), 0.5), num_samples=50
    )
    for label, evidence in explanation.local_exp.items():
        assert {weight for _, weight in evidence} == {0.0}
        assert explanation.intercept[label] == 0.5


@given(
    segments=hnp.arrays(
        st.sampled_from(["int8", "uint16", "int64", "float32", "bool"]),
        st.tuples(st.integers(1, 9), st.integers(1, 9)),
        elements=st.sampled_from([0, 1]),
        fill=st.nothing(),
    ),
    gap=st.sampled_from([1, 3, 100]),
    dtype=st.sampled_from([np.uint8, np.float16, np.float32, np.float64]),
    channels=st.sampled_from([1, 3, 4]),
    num_samples=st.integers(1, 30),
    batch_size=st.sampled_from([1, 7, 100]),
    num_features=st.sampled_from([1, 7, 1000]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=50, deadline=None)
def test_whatever_is_segmented_gets_finite_coefficients(
    segments, gap, dtype, channels, num_samples, batch_size, num_features, seed
):
    labels = segments if segments.dtype == bool else segments * segments.dtype.type(gap)
    image = np.random.default_rng(seed).integers(0, 255, (*labels.shape, channels)).astype(dtype)
    image[0] = 7  # part of it, or all, in one colour
    explanation = compat.LimeImageExplainer(random_state=seed).explain_instance(
        image,
        lambda images: images.astype(float).mean((1, 2))[:, [0, -1]],
        segmentation_fn=lambda image: labels,
        num_samples=num_samples,
        batch_size=batch_size,
        num_features=num_features,
        progress_bar=False,
    )
    d = len(np.unique(labels))
    for evidence in explanation.local_exp.values():
        assert len(evidence) == min(d, num_features)
        assert np.isfinite([weight for _, weight in evidence]).all()
