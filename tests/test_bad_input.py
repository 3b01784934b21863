"""What must not work: one line on standard error, exit code 2, nothing new, nothing touched.

A row of `CASES` is a command and what its line must say. Words of the command that name a maker in
`FILES` become the path of the file that it makes.
"""

import io
import json
import re
import struct
import zlib

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from other_nets import segmentation_net
from PIL import Image
from tiny_net import LABELS, PREPROCESS, finished, photos, saved, tiny_net

import exporters
from exporters import explained as explained_model
from exporters.save import to_bytes
from xai_onnx.cli import main
from xai_onnx.manifest import METADATA_KEY

OLD = b"what stood here before"


def explained():
    return exporters.explained_bytes(tiny_net(), preprocess=PREPROCESS, labels=LABELS)


def attributed():
    return exporters.explained_bytes(tiny_net(), method="saliency", preprocess=PREPROCESS)


def exported(net, **options):
    """What `export_gradcam` writes."""
    model, _ = explained_model.build(net, preprocess=PREPROCESS, **options)
    return to_bytes(model)


def array(*shape):
    buffer = io.BytesIO()
    np.save(buffer, np.ones(shape, np.float32))
    return buffer.getvalue()


def changed_manifest(**changes):
    model = onnx.load_from_string(explained())
    (entry,) = [entry for entry in model.metadata_props if entry.key == METADATA_KEY]
    entry.value = json.dumps(json.loads(entry.value) | changes)
    return model.SerializeToString()


def recipe(**changes):
    """The recipe of the explained file, changed, as JSON."""
    (entry,) = onnx.load_from_string(explained()).metadata_props
    return json.dumps(json.loads(entry.value)["preprocess"] | changes)


def raw_manifest(text):
    model = tiny_net()
    helper.set_model_props(model, {METADATA_KEY: text})
    return model.SerializeToString()


def with_tail(op_type, domain="", **attributes):
    """The tiny net with one more operator between features and pooling."""
    node = helper.make_node(op_type, ["features"], ["tail"], "odd", domain=domain, **attributes)
    model = tiny_net()
    graph = model.graph
    place = [n.name for n in graph.node].index("relu2") + 1
    nodes = [*graph.node[:place], node, *graph.node[place:]]
    nodes[place + 1].input[0] = "tail"
    del graph.node[:]
    graph.node.extend(nodes)
    if domain:
        model.opset_import.append(helper.make_opsetid(domain, 1))
    return model.SerializeToString()


def lstm():
    """A recurrent classifier over the positions of the feature map."""
    rng = np.random.default_rng(0)
    arrays = {
        "w": rng.standard_normal((1, 20, 16)).astype(np.float32),
        "r": rng.standard_normal((1, 20, 5)).astype(np.float32),
        "three": np.array([0, 16, 64]),
        "first": np.array([0]),
    }
    model = tiny_net()
    graph = model.graph
    kept = [node for node in graph.node if node.name in ("conv1", "relu1", "conv2", "relu2")]
    kept += [
        helper.make_node("Reshape", ["features", "three"], ["flatmap"]),
        helper.make_node("Transpose", ["flatmap"], ["sequence"], perm=[2, 0, 1]),
        helper.make_node("LSTM", ["sequence", "w", "r"], ["", "last"], "lstm", hidden_size=5),
        helper.make_node("Squeeze", ["last", "first"], ["logits"]),
    ]
    del graph.node[:]
    graph.node.extend(kept)
    graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in arrays.items())
    return model.SerializeToString()


def headless():
    model = tiny_net()
    del model.graph.node[4:], model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("features", 1, ["batch", 16, 8, 8]))
    return model.SerializeToString()


def two_scores():
    more = helper.make_tensor_value_info("flat", 1, ["batch", 16])
    return tiny_net(extra_outputs=[more]).SerializeToString()


def two_inputs():
    model = tiny_net()
    model.graph.input.append(helper.make_tensor_value_info("mask", 1, ["batch", 3, 32, 32]))
    return model.SerializeToString()


def not_images():
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "vectors",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 5])],
    )
    return finished(graph).SerializeToString()


def many_channels():
    return tiny_net(channels=7).SerializeToString()


def stuck_batch():
    """Its input leaves the batch free, a Reshape inside fixes it to 1."""
    tail = [helper.make_node("Reshape", ["features", "one"], ["tail"])]
    return tiny_net(tail=tail, arrays={"one": np.array([1, 16, 8, 8])}).SerializeToString()


def with_sizes(content, **sizes):
    """The model with other sizes of its image, by the number of the axis."""
    model = onnx.load_from_string(content)
    for axis, size in sizes.items():
        model.graph.input[0].type.tensor_type.shape.dim[int(axis[-1])].dim_value = size
    return model.SerializeToString()


def latin1():
    """Its metadata is not UTF-8, as what protobuf reads must be."""
    return explained().replace(b'"bee"', b'"b\xe9e"')


def escape_in_a_name():
    model = tiny_net()
    model.graph.node[0].input[1] = "\x1b[31mweights\n"
    return model.SerializeToString()


def no_nodes():
    model = tiny_net()
    del model.graph.node[:]
    return model.SerializeToString()


def in_a_circle():
    model = tiny_net()
    model.graph.node[0].input[0] = model.graph.node[2].output[0]
    return model.SerializeToString()


def old_opset():
    model = tiny_net(opset=5)
    return model.SerializeToString()


def truncated(fraction):
    return lambda: _cut(tiny_net().SerializeToString(), fraction)


def truncated_explained(fraction):
    return lambda: _cut(explained(), fraction)


def _cut(content, fraction):
    return content[: int(len(content) * fraction)]


def picture(kind="PNG", cut=1.0):
    buffer = io.BytesIO()
    Image.fromarray(photos(1)[0]).save(buffer, kind)
    return _cut(buffer.getvalue(), cut)


def bomb():
    """The header of a PNG of 10^10 pixels."""

    def chunk(name, data):
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"")


FILES = {
    "plain.onnx": lambda: tiny_net().SerializeToString(),
    "explained.onnx": explained,
    "text.onnx": lambda: b"This is a letter, not a model.\n" * 20,
    "html.onnx": lambda: b"<!DOCTYPE html><html>404</html>",
    "picture.onnx": picture,
    "empty.onnx": lambda: b"",
    "cut10.onnx": truncated(0.1),
    "cut50.onnx": truncated(0.5),
    "cut90.onnx": truncated(0.9),
    "cut99.onnx": truncated(0.99),
    "explained10.onnx": truncated_explained(0.1),
    "explained50.onnx": truncated_explained(0.5),
    "explained90.onnx": truncated_explained(0.9),
    "custom.onnx": lambda: with_tail("Swirl", "com.example"),
    "unknown.onnx": lambda: with_tail("Swirl"),
    "random.onnx": lambda: with_tail("RandomUniformLike"),
    "lstm.onnx": lstm,
    "headless.onnx": headless,
    "two_scores.onnx": two_scores,
    "two_inputs.onnx": two_inputs,
    "vectors.onnx": not_images,
    "uint8.onnx": lambda: tiny_net(dtype="uint8").SerializeToString(),
    "saliency.onnx": attributed,
    "region.onnx": lambda: exported(segmentation_net(), score_at="region", target_layer="features"),
    "weights.onnx": lambda: exported(tiny_net(), targets="cotangent"),
    "no_map.onnx": lambda: changed_manifest(cam=None),
    "no_layer.onnx": lambda: changed_manifest(target_layers=[]),
    "channels.onnx": many_channels,
    "stuck.onnx": stuck_batch,
    "million.onnx": lambda: with_sizes(tiny_net().SerializeToString(), axis0=10**6),
    "wide.onnx": lambda: with_sizes(tiny_net().SerializeToString(), axis3=2**40),
    "million_explained.onnx": lambda: with_sizes(explained(), axis0=10**6),
    "long.onnx": lambda: changed_manifest(preprocess=json.loads(recipe(height=10**9))),
    "latin1.onnx": latin1,
    "escape.onnx": escape_in_a_name,
    "no_nodes.onnx": no_nodes,
    "circle.onnx": in_a_circle,
    "opset5.onnx": old_opset,
    "nan.onnx": lambda: tiny_net(gain=np.nan).SerializeToString(),
    "free.onnx": lambda: tiny_net(size="side").SerializeToString(),
    "grey.onnx": lambda: tiny_net(channels=1).SerializeToString(),
    "newer.onnx": lambda: changed_manifest(schema_version=2),
    "later.onnx": lambda: changed_manifest(schema_version="later"),
    "fields.onnx": lambda: changed_manifest(colour="blue"),
    "types.onnx": lambda: changed_manifest(num_classes="five"),
    "classes.onnx": lambda: changed_manifest(num_classes=0, labels=[]),
    "names.onnx": lambda: changed_manifest(input="picture"),
    "outputs.onnx": lambda: changed_manifest(cam="map"),
    "recipe.onnx": lambda: changed_manifest(preprocess={"color": "RGB"}),
    "not_json.onnx": lambda: raw_manifest("{"),
    "list.onnx": lambda: raw_manifest("[]"),
    "nested.onnx": lambda: raw_manifest("[" * 200_000),
    "photo.png": picture,
    "photo.webp": lambda: picture("WEBP"),
    "cut.png": lambda: picture(cut=0.6),
    "cut.jpg": lambda: picture("JPEG", 0.5),
    "bomb.png": bomb,
    "text.png": lambda: b"no picture",
    "empty.png": lambda: b"",
    "five.txt": lambda: "\n".join(LABELS).encode(),
    "four.txt": lambda: "\n".join(LABELS[:4]).encode(),
    "cut.json": lambda: json.dumps(LABELS).encode()[:-4],
    "dict.json": lambda: json.dumps(dict.fromkeys(LABELS, 1)).encode(),
    "numbers.json": lambda: b"[1, 2, 3, 4, 5]",
    "small.npy": lambda: array(1, 1, 16, 16),
    "two.npy": lambda: array(2, 1, 32, 32),
    "binary.txt": lambda: b"\xff\xfe\x00ant",
    "nested.json": lambda: b"[" * 200_000,
}

EXPORT, ATTRIBUTE = "export gradcam", "export attribution"
NO_MODEL = "not an ONNX file"
UNUSABLE = "is not a usable ONNX model"

CASES = [
    # No model.
    *((f"{EXPORT} {name}.onnx -o out.onnx", NO_MODEL) for name in ("text", "html", "picture")),
    (f"{EXPORT} empty.onnx -o out.onnx", "there is no graph in it"),
    (f"{EXPORT} no_nodes.onnx -o out.onnx", "there is no graph in it"),
    *((f"{EXPORT} cut{n}.onnx -o out.onnx", "onnx: ") for n in (10, 50, 90, 99)),
    (f"{EXPORT} circle.onnx -o out.onnx", "not a valid ONNX model: .*topologically sorted"),
    (f"{EXPORT} folder -o out.onnx", "folder: can't be read: Is a directory"),
    (f"{EXPORT} absent.onnx -o out.onnx", "absent.onnx: can't be read: No such file"),
    (f"{EXPORT} explained.onnx -o out.onnx", "explained already; export from the plain model"),
    (f"{EXPORT} opset5.onnx -o out.onnx", "from opset 5 to 18: .*export it at opset 18"),
    *((f"inspect {name}.onnx", UNUSABLE) for name in ("text", "html", "picture", "empty")),
    *((f"inspect cut{n}.onnx", UNUSABLE) for n in (10, 50, 90, 99)),
    ("inspect folder", "folder: is a folder; give the path"),
    ("inspect absent.onnx", "absent.onnx: there is no such file; give the path"),
    ("explain text.onnx photo.png -o out.png", UNUSABLE),
    *((f"explain explained{n}.onnx photo.png -o out.png", UNUSABLE) for n in (10, 50, 90)),
    *((f"verify explained{n}.onnx plain.onnx", "onnx: ") for n in (10, 50, 90)),
    ("verify explained.onnx cut50.onnx", "is not an ONNX file, or is cut short"),
    ("verify explained.onnx absent.onnx", "absent.onnx: can't be read"),
    ("verify plain.onnx plain.onnx", "holds no manifest; it is no explained model"),
    ("verify explained.onnx explained.onnx", "is explained already"),
    ("verify explained.onnx headless.onnx", "no output holds class scores"),
    ("bench text.onnx", NO_MODEL),
    ("bench explained.onnx", "is explained already"),
    ("bench custom.onnx", "com.example"),
    # Models that can't be explained.
    (f"{EXPORT} custom.onnx -o out.onnx", "can't load it: .*com.example"),
    (f"{EXPORT} unknown.onnx -o out.onnx", "No Op registered for Swirl"),
    (f"{EXPORT} random.onnx -o out.onnx --target-layer features", "no gradient rule for 'Random"),
    (f"{EXPORT} lstm.onnx -o out.onnx", "no gradient rule for 'LSTM' .node 'lstm'., which lies"),
    (
        f"{EXPORT} headless.onnx -o out.onnx",
        "no output holds class scores .*--score NAME, or say what kind",
    ),
    (f"{EXPORT} two_scores.onnx -o out.onnx", "more than one output holds class scores"),
    (
        f"{EXPORT} two_inputs.onnx -o out.onnx",
        r"2 of its inputs \('image' .*, 'mask' .*\) can take",
    ),
    (f"{EXPORT} vectors.onnx -o out.onnx", "a batch of images has 4 axes"),
    (f"{EXPORT} channels.onnx -o out.onnx", "neither 1, 3 nor 4 channels"),
    (f"{EXPORT} stuck.onnx -o out.onnx", r"can't run on .*\[2, 3, 32, 32\].*free, or fixed"),
    (f"{EXPORT} million.onnx -o out.onnx", r"\[1000000, 3, 32, 32\] is too large: at most"),
    (f"{EXPORT} wide.onnx -o out.onnx", "is too large: at most 10,000 pixels a side"),
    ("inspect million.onnx", "is too large"),
    ("verify explained.onnx million.onnx", "is too large"),
    ("explain million_explained.onnx photo.png -o out.png", "a smaller or a free batch"),
    (f"{EXPORT} escape.onnx -o out.onnx", r"\\x1b\[31mweights"),
    ("inspect headless.onnx", "no output holds class scores"),
    ("inspect two_inputs.onnx", "2 of its inputs .*can take the picture"),
    (f"{EXPORT} two_inputs.onnx -o out.onnx --input x", "has no input 'x'; its inputs are 'image'"),
    ("explain lstm.onnx photo.png -o out.png --preprocess unit", "no gradient rule for 'LSTM'"),
    ("explain nan.onnx photo.png -o out.png --preprocess unit", "scores hold NaN .*weights"),
    # Target layers, scores, classes, labels.
    (f"{EXPORT} plain.onnx -o out.onnx --target-layer feature", "did you mean 'features'"),
    (f"{EXPORT} plain.onnx -o out.onnx --target-layer xyz", "no layer 'xyz'; see xai-onnx"),
    (f"{EXPORT} plain.onnx -o out.onnx --target-layer logits", "not lie between image and score"),
    (f"{EXPORT} plain.onnx -o out.onnx --target-layer flat", r"shape \[batch, 16\]; it must be"),
    (f"{EXPORT} plain.onnx -o out.onnx --target-layer pooled", "more than one position"),
    (f"{EXPORT} plain.onnx -o out.onnx --targets predicted --top-k 6", "the model has 5 classes"),
    (f"{EXPORT} plain.onnx -o out.onnx --targets predicted --top-k 0", "the model has 5 classes"),
    (f"{EXPORT} plain.onnx -o out.onnx --labels four.txt", "has 4 names, the model 5 classes"),
    (f"{EXPORT} plain.onnx -o out.onnx --labels cut.json", "can't be read as class names"),
    (f"{EXPORT} plain.onnx -o out.onnx --labels dict.json", "must be a list of class names"),
    (f"{EXPORT} plain.onnx -o out.onnx --labels numbers.json", "must be a list of class names"),
    (f"{EXPORT} plain.onnx -o out.onnx --labels binary.txt", "can't be read as class names"),
    (f"{EXPORT} plain.onnx -o out.onnx --labels nested.json", "can't be read as class names"),
    (f"{EXPORT} plain.onnx -o out.onnx --labels folder", "Is a directory"),
    (f"{EXPORT} plain.onnx -o out.onnx --labels absent.txt", "No such file.*give a JSON list"),
    ("explain explained.onnx photo.png -o out.png --target 5", "no class 5; .* 0 to 4"),
    ("explain explained.onnx photo.png -o out.png --target -2", "no class -2"),
    (f"explain explained.onnx photo.png -o out.png --target {10**40}", "no class '1000"),
    ("explain explained.onnx photo.png -o out.png --target ²", "no class '²'"),
    ("explain explained.onnx photo.png -o out.png --target bees", "did you mean 'bee'"),
    ("explain explained.onnx photo.png -o out.png --top-k 6", "--top-k 6: the model has 5"),
    ("explain explained.onnx photo.png -o out.png --top-k 0", "--top-k 0: the model has 5"),
    ("explain explained.onnx photo.png -o out.png --target-layer c1", "--target-layer comes too"),
    ("explain explained.onnx photo.png -o out.png --labels five.txt", "--labels comes too late"),
    ("explain explained.onnx photo.png -o out.png --score output", "--score comes too late"),
    # Methods, and what a file takes besides.
    (f"{ATTRIBUTE} plain.onnx -o out.onnx --targets predicted --top-k 6", "model has 5 classes"),
    (f"{ATTRIBUTE} uint8.onnx -o out.onnx", "'image' is UINT8, which has no gradient; .*gradcam"),
    (f"{ATTRIBUTE} lstm.onnx -o out.onnx", "no gradient rule for 'LSTM'"),
    (f"{ATTRIBUTE} explained.onnx -o out.onnx", "explained already; export from the plain model"),
    (f"{ATTRIBUTE} plain.onnx -o out.onnx --score region", "no output holds logits .B, N, h, w."),
    (f"{ATTRIBUTE} plain.onnx -o out.onnx --score best", "score 'best' is neither a kind of score"),
    (f"{ATTRIBUTE} plain.onnx -o out.onnx --score region:x", "score 'x' is neither a kind"),
    (f"{ATTRIBUTE} plain.onnx -o out.onnx --input x", "has no input 'x'; its inputs are 'image'"),
    (f"{EXPORT} plain.onnx -o out.onnx --target-layer c1 --target-layer c1", "each layer once"),
    (
        "explain plain.onnx photo.png -o out.png --method saliency --target-layer c1",
        "method 'saliency' goes to the pixels and takes no target layer",
    ),
    (
        "explain explained.onnx photo.png -o out.png --method saliency",
        "was exported for gradcam, not for saliency; export it again with that method",
    ),
    ("explain explained.onnx photo.png -o out.png --input image", "--input comes too late"),
    ("explain region.onnx photo.png -o out.png", "needs 'mask', tensor.float. of shape .* inputs="),
    ("explain region.onnx photo.png -o out.png --with mask", "--with mask: say NAME=FILE"),
    ("explain region.onnx photo.png -o out.png --with mask=no.npy", "no.npy: can't be read"),
    ("explain region.onnx photo.png -o out.png --with mask=text.png", "text.png: can't be read"),
    ("explain region.onnx photo.png -o out.png --with mask=small.npy", "must be tensor.float. of"),
    ("explain region.onnx photo.png -o out.png --with mask=two.npy", "has 2 rows for 1 picture"),
    ("explain region.onnx photo.png -o out.png --with x=two.npy", "takes no input 'x' besides"),
    ("explain explained.onnx photo.png -o out.png --with x=two.npy", "it takes none"),
    ("explain weights.onnx photo.png -o out.png", "takes cotangents, one weight for each score"),
    ("explain weights.onnx photo.png -o out.png --target cat", "takes cotangents, .* not .'cat'."),
    ("verify saliency.onnx cut50.onnx", "is not an ONNX file, or is cut short"),
    ("verify saliency.onnx saliency.onnx", "is explained already"),
    ("inspect no_map.onnx", "contradicts itself: cam, attribution, target_layers and activations"),
    ("inspect no_layer.onnx", "contradicts itself: cam, attribution, target_layers"),
    # Preprocessing.
    ("explain plain.onnx photo.png -o out.png", "doesn't say how a picture.*presets: torchvision"),
    (f"{EXPORT} plain.onnx -o out.onnx --preprocess sepia", "unknown preset 'sepia'; one of"),
    (f"{EXPORT} plain.onnx -o out.onnx --preprocess unit,size=64", "contradicts .* 32x32"),
    (f"{EXPORT} plain.onnx -o out.onnx --preprocess unit,mean=a", "mean='a' is not a number"),
    (f"{EXPORT} plain.onnx -o out.onnx --preprocess {{", "not JSON"),
    (f"{EXPORT} free.onnx -o out.onnx --preprocess unit", "add size=N"),
    (f"{EXPORT} grey.onnx -o out.onnx --preprocess unit", "the model takes 1; say color=GRAY"),
    # Pictures.
    ("explain explained.onnx absent.png -o out.png", "absent.png: can't be opened: No such file"),
    ("explain explained.onnx folder -o out.png", "folder: can't be opened: Is a directory"),
    ("explain explained.onnx text.png -o out.png", "not a picture; give a file in one of JPEG"),
    ("explain explained.onnx empty.png -o out.png", "not a picture"),
    ("explain explained.onnx cut.png -o out.png", "perhaps it is truncated.*get a whole copy"),
    ("explain explained.onnx cut.jpg -o out.png", "perhaps it is truncated"),
    ("explain explained.onnx bomb.png -o out.png", "too large"),
    ("explain explained.onnx photo.png photo.webp -o figures", "two of the images would be"),
    ("explain explained.onnx photo.png cut.jpg -o out.png", "one file for 2 images; give a folder"),
    # Providers and numbers.
    ("explain explained.onnx photo.png -o out.png --provider npu", "provider 'npu'; one of cpu"),
    ("bench plain.onnx --provider coreml", "'coreml' is not in this ONNX Runtime"),
    ("bench plain.onnx --batch 0", "--batch '0': must be whole numbers from 1 on"),
    ("bench plain.onnx --batch one", "--batch 'one': must be whole numbers"),
    ("bench plain.onnx --threads -1", "--threads '-1': must be whole numbers from 0 on"),
    ("bench plain.onnx --rounds 1", "--rounds must be 2 or more"),
    ("bench plain.onnx --seconds nan", "--seconds above 0"),
    ("bench plain.onnx --seconds inf", "--seconds above 0"),
    # Places.
    (f"{EXPORT} plain.onnx -o absent/out.onnx", "can't write in .*absent/: No such file"),
    (f"{EXPORT} plain.onnx -o folder.onnx", "is a folder or a device; give a file name"),
    (f"{EXPORT} plain.onnx -o /proc/out.onnx", "/proc/out.onnx: can't write in /proc/"),
    (f"{EXPORT} plain.onnx -o out.pb", "an explained model is an .onnx file; name it so"),
    ("explain explained.onnx photo.png -o absent/out.png", "can't write in .*absent/: No such"),
    ("explain explained.onnx photo.png -o folder.png", "is a folder or a device"),
    ("explain explained.onnx photo.png -o /proc/figures", "/proc/figures: can't be made"),
    ("explain explained.onnx photo.png -o five.txt", "five.txt: can't be made: File exists"),
    ("demo -o five.txt", "five.txt: can't be made: File exists; use -o"),
    ("demo -o /proc/demo", "/proc/demo: can't be made"),
    # Manifests.
    ("inspect newer.onnx", "schema version 2, this xai_onnx reads up to 1; upgrade xai-onnx"),
    ("inspect later.onnx", "schema version later"),
    ("inspect fields.onnx", "fields differ from schema 1: .'colour'.; export the model again"),
    ("inspect types.onnx", "num_classes are not of the type"),
    ("inspect classes.onnx", "contradicts itself: num_classes, targets"),
    ("inspect names.onnx", "names the input 'picture', which the file doesn't have"),
    ("inspect outputs.onnx", "names the output 'map', which the file doesn't have"),
    ("inspect recipe.onnx", "the preprocessing is malformed"),
    ("inspect long.onnx", "size and resize must be at most 10000 pixels"),
    ("inspect latin1.onnx", "not a usable ONNX model: 'utf-8' codec can't decode"),
    *((f"inspect {x}.onnx", "manifest .* is not readable") for x in ("not_json", "list", "nested")),
    ("explain newer.onnx photo.png -o out.png", "upgrade xai-onnx"),
    ("verify names.onnx plain.onnx", "names the input 'picture'"),
    ("verify newer.onnx plain.onnx", "upgrade xai-onnx"),
]


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """Run a command that must fail in a folder of its own; its line on standard error."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for name in ("folder.onnx", "folder.png"):
        (tmp_path / name).mkdir()

    def call(command):
        words = command.split(" ")
        for word in words:
            name = word.rpartition("=")[2]
            if name in FILES:
                (tmp_path / name).write_bytes(FILES[name]())
        before = snapshot(tmp_path)
        capfd.readouterr()
        assert main(words) == 2
        output = capfd.readouterr()
        assert output.out == ""
        assert output.err.count("\n") == 1, output.err
        assert output.err.startswith(f"xai-onnx {words[0]}: error: ")
        assert "Traceback" not in output.err
        assert snapshot(tmp_path) == before
        return output.err

    return call


def snapshot(folder):
    """Every file with its content, every folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


@pytest.mark.parametrize(("command", "message"), CASES, ids=[command for command, _ in CASES])
def test_refusals(run, command, message):
    line = run(command)
    assert re.search(message, line), line


@pytest.mark.parametrize(
    "command",
    [
        "export gradcam cut50.onnx -o out.onnx",
        "export gradcam lstm.onnx -o out.onnx",
        "export gradcam plain.onnx -o out.onnx --labels four.txt",
        "explain explained.onnx cut.jpg -o out.png",
        "explain nan.onnx photo.png -o out.png --preprocess unit",
    ],
)
def test_what_stood_in_the_output_stays(run, tmp_path, command):
    for name in ("out.onnx", "out.png"):
        (tmp_path / name).write_bytes(OLD)
    run(command)
    assert (tmp_path / "out.onnx").read_bytes() == (tmp_path / "out.png").read_bytes() == OLD


def test_a_model_stays_where_an_export_over_it_fails(run, tmp_path):
    run("export gradcam lstm.onnx -o lstm.onnx")
    assert (tmp_path / "lstm.onnx").read_bytes() == lstm()


def test_every_cut_is_refused(tmp_path, capfd):
    """At 40 places from the first byte to the last but one, most of them inside the weights."""
    content = tiny_net().SerializeToString()
    weights = content.index(numpy_helper.to_array(tiny_net().graph.initializer[0]).tobytes())
    places = np.linspace(1, len(content) - 1, 40).astype(int)
    assert any(weights < place for place in places)
    path = tmp_path / "cut.onnx"
    for place in places:
        path.write_bytes(content[:place])
        assert main(["export", "gradcam", str(path), "-o", str(tmp_path / "out.onnx")]) == 2
        output = capfd.readouterr()
        assert output.err.startswith(f"xai-onnx export: error: {path}: ")
        assert output.err.count("\n") == 1
        assert [entry.name for entry in tmp_path.iterdir()] == ["cut.onnx"]


def test_a_file_whose_classes_are_its_own_choice(run, tmp_path):
    path = tmp_path / "predicted.onnx"
    options = {"targets": "predicted", "preprocess": "unit"}
    exporters.export_gradcam(tiny_net(), path, **options)
    for option in ("--target 1", "--top-k 2"):
        line = run(f"explain predicted.onnx photo.png -o out.png {option}")
        assert "targets='predicted'" in line


def test_original_of_another_size(run, tmp_path):
    saved(tiny_net(size=48), tmp_path / "larger.onnx")
    assert "can't run it: " in run("verify explained.onnx larger.onnx")


def test_original_with_other_names(run, tmp_path):
    other = tiny_net()
    other.graph.input[0].name = other.graph.node[0].input[0] = "picture"
    saved(other, tmp_path / "other.onnx")
    line = run("verify explained.onnx other.onnx")
    assert "was made from another model: other.onnx: has no input 'image'; its inputs" in line


def test_weights_that_are_missing(run, tmp_path):
    onnx.save(
        tiny_net(),
        tmp_path / "split.onnx",
        save_as_external_data=True,
        location="split.data",
        size_threshold=0,
    )
    (tmp_path / "split.data").unlink()
    assert "split.data" in run("export gradcam split.onnx -o out.onnx")
    assert "split.data" in run("inspect split.onnx")
