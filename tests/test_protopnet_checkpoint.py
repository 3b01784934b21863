"""Checkpoints: every format gives the same arrays, and nothing in a file is executed."""

import io
import os
import pickle
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from official_protopnet import BACKBONES, VGG_features, trained
from PIL import Image

import exporters
from exporters.protopnet import pickled
from exporters.protopnet.torch_file import TorchFile
from xai_onnx.errors import PrototypeError

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


@pytest.fixture(scope="module")
def model():
    return trained(BACKBONES["vgg"](), epsilon=1e-3)


def saved(content, path, *, legacy=False):
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


class TestFormats:
    @pytest.mark.parametrize("legacy", [False, True])
    def test_a_whole_module(self, model, tmp_path, legacy):
        path = saved(model, tmp_path / "10push0.8.pth", legacy=legacy)
        arrays = exporters.import_protopnet(path)
        np.testing.assert_array_equal(arrays.prototypes, model.prototype_vectors.detach().numpy())
        np.testing.assert_array_equal(arrays.weights, model.last_layer.weight.detach().numpy())
        np.testing.assert_array_equal(arrays.prototype_class, [0, 0, 1, 1, 2, 2])
        assert (arrays.epsilon, arrays.similarity, arrays.add_on) == (1e-3, "log", "regular")
        assert (arrays.preprocess.height, arrays.preprocess.shortest_side) == (32, None)
        assert arrays.notes == ()

    @pytest.mark.parametrize("legacy", [False, True])
    @pytest.mark.parametrize("parallel", [False, True])
    def test_a_state_dict(self, model, tmp_path, legacy, parallel):
        state = model.state_dict()
        if parallel:
            state = {f"module.{name}": tensor for name, tensor in state.items()}
        path = saved(state, tmp_path / "weights.pth", legacy=legacy)
        arrays = exporters.import_protopnet(path, image_size=32)
        whole = exporters.import_protopnet(saved(model, tmp_path / "whole.pth"))
        for name in ("prototypes", "prototype_class", "weights"):
            np.testing.assert_array_equal(getattr(arrays, name), getattr(whole, name))
        assert "largest weight of the last layer" in arrays.notes[1]

    @pytest.mark.parametrize("legacy", [False, True])
    def test_every_tensor_bit_for_bit(self, tmp_path, legacy):
        rng = torch.Generator().manual_seed(1)
        base = torch.rand(6, 5, generator=rng)
        kinds = ("float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8")
        tensors = {k: (base * 100).to(getattr(torch, k)) for k in kinds}
        tensors |= {"bool": base > 0.5, "turned": base.T, "part": base[2:5, 1:4], "one": base[3, 2]}
        tensors |= {"empty": torch.zeros(0, 3), "scalar": torch.tensor(1.5)}
        tensors["parameter"] = torch.nn.Parameter(base)
        file = TorchFile(saved(tensors, tmp_path / "t.pth", legacy=legacy))
        assert set(file.content) == set(tensors)
        for name, tensor in tensors.items():
            expected = tensor.detach()
            expected = expected.float() if expected.dtype == torch.bfloat16 else expected
            np.testing.assert_array_equal(file.array(file.content[name]), expected.numpy())

    def test_a_module_in_data_parallel(self, model, tmp_path):
        arrays = exporters.import_protopnet(
            saved(torch.nn.DataParallel(model), tmp_path / "parallel.pth")
        )
        assert arrays.epsilon == 1e-3
        np.testing.assert_array_equal(arrays.weights, model.last_layer.weight.detach().numpy())

    def test_torch_is_not_loaded(self, model, tmp_path):
        path = saved(model, tmp_path / "whole.pth")
        code = (
            "import sys; sys.modules['torch'] = None\n"
            "import exporters\n"
            f"arrays = exporters.import_protopnet({str(path)!r})\n"
            f"exporters.export_protopnet(arrays, {str(tmp_path / 'x.onnx')!r})\n"
            "print([name for name in ('torch', 'official_protopnet') if sys.modules.get(name)])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stdout == "[]\n", done.stderr


class TestRefused:
    @pytest.mark.parametrize(
        ("name", "content", "words"),
        [
            ("10nopush0.7.pth", "module", "is a nopush checkpoint"),
            ("text.pth", b"hello", "is not a file of torch.save"),
            ("empty.pth", b"", "can't be read"),
            ("a.pth", {"a": torch.zeros(2)}, r"has no prototype_vectors of 4 axes"),
            ("list.pth", [1, 2], "holds a list, neither module nor weights"),
            ("pickle.pth", pickle.dumps({"a": 1}, 2), "cut short|damaged|not one of torch"),
        ],
    )
    def test_what_is_no_checkpoint(self, model, tmp_path, name, content, words):
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            saved(model if content == "module" else content, path)
        with pytest.raises(PrototypeError, match=words) as error:
            exporters.import_protopnet(path)
        assert str(path) in str(error.value)

    def test_nopush_forced(self, model, tmp_path):
        path = saved(model, tmp_path / "10nopush0.7.pth")
        assert len(exporters.import_protopnet(path, force=True).prototypes) == 6

    def test_missing(self, tmp_path):
        with pytest.raises(PrototypeError, match="No such file"):
            exporters.import_protopnet(tmp_path / "none.pth")

    def test_another_picture_size(self, model, tmp_path):
        with pytest.raises(PrototypeError, match="trained on pictures of 32 pixels, not 64"):
            exporters.import_protopnet(saved(model, tmp_path / "m.pth"), image_size=64)

    def test_a_similarity_of_its_own(self, tmp_path):
        other = trained(BACKBONES["vgg"]())
        other.prototype_activation_function = torch.nn.functional.relu
        with pytest.raises(PrototypeError, match=r"a function of its own, .*relu"):
            exporters.import_protopnet(saved(other, tmp_path / "m.pth"))

    @pytest.mark.parametrize("legacy", [False, True])
    def test_cut_short_anywhere(self, model, tmp_path, legacy):
        whole = saved(model, tmp_path / "whole.pth", legacy=legacy).read_bytes()
        path = tmp_path / "short.pth"
        for length in range(1, len(whole) - 1, len(whole) // 40):
            path.write_bytes(whole[:length])
            with pytest.raises(PrototypeError):
                exporters.import_protopnet(path)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("inside", [False, True])
def test_spoilt_bytes_are_refused_or_read(tmp_path, legacy, inside):
    """Whatever bytes change: arrays, or one line; `inside`: in the pickle, the zip kept whole."""
    small = trained(VGG_features((2, "M")), channels=2, num_classes=2, each=1)
    whole = saved(small, tmp_path / "whole.pth", legacy=legacy).read_bytes()
    rng, path, refused = np.random.default_rng(0), tmp_path / "spoilt.pth", 0
    for _ in range(150):
        if inside and not legacy:
            stream = io.BytesIO()
            with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(stream, "w") as new:
                for entry in old.infolist():
                    content = bytearray(old.read(entry))
                    if entry.filename.endswith("data.pkl"):
                        spoil(content, rng)
                    new.writestr(entry.filename, bytes(content))
            path.write_bytes(stream.getvalue())
        else:
            content = bytearray(whole)
            spoil(content, rng, len(content) // 2 if inside else None)
            path.write_bytes(content)
        said = ""
        try:
            exporters.import_protopnet(path, image_size=32)
        except PrototypeError as error:
            said = str(error)
        assert "\n" not in said
        assert len(said) < 1000
        refused += bool(said)
    assert refused > 20


def spoil(content, rng, end=None):
    for _ in range(rng.integers(1, 6)):
        content[rng.integers(end or len(content))] = rng.integers(256)


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


def attacks(mark):
    return {
        "os.system": Call(os.system, f"touch {mark}"),
        "in a dict": {"a": [1, Call(os.system, f"touch {mark}")]},
        "eval": Call(eval, f"open({str(mark)!r}, 'w')"),
        "getattr": Call(getattr, "x", "upper"),
        "OrderedDict of a call": OrderedDict(a=Call(os.system, f"touch {mark}")),
        "subprocess": Call(subprocess.Popen, ["touch", str(mark)]),
        "torch.load": Call(torch.load, str(mark)),
        "exec": Call(exec, f"open({str(mark)!r}, 'w')"),
    }


ATTACKS = list(attacks(""))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", ATTACKS)
def test_a_malicious_pickle_is_refused(tmp_path, name, legacy):
    mark = tmp_path / "executed"
    path = saved({"w": attacks(mark)[name], "t": torch.zeros(3)}, tmp_path / "m", legacy=legacy)
    with pytest.raises(PrototypeError, match=r"calls .*refused, and nothing of it was executed"):
        exporters.import_protopnet(path)
    assert not mark.exists()


@pytest.mark.parametrize("where", ["magic", "protocol", "system", "object", "keys"])
def test_a_malicious_pickle_in_each_part_of_a_legacy_file(tmp_path, where):
    mark, parts = tmp_path / "executed", ["magic", "protocol", "system", "object", "keys"]
    contents = dict(zip(parts, [MAGIC, PROTOCOL, {"little_endian": True}, {}, []], strict=True))
    contents[where] = Call(os.system, f"touch {mark}")
    path = tmp_path / "m.pth"
    path.write_bytes(b"".join(pickle.dumps(contents[part], 2) for part in parts))
    with pytest.raises(PrototypeError, match=r"system.*refused"):
        exporters.import_protopnet(path)
    assert not mark.exists()


class Stored:
    """Pickles as a persistent id."""

    def __init__(self, identity):
        self.identity = identity


class Pickler(pickle.Pickler):
    def persistent_id(self, item):
        return item.identity if isinstance(item, Stored) else None


class Global:
    """Pickles as the global torch.FloatStorage."""

    def __reduce__(self):
        return "FloatStorage"


def forged(path, content, storages, *, legacy, compression=zipfile.ZIP_STORED):
    """A file of torch.save with whatever in it; `storages`: key -> bytes, or (length, bytes)."""
    stream = io.BytesIO()
    pickler = Pickler(stream, 2)
    pickler.dispatch_table = {}
    pickler.dump(content)
    if not legacy:
        with zipfile.ZipFile(path, "w", compression) as archive:
            archive.writestr("m/data.pkl", stream.getvalue())
            for key, raw in storages.items():
                archive.writestr(f"m/data/{key}", raw)
        return path
    head = [pickle.dumps(part, 2) for part in (MAGIC, PROTOCOL, {})]
    tail = [struct.pack("<q", len(raw) // 4) + raw for raw in storages.values()]
    keys = pickle.dumps(list(storages), 2)
    path.write_bytes(b"".join([*head, stream.getvalue(), keys, *tail]))
    return path


def tensor(length, offset, size, strides, view=None, key="0"):
    """A tensor over a storage of `length` floats, as torch pickles one."""
    identity = ("storage", torch.FloatStorage, key, "cpu", length)
    identity += (view,) if view is not None else ()
    arguments = (Stored(identity), offset, size, strides, False, OrderedDict())
    return Call(torch._utils._rebuild_tensor_v2, *arguments)


BAD_TENSORS = {
    "offset beyond": tensor(4, 4, (1,), (1,)),
    "size beyond": tensor(4, 0, (5,), (1,)),
    "stride beyond": tensor(4, 0, (2, 2), (3, 1)),
    "negative stride": tensor(4, 3, (4,), (-1,)),
    "negative offset": tensor(4, -1, (2,), (1,)),
    "negative size": tensor(4, 0, (-1,), (1,)),
    "a size that is no number": tensor(4, 0, ("2",), (1,)),
    "a billion times the same": tensor(4, 0, (10**9,), (0,)),
    "unequal lengths": tensor(4, 0, (2, 2), (1,)),
    "too many axes": tensor(4, 0, (1,) * 40, (1,) * 40),
    "huge sides": tensor(4, 0, (2**62, 2**62), (1, 1)),
    "a storage of its own length": tensor(10**15, 0, (2,), (1,)),
    "a view beyond": tensor(4, 0, (2,), (1,), view=("v", 3, 2)),
    "beyond a view": tensor(4, 1, (2,), (1,), view=("v", 1, 2)),
    "a negative view": tensor(4, 0, (1,), (1,), view=("v", -1, 2)),
    "a call in the id": tensor(Call(os.getpid), 0, (2,), (1,)),
    "a call in the view": tensor(4, 0, (1,), (1,), view=Call(os.getpid)),
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", BAD_TENSORS)
def test_tensors_that_reach_beyond(tmp_path, name, legacy):
    path = forged(tmp_path / "m.pth", {"a": BAD_TENSORS[name]}, {"0": bytes(16)}, legacy=legacy)
    with pytest.raises(PrototypeError, match=r"m\.pth: "):
        exporters.import_protopnet(path)


@pytest.mark.parametrize("legacy", [False, True])
def test_the_forged_files_are_read_where_nothing_is_wrong(tmp_path, legacy):
    raw = np.arange(4, dtype="<f4").tobytes()
    content = {"a": tensor(4, 1, (2,), (2,), view=("v", 0, 4))}
    file = TorchFile(forged(tmp_path / "m.pth", content, {"0": raw}, legacy=legacy))
    np.testing.assert_array_equal(file.array(file.content["a"]), [1, 3])


@pytest.mark.parametrize("raw", [bytes(8), bytes(24)])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_storage_of_another_length(tmp_path, raw, legacy):
    state = {"prototype_vectors": tensor(4, 0, (1, 1, 2, 2), (4, 4, 2, 1))}
    path = forged(tmp_path / "m.pth", state, {"0": raw}, legacy=legacy)
    with pytest.raises(PrototypeError, match="storage"):
        exporters.import_protopnet(path)


def test_a_zip_bomb(tmp_path):
    """Refused by its table of contents: nothing is expanded."""
    state = {"prototype_vectors": tensor(2**24, 0, (2**24, 1, 1, 1), (1, 1, 1, 1))}
    path = forged(
        tmp_path / "m.pth",
        state,
        {"0": bytes(2**26)},
        legacy=False,
        compression=zipfile.ZIP_DEFLATED,
    )
    assert path.stat().st_size < 2**18
    tracemalloc.start()
    with pytest.raises(PrototypeError, match=r"expands to 67,1.* bytes"):
        exporters.import_protopnet(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**23


def opcodes(*parts):
    return b"\x80\x02" + b"".join(parts)


PICKLE_BOMBS = {
    "a memo of four billion places": opcodes(b"Nr\xff\xff\xff\xff0."),
    "text of four gigabytes": opcodes(b"X\xff\xff\xff\xffabc."),
    "bytes of an exabyte": opcodes(b"\x8e" + struct.pack("<Q", 2**60) + b"abc."),
    "a bytearray of an exabyte": opcodes(b"\x96" + struct.pack("<Q", 2**60) + b"abc."),
    "too many operations": opcodes(b"]" * 60_000 + b"."),
    "tuples as a key, deep": opcodes(b"}" + b")" + b"\x85" * 40_000 + b"Ns."),
    "an extension": opcodes(b"\x82\x01."),
    "out of band": opcodes(b"\x97."),
    "an old class": opcodes(b"(ios\nsystem\n."),
    "an object of the library": opcodes(b"cos\nDirEntry\n)\x81."),
    "an object of the built-ins": opcodes(b"c__builtin__\nbytearray\n)\x81."),
    "nothing on the stack": opcodes(b"."),
    "no mark": opcodes(b"Nt."),
    "a list appended to a number": opcodes(b"K\x01Na."),
    "unknown": opcodes(b"\xff."),
    "a number of a million digits": opcodes(b"I" + b"9" * 10**6 + b"\n."),
}


@pytest.mark.parametrize("name", PICKLE_BOMBS)
def test_pickle_bombs(monkeypatch, name):
    monkeypatch.setattr(pickled, "MAX_OPCODES", 50_000)  # tracing memory is slow
    content = io.BytesIO(PICKLE_BOMBS[name])
    tracemalloc.start()
    with pytest.raises(PrototypeError) as error:
        pickled.read(content, "m.pth", {}, lambda identity: None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**25
    assert str(error.value).startswith("m.pth: ")
    assert len(str(error.value)) < 600


class TestProjection:
    @pytest.fixture
    def folder(self, tmp_path):
        """img/epoch-10 of six prototypes, the last never filled."""
        folder = tmp_path / "epoch-10"
        folder.mkdir()
        rows = [[7 * j, j, j + 8, 2 * j, 2 * j + 10, j // 2] for j in range(5)] + [[-1] * 6]
        fields = [[7 * j, 0, 20, 4, 30, j // 2] for j in range(5)] + [[-1] * 6]
        np.save(folder / "bb10.npy", np.array(rows))
        np.save(folder / "bb-receptive_field10.npy", np.array(fields))
        rng = np.random.default_rng(0)
        for j in range(5):
            whole = rng.integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(whole).save(folder / f"prototype-img-original{j}.png")
            Image.fromarray(whole[:8, :10]).save(folder / f"prototype-img{j}.png")
            grid = np.zeros((8, 8), np.float32)
            grid[j, 2] = 9
            np.save(folder / f"prototype-self-act{j}.npy", grid)
        return folder

    def test_becomes_the_sources(self, model, folder, tmp_path):
        path = saved(model, tmp_path / "push.pth")
        sources = exporters.import_protopnet(path, projection=folder).sources
        assert sources.image_ids == (*(f"training picture {7 * j}" for j in range(5)), "")
        np.testing.assert_array_equal(sources.boxes[3], [3, 11, 6, 16])
        np.testing.assert_array_equal(sources.receptive_boxes[0], [0, 20, 4, 30])
        np.testing.assert_array_equal(sources.boxes[5], [-1] * 4)
        np.testing.assert_array_equal(sources.locations, [2, 10, 18, 26, 34, -1])
        assert sources.self_similarity.shape == (6, 8, 8)
        assert [bool(p) for p in sources.pictures] == [True] * 5 + [False]
        assert Image.open(io.BytesIO(sources.patches[0])).size == (10, 8)
        assert len(sources.image_sha256[0]) == 64

    def test_gives_a_state_dict_its_classes(self, folder, tmp_path):
        other = trained(BACKBONES["vgg"]())
        with torch.no_grad():
            other.last_layer.weight.copy_(other.last_layer.weight.flip(0))
        path = saved(other.state_dict(), tmp_path / "push.pth")
        table = np.load(folder / "bb10.npy")
        table[5] = [40, 0, 1, 0, 1, 2]
        np.save(folder / "bb10.npy", table)
        arrays = exporters.import_protopnet(path, projection=folder, image_size=32)
        np.testing.assert_array_equal(arrays.prototype_class, [0, 0, 1, 1, 2, 2])
        assert "column 5" in arrays.notes[-1]

    @pytest.mark.parametrize(
        ("spoil", "words"),
        [
            (lambda f: (f / "bb10.npy").unlink(), "has no files like"),
            (lambda f: np.save(f / "bb9.npy", np.zeros((6, 6))), "has 2 files like"),
            (lambda f: np.save(f / "bb10.npy", np.zeros((5, 6))), "5 and 6 prototypes"),
            (lambda f: np.save(f / "bb10.npy", np.full((6, 6), -2)), "other numbers than boxes"),
            (lambda f: np.save(f / "bb10.npy", np.full((6, 6), 0.5)), "other numbers than boxes"),
            (lambda f: np.save(f / "bb10.npy", np.zeros(6)), r"has shape \[6\]"),
            (lambda f: (f / "bb10.npy").write_bytes(b"no"), "can't be read as an array"),
            (lambda f: (f / "prototype-img2.png").write_bytes(b"no"), "can't be read as a picture"),
            (
                lambda f: np.save(f / "bb10.npy", np.array([{"a": 1}]), allow_pickle=True),
                "can't be read as an array",
            ),
            (
                lambda f: np.save(f / "prototype-self-act0.npy", np.zeros(3)),
                "not that of a similarity map",
            ),
        ],
    )
    def test_what_is_refused(self, model, folder, tmp_path, spoil, words):
        spoil(folder)
        with pytest.raises(PrototypeError, match=words):
            exporters.import_protopnet(saved(model, tmp_path / "m.pth"), projection=folder)

    def test_an_array_whose_header_asks_for_more(self, model, folder, tmp_path):
        stream = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            stream, {"descr": "<i8", "fortran_order": False, "shape": (10**12, 6)}
        )
        (folder / "bb10.npy").write_bytes(stream.getvalue())
        with pytest.raises(PrototypeError, match="can't be read as an array"):
            exporters.import_protopnet(saved(model, tmp_path / "m.pth"), projection=folder)

    def test_of_another_epoch(self, folder, tmp_path):
        other = trained(BACKBONES["vgg"](), num_classes=2)
        with pytest.raises(PrototypeError, match=r"holds 6 prototypes, .* 4; give"):
            exporters.import_protopnet(saved(other, tmp_path / "m.pth"), projection=folder)


ARCHITECTURE = """
top_arch: {module: cabrnet.archs.protopnet.model, name: ProtoPNet}
extractor:
  backbone: {arch: vgg11, layer: features, weights: None}
  add_on:
    init_mode: PROTOPNET
    conv1: {type: Conv2d, params: {out_channels: 6, kernel_size: 1}}
    act1: {type: ReLU}
    conv2: {type: Conv2d, params: {out_channels: 6, kernel_size: 1}}
    act2: {type: Sigmoid}
similarity: {name: LegacyProtoPNetSimilarity, params: {stability_factor: 0.001}}
classifier:
  module: cabrnet.archs.protopnet.decision
  name: ProtoPNetClassifier
  params: {num_classes: 3, num_proto_per_class: 2}
"""


class TestCabrnet:
    @pytest.fixture
    def folder(self, model, tmp_path):
        folder = tmp_path / "cabrnet"
        folder.mkdir()
        state = {}
        for name, tensor in model.state_dict().items():
            layers = {"0": "conv1", "2": "conv2"}
            if name.startswith("features."):
                state["extractor.convnet." + name.removeprefix("features.")] = tensor
            elif name.startswith("add_on_layers."):
                _, place, part = name.split(".")
                state[f"extractor.add_on.{layers[place]}.{part}"] = tensor
        state["classifier.prototypes"] = model.prototype_vectors.detach()
        state["classifier.last_layer.weight"] = model.last_layer.weight.detach()
        state["classifier.proto_class_map"] = model.prototype_class_identity
        saved(state, folder / "model_state.pth")
        (folder / "model_arch.yml").write_text(ARCHITECTURE)
        lines = ["proto_idx,img_idx,h,w,score", *(f"{j},{3 * j},1,2,9.2" for j in range(5))]
        (folder / "projection_info.csv").write_text("\n".join(lines))
        (folder / "state.pickle").write_bytes(b"never opened")
        return folder

    def test_gives_the_same_as_the_original(self, model, folder, tmp_path):
        arrays = exporters.import_protopnet(folder, image_size=32)
        whole = exporters.import_protopnet(saved(model, tmp_path / "whole.pth"))
        for name in ("prototypes", "prototype_class", "weights"):
            np.testing.assert_array_equal(getattr(arrays, name), getattr(whole, name))
        assert arrays.epsilon == 1e-3
        assert arrays.sources.image_ids == (*(f"training picture {3 * j}" for j in range(5)), "")

        def weights(imported):
            return [v.const_value.numpy() for v in imported.backbone.graph.initializers.values()]

        for ours, theirs in zip(weights(arrays), weights(whole), strict=True):
            np.testing.assert_array_equal(ours, theirs)

    @pytest.mark.parametrize(
        ("old", "new", "words"),
        [
            ("ProtoPNetClassifier", "ProtoTreeClassifier", "describes no ProtoPNet"),
            ("LegacyProtoPNetSimilarity", "CosineSimilarity", "its similarity is Cosine"),
            ("type: Sigmoid", "type: Tanh", "backbone is no VGG"),
            ("top_arch: {", "top_arch: {{[", "can't be read"),
        ],
    )
    def test_what_is_refused(self, folder, old, new, words):
        path = folder / "model_arch.yml"
        path.write_text(path.read_text().replace(old, new))
        with pytest.raises(PrototypeError, match=words):
            exporters.import_protopnet(folder, image_size=32)

    @pytest.mark.parametrize(
        "table", ["a,b\n1,2", "proto_idx,img_idx\n9,1", "proto_idx,img_idx\nx,1"]
    )
    def test_another_table(self, folder, table):
        (folder / "projection_info.csv").write_text(table)
        with pytest.raises(PrototypeError, match=r"projection_info\.csv: can't be read"):
            exporters.import_protopnet(folder, image_size=32)

    def test_an_object_in_the_description(self, folder):
        """Of YAML only the safe part is read."""
        mark = folder / "executed"
        (folder / "model_arch.yml").write_text(f"a: !!python/object/apply:os.mkdir ['{mark}']")
        with pytest.raises(PrototypeError, match="can't be read"):
            exporters.import_protopnet(folder)
        assert not Path(mark).exists()
