"""The CTC loss against a sum over all alignments."""

from __future__ import annotations

import itertools
import math
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import distgrad
from distgrad import nn
from distgrad.nn import functional as F

T, N, C = 4, 3, 3
RNG = np.random.default_rng(0)
X = RNG.normal(size=(T, N, C))
TARGETS, LENGTHS, INPUTS = np.array([[1, 1], [2, 1], [2, 0]]), [2, 2, 1], [4, 3, 2]


def likelihood(logs: np.ndarray, target: list[int], blank: int = 0) -> float:
    """Of all paths that give the target once repeated labels are one and blanks are taken out."""
    total = 0.0
    for path in itertools.product(range(C), repeat=len(logs)):
        if [k for k, _ in itertools.groupby(path) if k != blank] == target:
            total += math.exp(sum(logs[t, k] for t, k in enumerate(path)))
    return total


def losses(x: np.ndarray, inputs: list[int] = INPUTS) -> np.ndarray:
    logs = x - np.log(np.exp(x).sum(2, keepdims=True))
    targets = [t[:n].tolist() for t, n in zip(TARGETS, LENGTHS, strict=True)]
    return np.array([-math.log(likelihood(logs[: inputs[n], n], t)) for n, t in enumerate(targets)])


@pytest.mark.parametrize("form", ["padded", "one after the other"])
def test_values_and_gradients(anywhere: ModuleType, form: str) -> None:
    targets = TARGETS if form == "padded" else np.array([1, 1, 2, 1, 2])
    x = anywhere.tensor(X, requires_grad=True)
    logs = F.log_softmax(x, 2)
    loss = F.ctc_loss(logs, anywhere.tensor(targets), INPUTS, LENGTHS, reduction="none")
    np.testing.assert_allclose(loss.detach().numpy(), losses(X), rtol=1e-9)
    mean = nn.CTCLoss()(logs, anywhere.tensor(targets), anywhere.tensor(INPUTS), tuple(LENGTHS))
    np.testing.assert_allclose(mean.item(), (losses(X) / LENGTHS).mean(), rtol=1e-9)
    (g,) = anywhere.autograd.grad(loss.sum(), x, create_graph=True)
    direction = RNG.normal(size=X.shape)
    ends = [losses(X + s * direction).sum() for s in (1e-6, -1e-6)]
    np.testing.assert_allclose((g.detach().numpy() * direction).sum(), (ends[0] - ends[1]) / 2e-6, rtol=1e-6)
    (h,) = anywhere.autograd.grad((g * anywhere.tensor(direction)).sum(), x)
    middle = losses(X).sum()
    ends = [losses(X + s * direction).sum() for s in (1e-4, -1e-4)]
    np.testing.assert_allclose(
        (h.numpy() * direction).sum(), (ends[0] - 2 * middle + ends[1]) / 1e-8, rtol=1e-4
    )


def test_the_gradient_of_logarithms_is_that_of_what_made_them() -> None:
    """As in torch: probabilities less the expected share of each label, which sums to 0."""
    logs = F.log_softmax(distgrad.tensor(X), 2).requires_grad_()
    F.ctc_loss(logs, distgrad.tensor(TARGETS), INPUTS, LENGTHS, reduction="sum").backward()
    np.testing.assert_allclose(logs.grad.numpy().sum(2), 0, atol=1e-12)


def test_what_cannot_be_aligned(anywhere: ModuleType) -> None:
    x = anywhere.tensor(X, requires_grad=True)
    logs = F.log_softmax(x, 2)
    short: list[Any] = [anywhere.tensor(TARGETS), [2, 3, 2], LENGTHS]  # 1, 1 needs a blank between them
    assert F.ctc_loss(logs, *short, reduction="none").tolist()[0] == math.inf
    loss = F.ctc_loss(logs, *short, reduction="sum", zero_infinity=True)
    np.testing.assert_allclose(loss.item(), losses(X, [4, 3, 2])[1:].sum())
    loss.backward()
    assert (x.grad.numpy()[:, 0] == 0).all()
    assert np.isfinite(x.grad.numpy()).all()
    nothing = F.ctc_loss(logs[:2], anywhere.tensor(TARGETS), [2, 2, 2], [0, 2, 1], reduction="none")
    np.testing.assert_allclose(nothing[0].item(), -logs[:2, 0, 0].sum().item())


def test_one_sequence_and_another_blank() -> None:
    logs = F.log_softmax(distgrad.tensor(X[:, 0]), 1)
    loss = F.ctc_loss(logs, distgrad.tensor([0, 1]), distgrad.tensor(4), distgrad.tensor(2), blank=2)
    np.testing.assert_allclose(loss.item(), -math.log(likelihood(logs.numpy(), [0, 1], 2)) / 2)
    assert loss.shape == ()
    assert repr(nn.CTCLoss()) == "CTCLoss()"


LOGS, PADDED = distgrad.zeros(5, 2, 4), distgrad.tensor([[1, 2], [3, 0]])
MESSAGES: dict[str, tuple[Any, ...]] = {
    "input_lengths must be of size batch_size": (LOGS, PADDED, (5,), (2, 1)),
    "target_lengths must be integral": (LOGS, PADDED, (5, 5), (2.0, 1.0)),
    "Expected input_lengths to have value at most 5, but got value 6": (LOGS, PADDED, (6, 5), (2, 1)),
    "Expected target_lengths to have value at least 0, but got value -1": (LOGS, PADDED, (5, 5), (-1, 1)),
    "to have size at least 3 at dimension 1, but got size 2": (LOGS, PADDED, (5, 5), (3, 1)),
    "Expected tensor to have size 3 at dimension 0, but got size 4": (
        LOGS,
        PADDED.reshape(-1),
        (5, 5),
        (2, 1),
    ),
    "blank must be in label range": (LOGS, PADDED, (5, 5), (2, 1), 4),
}


@pytest.mark.parametrize("message", MESSAGES)
def test_messages(message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        F.ctc_loss(*MESSAGES[message])
