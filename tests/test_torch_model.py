"""From torch: how a module is exported, what is refused, and that it is left as it was."""

import copy
import subprocess
import sys
from collections import UserDict
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import small_nets
import torch
from torch import nn
from torch.nn import functional

import exporters
from exporters import torch_model
from exporters.module_path import SCOPES
from exporters.torch_export import as_onnx
from exporters.torch_model.attempts import ATTEMPTS, attempt, attention
from exporters.torch_model.state import quiet
from exporters.torch_model.to_onnx import STACK_TRACE
from exporters.torch_model.values import TOLERANCE, distance
from exporters.verify import verify
from xai_onnx.errors import InputShapeError, OutputFileError, TargetLayerError, TorchExportError

DYNAMO, MATH, EAGER, SCRIPT = ATTEMPTS
IMAGE = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Convolution, a step on its positions as tokens [B, 16, 16], mean, Linear."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 4, 4)
        self.relu = nn.ReLU(inplace=True)
        self.unused = nn.ReLU()
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(16, 5)

    def step(self, tokens):
        return tokens

    def forward(self, x):
        x = self.drop(self.relu(self.conv(x)))
        return self.fc(self.step(x.flatten(2).transpose(1, 2)).mean(1))


class Attention3d(Net):
    """torch's exporter knows scaled_dot_product_attention of four axes only."""

    def step(self, tokens):
        return functional.scaled_dot_product_attention(tokens, tokens, tokens)


class DataDependent(Net):
    """torch.export can't follow the branch; tracing takes the one that the example took."""

    def step(self, tokens):
        return 2 * tokens if tokens.abs().sum() > 0 else tokens


class FrozenBatch(Net):
    """Adds the batch size as Python's number, which tracing takes for a constant."""

    def step(self, tokens):
        return tokens + float(tokens.shape[0])


class Returns(Net):
    """Gives its scores as `wrap` makes them."""

    def __init__(self, wrap):
        super().__init__()
        self.wrap = wrap

    def forward(self, x):
        return self.wrap(super().forward(x))


def made(kind, *arguments):
    torch.manual_seed(0)
    return kind(*arguments)


def only(*ways):
    return {way: ATTEMPTS[way] for way in ways}


@pytest.fixture(scope="module")
def exported():
    return torch_model.export(made(Net), IMAGE)


class TestAttempts:
    def test_the_first_is_taken_where_it_works(self, exported):
        assert exported.exporter == DYNAMO == "dynamo, opset 20"
        assert exported.summary == exported.exporter
        assert exported.failures == ()
        assert exported.model.graph.opset_imports[""] == 20
        assert exported.name == "Net"

    def test_attention_of_three_axes_becomes_matrix_products(self):
        exported = torch_model.export(made(Attention3d), IMAGE)
        assert exported.exporter == EAGER
        assert [way for way, _ in exported.failures] == [DYNAMO, MATH]
        assert all("only 4D query" in why for _, why in exported.failures)
        assert functional.scaled_dot_product_attention is not attention

    def test_the_second_restricts_attention_to_the_math_backend(self, monkeypatch):
        seen = []

        def write(*_):
            seen.append(torch.nn.attention._cur_sdpa_kernel_backends())

        monkeypatch.setattr("exporters.torch_model.attempts.dynamo", write)
        before = torch.nn.attention._cur_sdpa_kernel_backends()
        ATTEMPTS[MATH](made(Net), (IMAGE,), ["x"], "scores", None)
        assert seen == [[torch.nn.attention.SDPBackend.MATH]]
        assert torch.nn.attention._cur_sdpa_kernel_backends() == before

    def test_tracing_comes_last(self, capfd):
        exported = torch_model.export(made(DataDependent), IMAGE)
        assert exported.exporter == SCRIPT == "TorchScript, opset 18"
        assert [way for way, _ in exported.failures] == [DYNAMO, MATH, EAGER]
        assert all("data-dependent" in why for _, why in exported.failures)
        assert all("\n" not in why for _, why in exported.failures)
        assert capfd.readouterr() == ("", "")

    def test_where_all_fail_each_says_why(self):
        with pytest.raises(TorchExportError) as caught:
            torch_model.export(made(FrozenBatch), IMAGE)
        message = str(caught.value)
        assert message.startswith("FrozenBatch: torch can't export it to ONNX with a free batch")
        assert all(way in message for way in ATTEMPTS)
        assert message.endswith("or give an .onnx file")

    def test_a_model_that_gives_something_else_is_not_taken(self):
        def wrong(module, *arguments):
            changed = copy.deepcopy(module)
            changed.fc.bias.data += 1e-3
            ATTEMPTS[DYNAMO](changed, *arguments)

        exported = torch_model.export(made(Net), IMAGE, attempts={"wrong": wrong, **only(DYNAMO)})
        (failure,) = exported.failures
        assert failure == ("wrong", "the outputs of the ONNX model are not those of the module")

    def test_no_two_of_one_name(self):
        with pytest.raises(ValueError, match="two ways"):
            attempt(DYNAMO)(ATTEMPTS[DYNAMO])


@pytest.mark.parametrize("way", [DYNAMO, EAGER, SCRIPT])
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_it_gives_what_the_module_gives_at_every_batch_size(way, batch):
    net = made(Attention3d if way == EAGER else Net).eval()
    exported = torch_model.export(net, IMAGE, attempts=only(way))
    assert exported.difference <= TOLERANCE
    images = torch.randn(batch, 3, 16, 16)
    session = torch_model.to_onnx.ort.open_model(exported.model, "m")
    (given,) = session.run(["scores"], {"x": images.numpy()})
    with torch.no_grad():
        assert distance(given, net(images).numpy()) <= TOLERANCE


@pytest.mark.parametrize("way", [DYNAMO, SCRIPT])
def test_the_module_is_left_as_it_was(way):
    net = made(small_nets.MobileNetV2).train()
    net.features[0].eval()
    net.features[1].requires_grad_(False)
    net.features[0][2].inplace = True
    state = copy.deepcopy(net.state_dict())
    kept = [
        (part.training, getattr(part, "inplace", None), len(part._forward_hooks), dict(vars(part)))
        for part in net.modules()
    ]
    grads = [weight.requires_grad for weight in net.parameters()]
    random = torch.random.get_rng_state()
    exported = torch_model.export(net, small_nets.images(1), attempts=only(way))
    torch_model.layer(exported, "features.2")
    assert kept == [
        (part.training, getattr(part, "inplace", None), len(part._forward_hooks), dict(vars(part)))
        for part in net.modules()
    ]
    assert [weight.requires_grad for weight in net.parameters()] == grads
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), random)
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_module_that_fails_is_left_as_it_was():
    net = made(Net).train()
    with pytest.raises(TorchExportError, match=r"^Net: can't run on the example input \[2, 4, 16"):
        torch_model.export(net, torch.zeros(1, 4, 16, 16))
    assert net.training
    assert net.relu.inplace
    assert net.relu.training


class TestOutputs:
    @pytest.mark.parametrize(
        ("wrap", "name"),
        [
            (lambda scores: {"loss": None, "logits": scores}, "logits"),
            (lambda scores: UserDict(logits=scores), "logits"),
            (lambda scores: SimpleNamespace(logits=scores), "logits"),
            (lambda scores: (scores, scores * 2), "scores"),
            (lambda scores: [scores], "scores"),
        ],
    )
    def test_the_scores_alone_come_out(self, wrap, name):
        net = made(Returns, wrap)
        exported = torch_model.export(net, IMAGE)
        (output,) = exported.model.graph.outputs
        assert output.name == name
        assert type(net) is Returns
        assert torch_model.layer(exported, "relu") == "relu"  # no prefix of a wrapper

    def test_a_dictionary_without_logits_is_refused(self):
        with pytest.raises(TorchExportError, match="gives a dict with out, aux; wrap it"):
            torch_model.export(made(Returns, lambda scores: {"out": scores, "aux": 0}), IMAGE)

    def test_something_else_is_refused(self):
        with pytest.raises(TorchExportError, match="gives a str; wrap it"):
            torch_model.export(made(Returns, str), IMAGE)


class TestExample:
    def test_names_come_from_forward(self, exported):
        assert [value.name for value in exported.model.graph.inputs] == ["x"]

    @pytest.mark.parametrize(("size", "shape"), [(16, (2, 3, 16, 16)), ((16, 32), (2, 3, 16, 32))])
    def test_the_size_may_come_from_a_config(self, size, shape):
        net = made(Net)
        net.config = SimpleNamespace(image_size=size)
        exported = torch_model.export(net)
        assert exported.inputs[0].shape == shape
        assert exported.summary == (
            f"{DYNAMO}; example input: noise {list(shape)}, the size in the module's config"
        )

    def test_where_there_is_none_it_is_asked_for(self):
        with pytest.raises(InputShapeError, match=r"Net: an example input is needed: .*--input"):
            torch_model.export(made(Net))

    @pytest.mark.parametrize("example", [(), ("x",), torch.tensor(1.0)])
    def test_other_things_are_none(self, example):
        with pytest.raises(InputShapeError, match="must be a tensor"):
            torch_model.export(made(Net), example)

    def test_noise_is_of_the_modules_type(self):
        assert torch_model.noise(made(Net).double(), (1, 3, 2, 2)).dtype == torch.float64

    def test_bfloat16_is_refused(self):
        with pytest.raises(TorchExportError, match=r"bfloat16.*\.float\(\)"):
            torch_model.export(made(Net).bfloat16(), IMAGE.bfloat16())

    def test_float16(self):
        net = made(Net).half()
        assert torch_model.export(net, IMAGE.half()).difference <= 1e-2


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"is_causal": True},
        {"scale": 0.3},
        {"scale": 0.0},
        {"attn_mask": torch.rand(6, 6, generator=torch.Generator().manual_seed(1)) > 0.4},
        {"attn_mask": torch.randn(6, 6, generator=torch.Generator().manual_seed(1))},
        {"enable_gqa": True},
    ],
    ids=lambda options: next(iter(options), "plain"),
)
def test_attention_is_torchs(options):
    """Two orders of summing, in float64."""
    torch.manual_seed(0)
    query = torch.randn(2, 4, 6, 8, dtype=torch.float64)
    heads = 2 if "enable_gqa" in options else 4
    key, value = torch.randn(2, 2, heads, 6, 8, dtype=torch.float64)
    mask = options.get("attn_mask")
    if mask is not None:
        mask = mask.clone() if mask.dtype == torch.bool else mask.double()
        mask[:, 0] = 1  # a row without any key would be NaN
        options = {"attn_mask": mask}
    wanted = functional.scaled_dot_product_attention(query, key, value, **options)
    np.testing.assert_allclose(attention(query, key, value, **options), wanted, atol=1e-14)


class TestLayer:
    def test_by_path_and_by_the_module_itself(self, exported):
        assert torch_model.layer(exported, "relu") == "relu"
        assert torch_model.layer(exported, exported.module.relu) == "relu"

    def test_other_names_are_onnx_values(self, exported):
        assert torch_model.layer(exported, "transpose") == "transpose"
        assert torch_model.layer(exported, "node_relu") == "node_relu"

    @pytest.mark.parametrize(
        ("target", "message"),
        [
            ("drop", r"^Net: module 'drop' \(Dropout\): has no value of its own in the ONNX graph"),
            ("unused", "is called never; take a module that is called once"),
            ("reluu", "no module 'reluu', nor an ONNX value of that name; did you mean 'relu'"),
            (nn.ReLU(), "target layer ReLU is no part of Net"),
        ],
    )
    def test_refused(self, exported, target, message):
        with pytest.raises(TargetLayerError, match=message):
            torch_model.layer(exported, target)

    def test_called_twice_is_ambiguous(self):
        class Twice(Net):
            def step(self, tokens):
                return self.relu(tokens - 0.1)

        exported = torch_model.export(made(Twice), IMAGE)
        with pytest.raises(TargetLayerError, match="is called 2 times, which makes it ambiguous"):
            torch_model.layer(exported, "relu")

    @pytest.mark.parametrize("way", [DYNAMO, SCRIPT])
    @pytest.mark.parametrize("name", ["resnet_basic", "mobilenet_v3"])
    def test_it_holds_what_the_module_gives(self, name, way):
        net, image = small_nets.build(name), small_nets.images(2)
        exported = torch_model.export(net, image, attempts=only(way))
        activations, _ = small_nets.activations_and_gradient(net, image, torch.zeros(2).long())
        value = torch_model.layer(exported, net.target)
        found = {v.name: v for node in exported.model.graph for v in node.outputs}[value]
        given = torch_model.target._at(exported, found)
        assert distance(given, activations) <= TOLERANCE


@pytest.fixture(scope="module")
def net():
    return small_nets.build("resnet_basic").train()


@pytest.fixture(scope="module")
def folder(net, tmp_path_factory):
    """The module explained at layer2, its plain model kept."""
    folder = tmp_path_factory.mktemp("torch")
    exported = exporters.from_torch(net, small_nets.images(1))
    exported.save(folder / "plain.onnx")
    exporters.export_gradcam(exported, folder / "explained.onnx", target_layer="layer2")
    return folder


class TestExplained:
    def test_it_is_verified_against_the_plain_model(self, folder):
        checks = verify(folder / "explained.onnx", folder / "plain.onnx")
        assert [check for check in checks if not check.passed] == []

    def test_a_module_and_its_export_give_the_same_file(self, net, folder, tmp_path):
        manifest = exporters.export_gradcam(
            net, tmp_path / "e.onnx", example_input=small_nets.images(1), target_layer=net.layer2
        )
        assert (tmp_path / "e.onnx").read_bytes() == (folder / "explained.onnx").read_bytes()
        assert manifest.source_sha256 == exporters.source.read(folder / "plain.onnx").sha256

    def test_the_plain_file_takes_the_path_too(self, folder, tmp_path):
        exporters.export_gradcam(folder / "plain.onnx", tmp_path / "e.onnx", target_layer="layer2")
        assert (tmp_path / "e.onnx").read_bytes() == (folder / "explained.onnx").read_bytes()

    def test_what_is_noted_stays_behind(self, folder):
        """The plain model keeps module paths, neither where sources lie; the explained nothing."""
        plain = onnx.load(folder / "plain.onnx").graph.node
        keys = {entry.key for node in plain for entry in node.metadata_props}
        assert SCOPES in keys
        assert STACK_TRACE not in keys
        for name in ("plain", "explained"):
            assert b"site-packages" not in (folder / f"{name}.onnx").read_bytes()
        explained = onnx.load(folder / "explained.onnx").graph
        assert not any(node.metadata_props or node.doc_string for node in explained.node)
        assert not explained.metadata_props

    def test_a_fallback_is_said(self, tmp_path):
        with pytest.warns(UserWarning, match=f"exported by {EAGER}, after {DYNAMO}: only 4D"):
            exporters.export_gradcam(
                made(Attention3d), tmp_path / "e.onnx", example_input=IMAGE, target_layer="relu"
            )

    def test_an_example_without_a_module(self, tiny, tmp_path):
        with pytest.raises(InputShapeError, match="the model is no torch module"):
            exporters.export_gradcam(tiny, tmp_path / "e.onnx", example_input=IMAGE)

    def test_a_layer_without_a_module(self, tiny, tmp_path):
        with pytest.raises(TargetLayerError, match="target layer ReLU is a torch module"):
            exporters.export_gradcam(tiny, tmp_path / "e.onnx", target_layer=nn.ReLU())

    def test_several_layers(self, net):
        exported = exporters.from_torch(net, small_nets.images(1))
        _, names = as_onnx(exported, None, ["layer1", net.layer2])
        assert names == [torch_model.layer(exported, name) for name in ("layer1", "layer2")]

    def test_a_plain_model_is_an_onnx_file(self, exported, tmp_path):
        with pytest.raises(OutputFileError, match="name it so"):
            exported.save(tmp_path / "plain.pt")


def test_quiet_is_over_afterwards(capfd):
    with quiet():
        print("nothing")
        subprocess.run([sys.executable, "-c", "print('nothing')"], check=True)
    print("something")
    assert capfd.readouterr().out == "something\n"


@pytest.mark.parametrize("package", ["torch", "onnxscript"])
def test_without_torch_it_says_what_to_install(package):
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "import exporters\nfrom xai_onnx.errors import DependencyError\n"
        "class Module:\n    named_modules = state_dict = None\n"
        "try:\n    exporters.from_torch(Module())\n"
        "except DependencyError as error:\n    print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == f"{package} is missing: pip install 'xai-onnx[torch]'\n"
