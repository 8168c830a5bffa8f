"""Losses as functions and layers against their definitions in NumPy, with gradients by finite differences."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
from scipy import special

import distgrad
from distgrad import nn
from distgrad.nn import functional as F

Array = np.ndarray
RNG = np.random.default_rng(0)
N, C = 7, 5
X, Y, Z = (RNG.normal(size=(N, C)) * 2 for _ in range(3))
POSITIVE = RNG.random((N, C)) * 3 + 0.1
P, Q = (special.softmax(RNG.normal(size=(N, C)), 1) for _ in range(2))
SIGNS, SIGN = np.where(X * Y > 0, 1.0, -1.0), np.where(X[:, 0] > 0, 1.0, -1.0)
BITS, W = (Y > 0) * 1.0, RNG.random(C) + 0.2
CLASSES = RNG.integers(0, C, N)
LISTS = np.array(
    [[0, 3, -1, 1, 2], [1, -1, -1, 0, 0], [4, 3, 2, 1, 0], [-1, 0, 0, 0, 0], [2, 2, 1, -1, 0]]
    + [[3, 4, 0, 1, -1]] * 2
)


def huber(d: Array, delta: float) -> Array:
    return np.where(np.abs(d) < delta, d**2 / 2, delta * (np.abs(d) - delta / 2))


def stirling(t: Array) -> Array:
    big = np.maximum(t, 2)
    return np.where(t > 1, big * np.log(big) - big + np.log(2 * math.pi * big) / 2, 0)


def cosine(a: Array, b: Array, axis: int = -1) -> Array:
    return (a * b).sum(axis) / np.linalg.norm(a, axis=axis) / np.linalg.norm(b, axis=axis)


def distance(a: Array, b: Array, p: float = 2.0, eps: float = 1e-6) -> Array:
    return np.linalg.norm(a - b + eps, p, axis=-1)


def multi_margin(x: Array, t: Array, p: int = 1, margin: float = 1.0, weight: Any = None) -> Array:
    out = []
    for row, k in zip(x, t, strict=True):
        short = [max(0, margin - row[k] + row[j]) ** p for j in range(C) if j != k]
        out.append(sum(short) * (1 if weight is None else weight[k]) / C)
    return np.array(out)


def multilabel_margin(x: Array, t: Array) -> Array:
    out = []
    for row, listed in zip(x, t.tolist(), strict=True):
        ours = listed[: listed.index(-1)] if -1 in listed else listed
        out.append(sum(max(0, 1 - row[k] + row[j]) for k in ours for j in range(C) if j not in ours) / C)
    return np.array(out)


class Case(NamedTuple):
    function: str
    inputs: tuple[Array, ...]
    settings: dict[str, Any]
    want: Callable[..., Array]  # each element, of the floating inputs
    floats: int = 1  # how many of the inputs have a gradient


CASES = {
    "l1": Case("l1_loss", (X, Y), {}, lambda x, y: np.abs(x - y), 2),
    "mse": Case("mse_loss", (X, Y), {}, lambda x, y: (x - y) ** 2, 2),
    "smooth l1": Case("smooth_l1_loss", (X, Y), {"beta": 0.5}, lambda x, y: huber(x - y, 0.5) / 0.5, 2),
    "smooth l1 of 0": Case("smooth_l1_loss", (X, Y), {"beta": 0.0}, lambda x, y: np.abs(x - y), 2),
    "huber": Case("huber_loss", (X, Y), {"delta": 1.5}, lambda x, y: huber(x - y, 1.5), 2),
    "huber weighted": Case(
        "huber_loss", (X, Y), {"weight": POSITIVE}, lambda x, y: huber(x - y, 1) * POSITIVE, 2
    ),
    "poisson": Case("poisson_nll_loss", (X, BITS), {}, lambda x, y: np.exp(x) - y * x),
    "poisson full": Case(
        "poisson_nll_loss",
        (POSITIVE, np.floor(POSITIVE)),
        {"log_input": False, "full": True, "eps": 1e-3},
        lambda x, y: x - y * np.log(x + 1e-3) + stirling(y),
    ),
    "gaussian": Case(
        "gaussian_nll_loss", (X, Y, POSITIVE), {}, lambda x, y, v: (np.log(v) + (x - y) ** 2 / v) / 2, 3
    ),
    "gaussian full": Case(
        "gaussian_nll_loss",
        (X, Y, POSITIVE[:, 0]),
        {"full": True},
        lambda x, y, v: (np.log(2 * math.pi * v[:, None]) + (x - y) ** 2 / v[:, None]) / 2,
        3,
    ),
    "kl": Case("kl_div", (np.log(P), Q), {}, lambda x, y: y * (np.log(y) - x), 2),
    "kl of logs": Case(
        "kl_div", (np.log(P), np.log(Q)), {"log_target": True}, lambda x, y: np.exp(y) * (y - x), 2
    ),
    "soft margin": Case("soft_margin_loss", (X, SIGNS), {}, lambda x, y: np.log(1 + np.exp(-x * y))),
    "hinge": Case(
        "hinge_embedding_loss",
        (POSITIVE, SIGNS),
        {"margin": 1.5},
        lambda x, y: np.where(y == 1, x, np.maximum(0, 1.5 - x)),
    ),
    "ranking": Case(
        "margin_ranking_loss",
        (X, Y, SIGNS),
        {"margin": 0.3},
        lambda x, y, t: np.maximum(0, 0.3 - t * (x - y)),
        2,
    ),
    "cosine": Case(
        "cosine_embedding_loss",
        (X, Y, SIGN),
        {"margin": 0.1},
        lambda x, y, t: np.where(t == 1, 1 - cosine(x, y), np.maximum(0, cosine(x, y) - 0.1)),
        2,
    ),
    "multi margin": Case(
        "multi_margin_loss", (X, CLASSES), {"margin": 0.7}, lambda x, t: multi_margin(x, t, 1, 0.7)
    ),
    "multi margin squared": Case(
        "multi_margin_loss", (X, CLASSES), {"p": 2, "weight": W}, lambda x, t: multi_margin(x, t, 2, 1, W)
    ),
    "multilabel margin": Case("multilabel_margin_loss", (X, LISTS), {}, multilabel_margin),
    "multilabel soft margin": Case(
        "multilabel_soft_margin_loss",
        (X, BITS),
        {"weight": W},
        lambda x, y: -(W * (y * special.log_expit(x) + (1 - y) * special.log_expit(-x))).mean(1),
    ),
    "triplet": Case(
        "triplet_margin_loss",
        (X, Y, Z),
        {},
        lambda a, p, n: np.maximum(0, 1 + distance(a, p) - distance(a, n)),
        3,
    ),
    "triplet swapped": Case(
        "triplet_margin_loss",
        (X, Y, Z),
        {"p": 3.0, "swap": True, "margin": 2.0},
        lambda a, p, n: np.maximum(
            0, 2 + distance(a, p, 3) - np.minimum(distance(a, n, 3), distance(p, n, 3))
        ),
        3,
    ),
}
REDUCE: dict[str, Callable[[Array], Any]] = {"none": lambda x: x, "mean": np.mean, "sum": np.sum}


def slopes(function: Callable[..., Any], inputs: tuple[Array, ...], which: int) -> Array:
    """Central differences of a scalar function."""
    out = np.zeros_like(inputs[which])
    for at in np.ndindex(out.shape):
        ends = []
        for step in (1e-6, -1e-6):
            moved = [np.array(a) for a in inputs]
            moved[which][at] += step
            ends.append(function(*moved))
        out[at] = (ends[0] - ends[1]) / 2e-6
    return out


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(anywhere: ModuleType, name: str) -> None:
    case = CASES[name]
    settings = {k: anywhere.tensor(v) if isinstance(v, Array) else v for k, v in case.settings.items()}
    for reduction, reduce in REDUCE.items():
        tensors = [anywhere.tensor(a, requires_grad=i < case.floats) for i, a in enumerate(case.inputs)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # kl_div warns of "mean"
            loss = getattr(F, case.function)(*tensors, **settings, reduction=reduction)
        np.testing.assert_allclose(loss.detach().numpy(), reduce(case.want(*case.inputs)), rtol=1e-10)
    (loss * loss).backward()  # of the sum
    for i, t in enumerate(tensors[: case.floats]):
        want = slopes(lambda *a: case.want(*a).sum() ** 2, case.inputs, i)
        np.testing.assert_allclose(t.grad.numpy(), want, rtol=1e-4, atol=1e-4, err_msg=f"input {i}")


LAYERS: dict[str, tuple[str, dict[str, Any]]] = {
    "l1": ("L1Loss", {}),
    "mse": ("MSELoss", {}),
    "smooth l1": ("SmoothL1Loss", {"beta": 0.5}),
    "huber": ("HuberLoss", {"delta": 1.5}),
    "poisson full": ("PoissonNLLLoss", {"log_input": False, "full": True, "eps": 1e-3}),
    "gaussian full": ("GaussianNLLLoss", {"full": True}),
    "kl of logs": ("KLDivLoss", {"log_target": True}),
    "soft margin": ("SoftMarginLoss", {}),
    "hinge": ("HingeEmbeddingLoss", {"margin": 1.5}),
    "ranking": ("MarginRankingLoss", {"margin": 0.3}),
    "cosine": ("CosineEmbeddingLoss", {"margin": 0.1}),
    "multi margin squared": ("MultiMarginLoss", {"p": 2, "weight": W}),
    "multilabel margin": ("MultiLabelMarginLoss", {}),
    "multilabel soft margin": ("MultiLabelSoftMarginLoss", {"weight": W}),
    "triplet swapped": ("TripletMarginLoss", {"p": 3.0, "swap": True, "margin": 2.0}),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str) -> None:
    title, settings = LAYERS[name]
    case = CASES[name]
    settings = {k: distgrad.tensor(v) if isinstance(v, Array) else v for k, v in settings.items()}
    layer = getattr(nn, title)(**settings, reduction="sum")
    assert repr(layer) == f"{title}()"
    assert list(layer.state_dict()) == (["weight"] if "weight" in settings else [])
    loss = layer(*[distgrad.tensor(a) for a in case.inputs])
    np.testing.assert_allclose(loss.item(), case.want(*case.inputs).sum(), rtol=1e-10)


def test_layers_of_classes() -> None:
    x, t, w = distgrad.tensor(X), distgrad.tensor(CLASSES), distgrad.tensor(W)
    score = special.log_softmax(X, 1)[range(N), CLASSES]
    entropy = nn.CrossEntropyLoss(w, reduction="sum")
    np.testing.assert_allclose(entropy(x, t).item(), -(score * W[CLASSES]).sum())
    assert list(entropy.state_dict()) == ["weight"]
    smooth = nn.CrossEntropyLoss(label_smoothing=0.1)(x, t).item()
    np.testing.assert_allclose(smooth, -(0.9 * score + 0.1 * special.log_softmax(X, 1).mean(1)).mean())
    np.testing.assert_allclose(
        nn.NLLLoss(ignore_index=0)(x, t).item(), -X[range(N), CLASSES][CLASSES != 0].mean()
    )
    with_logits = nn.BCEWithLogitsLoss(pos_weight=w)
    want = -(W * BITS * special.log_expit(X) + (1 - BITS) * special.log_expit(-X)).mean()
    np.testing.assert_allclose(with_logits(x, distgrad.tensor(BITS)).item(), want)
    assert list(with_logits.state_dict()) == ["pos_weight"]
    p = distgrad.tensor(P)
    np.testing.assert_allclose(
        nn.BCELoss()(p, distgrad.tensor(BITS)).item(),
        -(BITS * np.log(P) + (1 - BITS) * np.log(1 - P)).mean(),
    )
    image = distgrad.tensor(X.reshape(1, N, C, 1))
    assert nn.NLLLoss2d()(image, distgrad.zeros(1, C, 1).long()).item() == pytest.approx(-X[0].mean())


def test_distances(anywhere: ModuleType) -> None:
    x, y = anywhere.tensor(X, requires_grad=True), anywhere.tensor(Y)
    np.testing.assert_allclose(F.cosine_similarity(x, y).detach().numpy(), cosine(X, Y))
    np.testing.assert_allclose(nn.CosineSimilarity(0)(x, y).detach().numpy(), cosine(X, Y, 0))
    every = F.cosine_similarity(x.unsqueeze(1), y.unsqueeze(0), -1)
    np.testing.assert_allclose(every.detach().numpy(), cosine(X[:, None], Y[None]))
    np.testing.assert_allclose(nn.PairwiseDistance(3.0)(x, y).detach().numpy(), distance(X, Y, 3))
    assert F.pairwise_distance(x, y, keepdim=True).shape == (N, 1)
    pairs = [(i, j) for i in range(N) for j in range(i + 1, N)]
    for p in (1, 2, math.inf):
        want = [np.linalg.norm(X[i] - X[j], p) for i, j in pairs]
        np.testing.assert_allclose(F.pdist(x, p).detach().numpy(), want)
    every.sum().backward()
    np.testing.assert_allclose(
        x.grad.numpy(), slopes(lambda a: cosine(a[:, None], Y[None]).sum(), (X,), 0), atol=1e-8
    )
    assert anywhere.cosine_similarity is F.cosine_similarity
    zero = anywhere.zeros(1, 2, requires_grad=True)
    F.cosine_similarity(zero, anywhere.tensor([[3.0, 4.0]])).backward()
    np.testing.assert_allclose(
        zero.grad.numpy(), [[6e7, 8e7]], rtol=1e-6
    )  # as torch has it: the norm counts as 1e-8


def test_large_arguments_neither_overflow_nor_vanish() -> None:
    x = distgrad.tensor([800.0, -800.0], requires_grad=True)
    loss = F.soft_margin_loss(x, distgrad.tensor([-1.0, 1.0]), reduction="sum")
    loss.backward()
    assert loss.item() == 1600
    assert x.grad.tolist() == [1, -1]
    logs = distgrad.tensor([[0.0, -900.0]], requires_grad=True)
    loss = F.kl_div(logs, distgrad.tensor([[1.0, 0.0]]), reduction="batchmean")
    loss.backward()
    assert (loss.item(), logs.grad.tolist()) == (0, [[-1, 0]])


def test_a_negative_variance_is_never_silent(anywhere: ModuleType) -> None:
    x = anywhere.ones(2, 3)
    with pytest.raises(ValueError, match="var has negative entry/entries"):
        F.gaussian_nll_loss(x, x, anywhere.tensor([1.0, -1.0]))
    with pytest.raises(ValueError, match="var has negative entry/entries"):
        F.gaussian_nll_loss(x, x, -1.0)
    variance = anywhere.tensor([[1.0, 4.0, 1.0], [1.0, 1.0, 1.0]]) - 2  # where the driver may not look
    with contextlib.suppress(ValueError):
        assert math.isnan(F.gaussian_nll_loss(x, x, variance).item())
    assert nn.GaussianNLLLoss()(x, x, x * 1e-9).item() == pytest.approx(math.log(1e-6) / 2)


ONES, ROW = distgrad.ones(2, 3), distgrad.ones(3)
MESSAGES: dict[str, Callable[[], Any]] = {
    "x is not a valid value for reduction": lambda: F.hinge_embedding_loss(ONES, ONES, reduction="x"),
    "x is not valid": lambda: F.multilabel_soft_margin_loss(ONES, ONES, reduction="x"),
    "0D target tensor expects 1D input tensors, but found inputs with sizes": lambda: F.cosine_embedding_loss(
        ONES, ONES, distgrad.tensor(1)
    ),
    "target out of range": lambda: F.multi_margin_loss(ONES, distgrad.tensor([0, 3])),
    r"Expected target size \[2\], but got \[1\]": lambda: F.multi_margin_loss(ONES, distgrad.tensor([0])),
    "inconsistent weight size, expected 3": lambda: F.multi_margin_loss(
        ONES, distgrad.tensor([0, 1]), weight=distgrad.ones(2)
    ),
    "only p == 1 and p == 2 supported": lambda: nn.MultiMarginLoss(p=3),
    "argument #2 'target' is out of range": lambda: F.multilabel_margin_loss(
        ROW, distgrad.tensor([0, 3, -1])
    ),
    r"inconsistent target size: \[2\] for input of size: \[2, 3\]": lambda: F.multilabel_margin_loss(
        ONES, distgrad.tensor([0, 1])
    ),
    "expected scalar type Long but found Float": lambda: F.multilabel_margin_loss(ONES, ONES),
    "anchor 2D, positive 1D, and negative 2D": lambda: F.triplet_margin_loss(ONES, ROW, ONES),
    "margin must be greater than 0, got 0": lambda: F.triplet_margin_loss(ONES, ONES, ONES, margin=0),
    "TripletMarginLoss: expected margin to be greater than 0, got 0 instead": lambda: nn.TripletMarginLoss(0),
    "huber_loss does not support non-positive values for delta": lambda: F.huber_loss(ONES, ONES, delta=0.0),
    "smooth_l1_loss does not support negative values": lambda: F.smooth_l1_loss(ONES, ONES, beta=-1.0),
    "var is of incorrect size": lambda: F.gaussian_nll_loss(ONES, ONES, distgrad.ones(4)),
    "pdist only supports 2D tensors, got: 1D": lambda: F.pdist(ROW),
    "common dtype to be floating point, yet common dtype is Long": lambda: F.cosine_similarity(
        ONES.long(), ONES.long()
    ),
    "not differentiable with respect to argument 'target'": lambda: F.soft_margin_loss(
        ONES, distgrad.ones(2, 3, requires_grad=True)
    ),
}


@pytest.mark.parametrize("message", MESSAGES)
def test_messages(message: str) -> None:
    with pytest.raises((RuntimeError, ValueError), match=message):
        MESSAGES[message]()


def test_warnings_name_the_users_line() -> None:
    for text, call in {
        "size_average and reduce args": lambda: nn.MSELoss(size_average=False),
        "size_average and reduce args will": lambda: F.soft_margin_loss(ONES, ONES, reduce=False),
        "reduction: 'mean' divides the total loss": lambda: F.kl_div(ONES, ONES),
        "Using a target size": lambda: F.huber_loss(ONES, ROW),
    }.items():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call()
        assert [(w.filename, str(w.message).startswith(text)) for w in caught] == [(__file__, True)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert nn.MSELoss(size_average=False).reduction == "sum"
        assert nn.MSELoss(reduce=False).reduction == "none"
