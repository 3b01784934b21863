"""Torch module paths -> ONNX values by what the file notes, with forward hooks as the oracle."""

import module_paths
import numpy as np
import onnx
import onnx_ir as ir
import pytest
import small_nets
import torch
from module_paths import EXPORTERS
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from exporters import canonical, module_path, torch_model
from exporters.module_path import OPERATION, RULES, SCOPES, Modules
from xai_onnx.errors import TargetLayerError

NETS = ("densenet", "mobilenet_v3", "ConvNext", "Segformer", "ViT")


@pytest.mark.slow
@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", NETS)
def test_no_module_is_mistaken_for_another(name, exporter):
    module, image = module_paths.network(name)
    counts = module_paths.count(torch_model.export(module, image, attempts=EXPORTERS[exporter]))
    assert counts["WRONG"] == 0
    assert counts["right"] > counts["modules"] / 3
    assert counts["right"] + counts["refused"] == counts["modules"]


def test_the_benchmark_sees_a_wrong_value(monkeypatch):
    right = Modules.output

    def other(self, path):
        return right(self, "stem") if path == "layer1" else right(self, path)

    monkeypatch.setattr(Modules, "output", other)
    monkeypatch.setattr(module_paths, "EXPORTERS", {"dynamo": EXPORTERS["dynamo"]})
    assert module_paths.main(["resnet_basic"]) == 1


class Net(nn.Module):
    """A net under the path "model", with every reason to refuse."""

    def __init__(self):
        super().__init__()
        body = nn.Module()
        body.conv = nn.Conv2d(3, 8, 3, padding=1)
        body.norm = nn.BatchNorm2d(8)
        body.relu = nn.ReLU()
        body.tail = nn.Sequential(nn.Tanh(), nn.Conv2d(8, 8, 1))
        body.norm2 = nn.BatchNorm2d(8)
        body.drop = nn.Dropout()
        body.fc = nn.Linear(8, 10)
        self.model = body
        self.model.forward = self.run

    def run(self, x):
        body = self.model
        x = body.relu(body.norm(body.conv(x)))
        x = body.relu(body.norm2(body.tail(x)) - 0.1)
        return body.fc(body.drop(x).mean((2, 3)))

    def forward(self, x):
        return self.model(x)


@pytest.fixture(scope="module")
def graph():
    """`graph(exporter)`: the net's graph as that exporter writes it, canonical."""
    torch.manual_seed(0)
    net = Net().eval()
    small_nets._draw(net)
    graphs = {}

    def read(exporter):
        if exporter not in graphs:
            image = small_nets.images(2)
            model = torch_model.export(net, image, attempts=EXPORTERS[exporter]).model
            graphs[exporter] = canonical.canonicalise(model, "net").graph
        return graphs[exporter]

    return read


DYNAMO, SCRIPT, FOLDED = EXPORTERS


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_the_prefix_of_a_wrapper_may_be_left_out(graph, exporter):
    """The Tanh at the start of "tail", as long as no such module lies at the top."""
    value = module_path.resolve(graph(exporter), "model.tail.0")
    assert value is not None
    assert value.producer().op_type == "Tanh"
    assert module_path.resolve(graph(exporter), "tail.0") is value
    assert module_path.resolve(graph(exporter), "0") is None


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", ["model.tail.7", "elsewhere", "", "scores", "model."])
def test_what_is_no_module_is_none(graph, exporter, name):
    assert module_path.resolve(graph(exporter), name) is None


@pytest.mark.parametrize(
    ("exporter", "name", "reason"),
    [
        (DYNAMO, "model.conv", "nothing of it is left in the graph; take 'model.norm', or see"),
        (DYNAMO, "tail", "it ends in a Conv that became part of the BatchNorm after it; take"),
        (DYNAMO, "relu", "it is called more than once"),
        (SCRIPT, "relu", r"it may be called more than once \(model.relu, model.relu_1\)"),
        (FOLDED, "conv", "it ends in a Conv into which a BatchNorm was folded, its own or another"),
        (FOLDED, "tail", "it ends in a Conv into which a BatchNorm was folded, its own or another"),
    ],
)
def test_refused(graph, exporter, name, reason):
    with pytest.raises(TargetLayerError, match=f"^module '{name}': {reason}"):
        module_path.resolve(graph(exporter), name)


def test_with_batchnorm_apart_the_conv_has_its_own_value(graph):
    conv, norm = (module_path.resolve(graph(SCRIPT), name) for name in ("conv", "norm"))
    assert conv.producer().op_type == "Conv"
    assert norm.producer().op_type == "BatchNormalization"


def node(op_type, inputs, output, scopes="", operation="", rules="", name="", **attributes):
    """A node as the new exporter writes it; scopes are separated by blanks."""
    made = helper.make_node(op_type, inputs, [output], name or output, **attributes)
    noted = {SCOPES: repr(["", *scopes.split(), output]), OPERATION: operation, RULES: rules}
    for key, value in noted.items():
        if value:
            made.metadata_props.add(key=key, value=value)
    return made


def modules(*nodes):
    info = helper.make_tensor_value_info
    image = info("image", TensorProto.FLOAT, ["b", 4, 8, 8])
    w = numpy_helper.from_array(np.eye(4, dtype=np.float32)[:, :, None, None], "a.conv.weight")
    scores = info("y", TensorProto.FLOAT, None)
    proto = helper.make_model(helper.make_graph(nodes, "g", [image], [scores], [w]))
    return Modules(ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(proto)).graph)


def fx(name, *read):
    return f"%{name} : [num_users=1] = call_function[target=f](args = ({', '.join(read)},))"


class TestTheBorder:
    """What lies between a module's last node and the node that reads it."""

    def test_one_value_read_outside(self):
        found = modules(
            node("Relu", ["image"], "r", "a"), node("Tanh", ["r"], "y", operation=fx("y", "%r"))
        ).output("a")
        assert found.value.name == "r"
        assert found.doubt == ""

    def test_a_tensor_that_is_only_passed_on(self):
        found = modules(
            node("Relu", ["image"], "r", "a"), node("Tanh", ["r"], "y", operation=fx("y", "%clone"))
        ).output("a")
        assert found.doubt == ""

    def test_a_transpose_that_is_gone(self):
        found = modules(
            node("Relu", ["image"], "r", "a"),
            node("Tanh", ["r"], "y", "b", operation=fx("y", "%permute_3")),
        ).output("a")
        assert found.doubt == "its output may be gone: 'y' reads 'r', in torch 'permute_3'"

    def test_a_node_that_was_rewritten_must_read_it_by_name(self):
        reader = node("Tanh", ["r"], "y", operation=fx("y", "%clone_2"), rules="TransposeTranspose")
        found = modules(node("Relu", ["image"], "r", "a"), reader).output("a")
        assert found.doubt.startswith("its output may be gone")

    def test_two_values_read_outside(self):
        found = modules(
            node("Relu", ["image"], "r", "a"),
            node("Tanh", ["r"], "t", "a"),
            node("Add", ["r", "t"], "y", operation=fx("y", "%r", "%t")),
        ).output("a")
        assert found.doubt == "several of its values are read outside: 'r', 't'"

    def test_reading_the_sizes_is_none(self):
        found = modules(
            node("Relu", ["image"], "r", "a"),
            node("Shape", ["r"], "s"),
            node("Tanh", ["r"], "t", "a"),
            node("Reshape", ["t", "s"], "y", operation=fx("y", "%t")),
        ).output("a")
        assert found.value.name == "t"
        assert found.doubt == ""

    def test_unless_they_are_all_that_is_read_of_the_last(self):
        found = modules(
            node("Relu", ["image"], "r", "a"),
            node("Tanh", ["r"], "t", "a"),
            node("Shape", ["t"], "s"),
            node("Reshape", ["r", "s"], "y", operation=fx("y", "%r")),
        ).output("a")
        assert found.doubt == "several of its values are read outside: 'r', 't'"

    def test_an_output_of_the_model_keeps_its_operation(self):
        """Its name is one that the user gave."""
        last = node("Relu", ["image"], "y", "a")
        found = modules(last).output("a")
        assert found.value.name == "y"
        assert found.doubt == ""

    def test_scripted_layouts_are_doubted(self):
        perm = [0, 2, 3, 1]
        first = helper.make_node("Transpose", ["image"], ["t"], "/a/Transpose", perm=perm)
        second = helper.make_node("Relu", ["t"], ["r"], "/a/Relu")
        last = helper.make_node("Tanh", ["r"], ["y"], "/Tanh")
        found = modules(first, second, last).output("a")
        assert found.doubt == "a Transpose at its end may have been merged with one behind it"


def test_scripted_names_are_paths():
    names = {
        "/layer1/layer1.0/conv/Conv": ("layer1", "layer1.0", "layer1.0.conv"),
        "/net/blocks.0/body/body.1/Relu": (
            *("net", "net.blocks.0", "net.blocks.0.body", "net.blocks.0.body.1"),
        ),
        "/f/f.0/f.0.1/Relu": ("f", "f.0", "f.0.1"),
        "/Add": (),
        "model/conv/Conv2D": (),  # as another exporter names it
    }
    for name, paths in names.items():
        assert module_path._noted(ir.Node("", "Relu", [], name=name)) == paths


class TestOf:
    @pytest.mark.parametrize("exporter", EXPORTERS)
    def test_the_outermost_module(self, exporter):
        net = small_nets.build("resnet_basic")
        model = torch_model.export(net, small_nets.images(2), attempts=EXPORTERS[exporter]).model
        graph = canonical.canonicalise(model, "net").graph
        value = module_path.resolve(graph, "layer2.1.relu")
        assert module_path.of(value) == "layer2"

    def test_none_inside_a_module(self, graph):
        inner = module_path.resolve(graph(DYNAMO), "norm").consumers()[0].outputs[0]
        assert module_path.of(inner) is None  # relu, which is called twice

    def test_none_elsewhere(self, tiny):
        graph = ir.load(tiny).graph
        assert [module_path.of(value) for node in graph for value in node.outputs] == [
            None for node in graph for _ in node.outputs
        ]
        assert module_path.of(graph.inputs[0]) is None
        assert module_path.resolve(graph, "features") is None
