"""What is built into the file: names, shapes, options."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from other_nets import channels_last_net, vision_transformer
from tiny_net import SIZE, tensors, tiny_net

import xai_onnx
from exporters.explained import build
from exporters.seed import TARGETS
from xai_onnx.errors import (
    MethodError,
    PreprocessError,
    TargetError,
    TargetLayerError,
)
from xai_onnx.recipe import parse


def declared(path):
    """Shapes of inputs and outputs as the file says."""
    graph = onnx.load(path).graph
    return {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }


class TestDeclarations:
    def test_the_contract(self, export):
        assert declared(export(tiny_net())) == {
            "image": ["batch", 3, 32, 32],
            "class_index": ["batch", "K"],
            "logits": ["batch", 5],
            "activations": ["batch", 16, 8, 8],
            "cam": ["batch", "K", 8, 8],
            "saliency_map": ["batch", "K", 32, 32],
        }

    def test_free_sizes(self, export):
        found = declared(export(tiny_net(batch="n", size="side")))
        assert found["class_index"] == ["n", "K"]
        assert found["activations"] == ["n", 16, "h", "w"]
        assert found["cam"] == ["n", "K", "h", "w"]
        assert found["saliency_map"] == ["n", "K", "H", "W"]

    def test_a_fixed_batch(self, export):
        found = declared(export(tiny_net(batch=4)))
        assert found["class_index"] == [4, "K"]
        assert found["saliency_map"] == [4, "K", 32, 32]

    def test_classes_chosen_by_the_file(self, export):
        found = declared(export(tiny_net(), targets="predicted", top_k=3, saliency_map=False))
        assert list(found) == ["image", "logits", "activations", "cam"]
        assert found["cam"] == ["batch", 3, 8, 8]

    def test_a_layer_that_the_score_takes_steps_from_is_refused(self, export):
        tail = [helper.make_node("Round", ["features"], ["tail"])]
        with pytest.raises(TargetLayerError, match=r"'logits' doesn't change with .*'features'"):
            export(tiny_net(tail=tail), target_layer="features")

    def test_a_target_layer_that_is_an_output_already_keeps_its_name(self, export):
        more = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", 16, 8, 8])
        path = export(tiny_net(extra_outputs=[more]))
        names = ["image", "class_index", "logits", "features", "cam", "saliency_map"]
        assert list(declared(path)) == names
        assert xai_onnx.load(path).manifest.activations == ("features",)
        assert xai_onnx.load(path).explain(tensors(1), preprocessed=True)[0].cam.shape == (8, 8)

    def test_names_that_the_model_uses_get_a_suffix(self, export):
        """Every name of the contract is taken: by values, by a node, by an initializer."""
        model = tiny_net()
        renamed = {"c1": "activations", "early": "cam", "w2": "saliency_map", "b1": "class_index"}
        for node in model.graph.node:
            for names in (node.input, node.output):
                names[:] = [renamed.get(name, name) for name in names]
        for tensor in model.graph.initializer:
            tensor.name = renamed.get(tensor.name, tensor.name)
        path = export(model)
        manifest = xai_onnx.load(path).manifest
        assert manifest.class_index == "class_index_2"
        assert manifest.activations == ("activations_2",)
        assert manifest.cam == "cam_2"
        assert manifest.saliency_map == "saliency_map_2"
        assert {manifest.class_index, manifest.cam} < set(declared(path))
        plain = xai_onnx.load(export(tiny_net(), "plain.onnx"))
        found = xai_onnx.load(path).explain(tensors(2), 1, preprocessed=True)
        expected = plain.explain(tensors(2), 1, preprocessed=True)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a.saliency_map, b.saliency_map)

    @pytest.mark.parametrize("axes", [[2, 3], [1, 2], [1]])
    def test_scores_with_axes_of_size_one(self, export, axes):
        """[B, N, 1, 1], as fully convolutional classifiers end; chosen by index and by rank."""
        model = tiny_net(arrays={"axes": np.array(axes)})
        model.graph.node.append(helper.make_node("Unsqueeze", ["logits", "axes"], ["maps"]))
        shape = ["batch", *(1 if axis in axes else 5 for axis in range(1, 2 + len(axes)))]
        del model.graph.output[:]
        model.graph.output.append(helper.make_tensor_value_info("maps", TensorProto.FLOAT, shape))
        assert len(shape) == 2 + len(axes)
        flat = xai_onnx.load(export(tiny_net(), "flat.onnx"))
        for options in ({}, {"targets": "predicted", "top_k": 2}):
            wide = xai_onnx.load(export(model, **options))
            found = wide.explain(tensors(2), preprocessed=True)
            expected = flat.explain(tensors(2), preprocessed=True)
            for a, b in zip(found, expected, strict=True):
                best = a[0] if options else a
                assert best.target == b.target
                np.testing.assert_allclose(best.cam, b.cam, rtol=1e-5, atol=1e-6)


class TestOtherLayouts:
    """Tokens and channels-last maps, against torch.autograd on the operators behind them."""

    CLASSES = np.array([[1, 4], [0, 2]])

    @staticmethod
    def weights(net):
        return {
            t.name: torch.tensor(numpy_helper.to_array(t).astype(np.float64))
            for t in net.graph.initializer
            if t.data_type == TensorProto.FLOAT
        }

    def assert_maps(self, export, net, layer, raw, tail, view):
        """CAMs of the file, for `tail` from the raw values of the layer, `view`ed as a map."""
        feed = {"image": tensors(2), "class_index": self.CLASSES}
        before = self.raw(net, raw, feed["image"])
        for method in ("gradcam", "hirescam"):
            path = export(net, method=method, target_layer=layer)
            session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            activations, cam = session.run(["activations", "cam"], feed)
            np.testing.assert_allclose(activations, view(before[layer]), rtol=1e-6, atol=1e-6)
            for b, k in np.ndindex(2, 2):
                values = {name: torch.tensor(a[b : b + 1]) for name, a in before.items()}
                values[layer].requires_grad_()
                tail(values, self.weights(net))[0, self.CLASSES[b, k]].backward()
                a, g = (view(x)[0] for x in (before[layer][b : b + 1], values[layer].grad.numpy()))
                terms = g * a if method == "hirescam" else g.mean((1, 2), keepdims=True) * a
                scale = np.abs(terms).sum(0).max()
                expected = np.maximum(terms.sum(0), 0)
                np.testing.assert_allclose(cam[b, k], expected, rtol=0, atol=1e-5 * scale)

    @staticmethod
    def raw(net, names, image):
        """Values of the plain model, in float64."""
        plain = onnx.ModelProto()
        plain.CopyFrom(net)
        known = onnx.shape_inference.infer_shapes(plain).graph.value_info
        plain.graph.output.extend(value for value in known if value.name in names)
        session = onnxruntime.InferenceSession(plain.SerializeToString())
        found = session.run(list(names), {"image": image})
        return {name: array.astype(np.float64) for name, array in zip(names, found, strict=True)}

    @pytest.mark.parametrize("class_token", [True, False])
    def test_tokens(self, export, class_token):
        def tail(values, w):
            x = values["norm1"]
            q, k, v = (x @ w[f"{name}1w"] for name in "qkv")
            attended = torch.softmax(q @ k.transpose(1, 2), -1) @ v
            last = values["block1"] + attended
            return (last[:, 0] if class_token else last.mean(1)) @ w["head"]

        def view(x):
            return np.moveaxis(x[:, int(class_token) :], 2, 1).reshape(len(x), 8, 4, 4)

        net = vision_transformer(class_token=class_token)
        self.assert_maps(export, net, "norm1", ["norm1", "block1"], tail, view)

    def test_channels_last(self, export):
        def tail(values, w):
            mixed = torch.relu(values["last"] @ w["mix"])
            return mixed.mean((1, 2)) @ w["head"]

        net = channels_last_net()
        self.assert_maps(export, net, "last", ["last"], tail, lambda x: np.moveaxis(x, 3, 1))


class TestOptions:
    def test_an_unknown_method(self):
        with pytest.raises(MethodError, match="method 'magic' is none of gradcam"):
            build(tiny_net(), method="magic")

    def test_unknown_targets(self):
        with pytest.raises(TargetError, match="targets 'all' is none of class_index, one_class"):
            build(tiny_net(), targets="all")
        assert TARGETS == ("class_index", "one_class", "predicted", "cotangent")

    @pytest.mark.parametrize("top_k", [0, 6])
    def test_too_few_or_many_classes(self, top_k):
        with pytest.raises(TargetError, match=f"top_k={top_k}: the model has 5 classes"):
            build(tiny_net(), targets="predicted", top_k=top_k)

    def test_a_recipe_in_place_of_its_text(self):
        recipe = parse("unit", "NCHW", SIZE, SIZE)
        _, by_recipe = build(tiny_net(), preprocess=recipe)
        _, by_text = build(tiny_net(), preprocess="unit")
        assert by_recipe.preprocess == by_text.preprocess == recipe
        with pytest.raises(PreprocessError, match="contradicts the model's input"):
            build(tiny_net(), preprocess=parse("unit", "NCHW", 64, 64))

    def test_the_score_that_was_differentiated_makes_a_difference(self, export):
        maps = [
            xai_onnx.load(export(tiny_net("Softmax", gain=0.1), score=score))
            .explain(tensors(1), 2, preprocessed=True)[0]
            .cam
            for score in ("logits", "output")
        ]
        assert not np.allclose(*maps, rtol=0.1)

    def test_only_operators_of_the_default_domain_and_the_original_ones_first(self, export):
        plain, explained = tiny_net(), onnx.load(export(tiny_net()))
        assert [entry.domain for entry in explained.opset_import] == [""]
        kinds = [node.op_type for node in explained.graph.node]
        assert kinds[: len(plain.graph.node)] == [node.op_type for node in plain.graph.node]
        assert "If" not in kinds

    def test_classes_of_none_and_of_many(self, export):
        path = export(tiny_net())
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        for k in (0, 1, 3):
            feed = {"image": tensors(2), "class_index": np.full((2, k), -1)}
            assert session.run(["saliency_map"], feed)[0].shape == (2, k, 32, 32)
