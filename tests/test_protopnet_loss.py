"""The loss against its NumPy twin and against the original's way to compute it."""

import numpy as np
import pytest
import reference_protopnet_training as reference
import torch
from torch.nn import functional as F  # noqa: N812

from exporters.protopnet.loss import loss


def case(seed=0, batch=7, classes=4, each=3):
    rng = np.random.default_rng(seed)
    count = classes * each
    return (
        rng.normal(size=(batch, classes)),
        rng.random((batch, count)) * 5,
        rng.integers(0, classes, batch),
        np.arange(count) // each,
        rng.normal(size=(classes, count)),
    )


def inverted(logits, distances, classes, owners, weights, largest=10.0):
    """As the original: the largest of what is missing to a largest distance, masked by zeros."""
    own = (owners == classes[:, None]).double()
    cluster = (largest - ((largest - distances) * own).amax(1)).mean()
    separation = (largest - ((largest - distances) * (1 - own)).amax(1)).mean()
    others = 1 - (owners == torch.arange(len(weights))[:, None]).double()
    total = F.cross_entropy(logits, classes) + 0.8 * cluster - 0.08 * separation
    return total + 1e-4 * (weights * others).norm(p=1)


@pytest.mark.parametrize("seed", range(3))
def test_terms_are_those_of_the_twin(seed):
    given = case(seed)
    terms = loss(*(torch.from_numpy(part) for part in given))
    np.testing.assert_allclose([float(term) for term in terms], reference.loss_terms(*given), 1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_total_and_its_gradient_are_those_of_the_original(seed):
    parts = [torch.from_numpy(part) for part in case(seed)]
    leaves = [0, 1, 4]
    gradients = []
    for function in (lambda *p: loss(*p).total(), inverted):
        given = [p.clone().requires_grad_() if n in leaves else p for n, p in enumerate(parts)]
        value = function(*given)
        value.backward()
        gradients.append([value.detach(), *(given[n].grad for n in leaves)])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
