"""The Numba loops of LIME against slow twins, and their compilation ahead of time."""

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
import reference_lime
from hypothesis import given, settings
from hypothesis import strategies as st

from xai_onnx.lime.kernels import compose, fill, jit, quickshift


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def packed(masks, bits):
    words = np.full((-(-len(masks) // bits), masks.shape[1]), 7, f"uint{bits}")
    compose.pack(masks, words)
    return words


@pytest.mark.parametrize("bits", compose.WIDTHS)
@pytest.mark.parametrize("n", [1, 8, 31, 65])
def test_pack_puts_each_mask_in_its_bit(rng, bits, n):
    masks = rng.integers(0, 2, (n, 5)).astype(np.uint8)
    masks[masks == 1] = rng.integers(1, 256, masks.sum())  # anything but 0 is on
    words = packed(masks, bits)
    for sample in range(n):
        for j in range(5):
            bit = (int(words[sample // bits, j]) >> (sample % bits)) & 1
            assert bit == (masks[sample, j] != 0)


@given(
    bits=st.sampled_from(compose.WIDTHS),
    n=st.integers(1, 70),
    planes=st.integers(1, 4),
    values=st.sampled_from([1, 7, compose.TILE, compose.TILE + 3, 2 * compose.TILE]),
    d=st.integers(1, 40),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=40, deadline=None)
def test_compose_selects_by_bits(bits, n, planes, values, d, seed):
    rng = np.random.default_rng(seed)
    kind = f"uint{bits}"
    image, off = rng.integers(0, 2**bits, (2, planes, values), kind)
    segments = rng.integers(0, d, values).astype(np.int32)
    masks = rng.integers(0, 2, (n, d)).astype(np.uint8)
    out = rng.integers(0, 2**bits, (n, planes, values), kind)
    compose.compose(image, off, segments, packed(masks, bits), out)
    on = masks[:, segments].astype(bool)[:, None]
    assert np.array_equal(out, np.where(on, image, off))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sizes", [(1, 2, 7, 8, 9), (127, 128, 129, 135), (1000, 1, 40_000)])
def test_means_are_numpys_to_the_bit(rng, dtype, sizes):
    segments = rng.permutation(np.repeat(np.arange(len(sizes)), sizes)).astype(np.int32)
    planes = (rng.standard_normal((2, len(segments))) * 1000).astype(dtype)
    order, starts = np.empty(len(segments), np.int64), np.empty(len(sizes) + 1, np.int64)
    fill.group(segments, order, starts)
    assert np.array_equal(order, np.argsort(segments, kind="stable"))
    assert np.array_equal(np.diff(starts), sizes)
    out = np.empty((2, len(sizes)), dtype)
    fill.means(planes, order, starts, len(segments), out)
    assert np.array_equal(out, reference_lime.segment_means(planes, segments, len(sizes)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (1, 11), (11, 1), (5, 4), (9, 14)])
def test_quickshift_follows_its_definition(rng, dtype, channels, size):
    radius, factor = 4, dtype(-0.5 / 4)
    planes = (rng.standard_normal((channels, *size)) * 2).astype(dtype)
    noise = (rng.standard_normal(size) * 1e-5).astype(dtype)
    density = noise.copy()
    quickshift.add_densities(planes, radius, factor, density)
    wanted = reference_lime.densities(planes, radius, factor, noise)
    # 81 exponentials, each within an ulp (1.1e-16) of the C library's: float32 hides that
    assert np.abs(density - wanted).max() <= (0 if dtype is np.float32 else 81 * 1.2e-16)

    places = [(r, c) for r in range(-4, 5) for c in range(-4, 5) if r or c]
    places.sort(key=lambda place: place[0] ** 2 + place[1] ** 2)
    parents = np.empty(wanted.size, np.int32)
    # all places; those at most 2 away; none: then every row is searched whole
    for max_dist, count in itertools.product((dtype(2), dtype(100)), (80, 12, 0)):
        nearest = np.array(places[:count], np.int32).reshape(-1, 2)
        quickshift.find_parents(planes, wanted, nearest, radius, max_dist, parents)
        found = reference_lime.parents(planes, wanted, radius, max_dist)
        assert np.array_equal(parents, found)
        labels = np.empty_like(parents)
        count = quickshift.label_roots(parents.copy(), labels)
        assert np.array_equal(labels, reference_lime.labels(found))
        assert count == labels.max() + 1


def test_of_parents_at_the_same_distance_the_first_is_taken():
    planes = np.zeros((1, 3, 3))
    density = np.array([[0.0, 2, 0], [2, 1, 2], [0, 2, 0]])
    nearest = np.array([(1, 0), (0, 1), (0, -1), (-1, 0)], np.int32)
    parents = np.empty(9, np.int32)
    for places in (nearest, nearest[:0]):
        quickshift.find_parents(planes, density, places, 1, 5.0, parents)
        assert parents[4] == 1


def test_two_kernels_of_one_name_are_refused():
    def pack(masks):
        return masks

    pack.__module__ = "xai_onnx.lime.kernels.compose"
    with pytest.raises(ValueError, match=r"two kernels compose\.pack"):
        jit.kernel("void(int64)")(pack)


def test_warmup_compiles_every_kernel_for_its_usual_types():
    calls = []
    seconds = jit.warmup(lambda: calls.append(1))
    assert set(seconds) == set(jit.KERNELS)
    assert {"compose.compose", "fill.means", "quickshift.add_densities"} <= set(seconds)
    assert len(calls) == len(seconds)
    assert all(0 <= took < 600 for took in seconds.values())
    for dispatcher, signatures in jit.KERNELS.values():
        assert len(dispatcher.signatures) >= len(signatures)


USE = """
import numpy as np
from xai_onnx.lime.kernels import jit
jit.warmup()
before = {name: len(k.signatures) for name, (k, _) in jit.KERNELS.items()}
from xai_onnx.lime.perturb import Composer, baseline
from xai_onnx.lime.superpixels import segment
from xai_onnx.lime.surrogate import Gram, fit, forward_selection
for dtype in (np.uint8, np.float16, np.float32, np.float64):
    image = np.arange(192).reshape(8, 8, 3).astype(dtype)
    image.flags.writeable = False
    labels = segment(image)
    labels.flags.writeable = False
    composer = Composer(image, baseline(image, labels, channels_last=True), labels,
                        channels_last=True)
    masks = np.ones((40, composer.d), np.uint8)
    masks.flags.writeable = False
    composer.compose(masks)
gram = Gram(2, 1)
gram.add(np.ones((3, 2), np.uint8), np.ones(3), np.ones((3, 1)))
fit(gram); forward_selection(gram, 0, 1)
after = {name: len(k.signatures) for name, (k, _) in jit.KERNELS.items()}
print([name for name in after if after[name] != before[name]])
"""


def python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )


def test_nothing_is_compiled_after_the_warmup():
    result = python(USE)
    assert result.stdout.strip() == "[]"


def test_without_a_folder_to_write_in_kernels_are_compiled_each_time(tmp_path):
    code = (
        "import os, numba.core.caching as c\n"
        "c.CacheImpl._locator_classes = []\n"  # as if no place could be written
        "from xai_onnx.lime.kernels import jit, compose\n"
        "import numpy as np\n"
        "words = np.empty((1, 2), np.uint8)\n"
        "compose.pack(np.array([[1, 0]], np.uint8), words)\n"
        "print(words.tolist(), jit.cache_folder())\n"
    )
    result = python(code)
    assert result.stdout.split("\n")[0] == "[[1, 0]] None"
    assert "set NUMBA_CACHE_DIR" in result.stderr
