import json
from dataclasses import asdict, replace

import pytest

from xai_onnx.errors import PreprocessError
from xai_onnx.recipe import PRESETS, Preprocess, parse

UNIT = Preprocess(
    height=224,
    width=224,
    shortest_side=None,
    interpolation="bilinear",
    color="RGB",
    layout="NCHW",
    scale=1 / 255,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
)

# What each preset makes of the pixels 0 and 255 in the tensor's first channel, its colour order,
# and its shortest side for a 224 crop: from the documentation of the families themselves.
PRESET_CASES = {
    "torchvision": (-0.485 / 0.229, (1 - 0.485) / 0.229, "RGB", 256),
    "inception": (-1.0, 1.0, "RGB", None),
    "caffe": (-103.939, 255 - 103.939, "BGR", None),
    "lite": (-127 / 128, 1.0, "RGB", 256),
    "unit": (0.0, 1.0, "RGB", None),
    "raw": (0.0, 255.0, "RGB", None),
}


def test_every_preset_has_a_case():
    assert set(PRESET_CASES) == set(PRESETS)


@pytest.mark.parametrize("name", PRESET_CASES)
def test_preset(name):
    black, white, color, shortest_side = PRESET_CASES[name]
    recipe = parse(name, "NHWC", 224, 224)
    assert (0 * recipe.scale - recipe.mean[0]) / recipe.std[0] == pytest.approx(black)
    assert (255 * recipe.scale - recipe.mean[0]) / recipe.std[0] == pytest.approx(white)
    assert (recipe.color, recipe.shortest_side, recipe.layout) == (color, shortest_side, "NHWC")
    assert (recipe.height, recipe.width) == (224, 224)


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("unit", {}),
        (" unit , size=224 ", {}),
        ("unit,size=224x224", {}),
        ("unit,resize=256", {"shortest_side": 256}),
        ("unit,interpolation=lanczos", {"interpolation": "lanczos"}),
        ("unit,scale=0.5", {"scale": 0.5}),
        ("unit,mean=1/2/3,std=4/5/6", {"mean": (1.0, 2.0, 3.0), "std": (4.0, 5.0, 6.0)}),
        ("unit,color=gray,mean=0.5,std=2", {"color": "GRAY", "mean": (0.5,), "std": (2.0,)}),
    ],
)
def test_parse_settings(text, changes):
    assert parse(text, "NCHW", 224, 224) == replace(UNIT, **changes)


def test_the_size_of_a_free_input_is_as_written_and_the_resize_follows_it():
    recipe = parse("lite,size=64x96", "NCHW", None, None)
    assert (recipe.height, recipe.width, recipe.shortest_side) == (64, 96, 110)
    assert parse("torchvision,size=64,resize=squash", "NCHW", None, 64).shortest_side is None


def test_another_colour_order_takes_its_mean_and_std_along():
    recipe = parse("torchvision,color=bgr", "NCHW", 224, 224)
    assert recipe.mean == (0.406, 0.456, 0.485)
    assert recipe.std == (0.225, 0.224, 0.229)
    written = parse("torchvision,color=bgr,mean=1/2/3", "NCHW", 224, 224)
    assert written.mean == (1.0, 2.0, 3.0)
    assert written.std == (0.225, 0.224, 0.229)
    assert parse("caffe,color=bgr", "NCHW", 224, 224).mean == PRESETS["caffe"].mean


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("vgg", "unknown preset 'vgg'; one of torchvision, "),
        ("unit,size", "'size' is not key=value"),
        ("unit,crop=3", "'crop=3' is not key=value"),
        ("unit,scale=1,scale=2", "'scale=2' is not key=value, said once"),
        ("unit,scale=big", "scale='big' is not a number"),
        ("unit,resize=big", "resize='big' is not a number"),
        ("unit,mean=1/x/2", "mean='x' is not a number"),
        ("unit,size=1x2x3", "size='1x2x3' is neither N nor HxW"),
        ("unit,size=200", "size=200 contradicts the model's input, 224x224"),
        ("unit,resize=100", "resize=100 is smaller than the crop 224x224"),
        ("unit,interpolation=cubic", "interpolation must be one of nearest, "),
        ("unit,color=hsv", "color must be one of RGB, BGR, GRAY"),
        ("unit,color=gray", "mean and std must have 1 numbers for GRAY"),
        ("unit,std=1/0/1", "std and scale not 0"),
        ("unit,scale=0", "std and scale not 0"),
        ("unit,mean=nan/0/0", "must be finite"),
        ("{", "not JSON"),
        ("{}", "missing or unknown fields"),
    ],
)
def test_what_parse_refuses(text, message):
    with pytest.raises(PreprocessError, match=r"^(preprocessing|--preprocess): ") as caught:
        parse(text, "NCHW", 224, 224)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("height", "width"), [(None, 224), (224, None), (None, None)])
def test_a_free_input_needs_a_size(height, width):
    with pytest.raises(PreprocessError, match="add size=N"):
        parse("unit", "NCHW", height, width)


def test_json_recipe():
    text = json.dumps(asdict(UNIT))
    assert parse(f"  {text}", "NCHW", 224, None) == UNIT
    for layout, height, width in [("NHWC", 224, 224), ("NCHW", 96, None), ("NCHW", None, 96)]:
        with pytest.raises(PreprocessError, match="contradicts the model's input"):
            parse(text, layout, height, width)


@pytest.mark.parametrize("recipe", [UNIT, replace(UNIT, shortest_side=256)])
def test_round_trip(recipe):
    assert Preprocess.from_dict(json.loads(json.dumps(asdict(recipe))), "m.onnx") == recipe


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"height": 0}, "size must be at least 1 pixel"),
        ({"height": 224.0}, "must be whole numbers"),
        ({"shortest_side": 256.0}, "must be whole numbers"),
        ({"height": "224"}, "not supported"),
        ({"layout": "CHW"}, "layout must be one of NCHW, NHWC"),
        ({"std": [1, 1]}, "mean and std must have 3 numbers for RGB"),
        ({"mean": None}, "not iterable"),
        ({"mean": ["a", "b", "c"]}, "could not convert"),
        ({"gamma": 2.2}, "missing or unknown fields ['gamma']"),
    ],
)
def test_malformed_object(changes, message):
    with pytest.raises(
        PreprocessError, match=r"^m\.onnx: the preprocessing is malformed"
    ) as caught:
        Preprocess.from_dict({**asdict(UNIT), **changes}, "m.onnx")
    assert message in str(caught.value)


@pytest.mark.parametrize("data", [[], ["height"], 5, "unit", None])
def test_what_is_no_object_is_malformed(data):
    with pytest.raises(PreprocessError, match="malformed"):
        Preprocess.from_dict(data, "m.onnx")


def test_the_summary_is_one_line_in_words():
    lite = parse("lite", "NCHW", 224, 224)
    assert lite.summary == (
        "RGB 224x224 NCHW, short side to 256, centre crop, bicubic, "
        "(pixel * 1 - 127/127/127) / 128/128/128"
    )
    assert "squashed" in parse("unit", "NHWC", 32, 32).summary
