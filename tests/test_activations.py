"""Activations as functions and layers. Values of the ops are checked in `test_ops.py`; here is what surrounds them."""

from __future__ import annotations

import warnings
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy import special

import distgrad
from distgrad import nn
from distgrad.nn import functional as F

INF, NAN = float("inf"), float("nan")
LAYERS: dict[str, Any] = {  # printed form, and the function it stands for
    "ReLU()": F.relu,
    "ReLU(inplace=True)": F.relu,
    "ReLU6()": F.relu6,
    "ReLU6(inplace=True)": F.relu6,
    "RReLU(lower=0.25, upper=0.5)": lambda x: F.leaky_relu(x, 0.375),
    "Hardtanh(min_val=-1.0, max_val=1.0)": F.hardtanh,
    "Hardtanh(min_val=-0.5, max_val=2.0, inplace=True)": lambda x: F.hardtanh(x, -0.5, 2.0),
    "Sigmoid()": F.sigmoid,
    "Tanh()": F.tanh,
    "SiLU()": F.silu,
    "SiLU(inplace=True)": F.silu,
    "Mish()": F.mish,
    "Mish(inplace=True)": F.mish,
    "Hardswish()": F.hardswish,
    "Hardsigmoid()": F.hardsigmoid,
    "ELU(alpha=1.0)": F.elu,
    "ELU(alpha=2.0, inplace=True)": lambda x: F.elu(x, 2.0),
    "SELU()": F.selu,
    "CELU(alpha=2.0)": lambda x: F.celu(x, 2.0),
    "GELU(approximate='none')": F.gelu,
    "GELU(approximate='tanh')": lambda x: F.gelu(x, approximate="tanh"),
    "Hardshrink(0.5)": F.hardshrink,
    "Softshrink(0.25)": lambda x: F.softshrink(x, 0.25),
    "Tanhshrink()": F.tanhshrink,
    "LeakyReLU(negative_slope=0.01)": F.leaky_relu,
    "LogSigmoid()": F.logsigmoid,
    "Softplus(beta=2.0, threshold=1.0)": lambda x: F.softplus(x, 2.0, 1.0),
    "Softsign()": F.softsign,
    "Threshold(threshold=0.5, value=3.0)": lambda x: F.threshold(x, 0.5, 3.0),
    "Softmin(dim=1)": lambda x: F.softmin(x, 1),
    "Softmax(dim=1)": lambda x: F.softmax(x, 1),
    "LogSoftmax(dim=1)": lambda x: F.log_softmax(x, 1),
    "Softmax2d()": lambda x: F.softmax(x, 1),
    "GLU(dim=-1)": F.glu,
}


@pytest.mark.parametrize("shown", LAYERS)
def test_layers_print_as_torch_and_do_as_the_function(shown: str) -> None:
    name, settings = shown.rstrip(")").split("(")
    if name in ("Hardshrink", "Softshrink"):
        settings = f"lambd={settings}"
    layer = eval(f"nn.{name}({settings})").eval()
    assert repr(layer) == shown
    x = distgrad.tensor(np.linspace(-4, 4, 24).reshape(2, 3, 2, 2))
    want = LAYERS[shown](x).numpy()
    found = layer(x)
    np.testing.assert_array_equal(found.numpy(), want)
    assert (found is x) == ("inplace=True" in shown)


# x, value, slope: at corners and far away, by the definitions.
CORNERS: dict[str, list[tuple[float, float, float]]] = {
    "relu6": [(0, 0, 0), (6, 6, 0), (3, 3, 1), (INF, 6, 0), (NAN, NAN, 1)],
    "hardtanh": [(-1, -1, 0), (1, 1, 0), (0.5, 0.5, 1), (NAN, NAN, 1)],
    "hardsigmoid": [(-3, 0, 0), (3, 1, 0), (0, 0.5, 1 / 6), (NAN, NAN, 0)],
    "hardswish": [(-3, 0, 0), (3, 3, 1), (0, 0, 0.5), (1.5, 1.125, 1), (-100, 0, 0)],
    "hardshrink": [(0.5, 0, 0), (-0.5, 0, 0), (0.75, 0.75, 1), (NAN, NAN, 1)],
    "softshrink": [(0.5, 0, 0), (-0.5, 0, 0), (-2, -1.5, 1), (NAN, NAN, 1)],
    "leaky_relu": [(0, 0, 0.01), (-100, -1, 0.01), (INF, INF, 1)],
    "elu": [(0, 0, 1), (1000, 1000, 1), (-1000, -1, 0), (1e-9, 1e-9, 1), (-1e-12, -1e-12, 1)],
    "selu": [(0, 0, 1.7580993408473766), (1000, 1050.7009873554805, 1.0507009873554805)],
    "mish": [(0, 0, 0.6), (1000, 1000, 1), (-1000, 0, 0)],
    "silu": [(0, 0, 0.5), (1000, 1000, 1)],
    "softsign": [(0, 0, 1), (-1, -0.5, 0.25)],
    "logsigmoid": [(-1000, -1000, 1), (1000, 0, 0), (0, -np.log(2), 0.5)],
    "softplus": [(1000, 1000, 1), (-1000, 0, 0), (0, np.log(2), 0.5)],
    "gelu": [(0, 0, 0.5), (100, 100, 1), (-100, 0, 0)],
}


@pytest.mark.parametrize("name", CORNERS)
def test_values_and_slopes_at_corners_and_far_away(anywhere: ModuleType, name: str) -> None:
    points, values, slopes = np.array(CORNERS[name]).T
    x = anywhere.tensor(points, requires_grad=True)
    with np.errstate(all="ignore"):
        y = getattr(F, name)(x)
        (g,) = anywhere.autograd.grad(y.sum(), x, create_graph=True)
        (h,) = anywhere.autograd.grad(g.sum(), x)
    np.testing.assert_allclose(y.detach().numpy(), values, rtol=1e-12, atol=1e-300)
    np.testing.assert_allclose(g.detach().numpy(), slopes, rtol=1e-9, atol=1e-300)
    assert np.isfinite(h.numpy()[np.isfinite(points)]).all()


def test_a_straight_piece_can_be_differentiated_twice(anywhere: ModuleType) -> None:
    """As in torch the second derivative is 0, and not missing."""
    for name in ("relu", "relu6", "hardtanh", "hardshrink", "softshrink", "leaky_relu", "hardsigmoid"):
        x = anywhere.tensor([-2.0, 0.3, 2.0], requires_grad=True)
        (g,) = anywhere.autograd.grad(getattr(F, name)(x).sum(), x, create_graph=True)
        (h,) = anywhere.autograd.grad(g.sum(), x)
        assert h.tolist() == [0, 0, 0], name


NODES = {
    "relu6": "HardtanhBackward0",
    "hardswish": "HardswishBackward0",
    "mish": "MishBackward0",
    "selu": "EluBackward0",
    "celu": "CeluBackward0",
    "hardshrink": "HardshrinkBackward0",
    "softsign": "DivBackward0",
    "tanhshrink": "SubBackward0",
    "glu": "GluBackward0",
    "softmin": "SoftmaxBackward0",
}


def test_names_of_nodes() -> None:
    x = distgrad.ones(2, 2, requires_grad=True)
    for name, node in NODES.items():
        y = F.softmin(x, 1) if name == "softmin" else getattr(F, name)(x)
        assert y.grad_fn.name() == node
    assert F.prelu(x, distgrad.ones(2)).grad_fn.name() == "PreluKernelBackward0"
    assert F.threshold(x, 0.0, 1.0).grad_fn.name() == "ThresholdBackward0"
    assert F.rrelu(x, training=True).grad_fn.name() == "RreluWithNoiseBackward0"


IN_PLACE = [
    "relu",
    "relu6",
    "hardtanh",
    "hardswish",
    "hardsigmoid",
    "leaky_relu",
    "elu",
    "selu",
    "celu",
    "silu",
    "mish",
]


@pytest.mark.parametrize("name", IN_PLACE)
def test_in_place(anywhere: ModuleType, name: str) -> None:
    numbers = np.linspace(-4, 4, 9)
    results = []
    for inplace in (False, True):
        x = anywhere.tensor(numbers, requires_grad=True)
        own = x * 1
        y = getattr(F, name)(own, inplace=inplace)
        assert (y is own) == inplace
        y.sum().backward()
        results.append((y.detach().numpy(), x.grad.numpy()))
    np.testing.assert_array_equal(*[y for y, _ in results])
    np.testing.assert_array_equal(*[g for _, g in results])
    with pytest.raises(RuntimeError, match="a leaf Variable that requires grad is being used in an in-place"):
        getattr(F, name)(x, inplace=True)


def test_prelu_has_a_weight_for_all_or_for_each_channel(anywhere: ModuleType) -> None:
    numbers = np.linspace(-3, 3, 24).reshape(2, 3, 4)
    layer = nn.PReLU(3, 0.5, dtype=anywhere.float64)
    assert repr(layer) == "PReLU(num_parameters=3)"
    x = anywhere.tensor(numbers, requires_grad=True)
    layer(x).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), np.where(numbers > 0, 1, 0.5))
    np.testing.assert_allclose(layer.weight.grad.numpy(), np.minimum(numbers, 0).sum((0, 2)))
    one = nn.PReLU()
    assert one.state_dict()["weight"].tolist() == [0.25]
    assert one(anywhere.tensor([-4.0, 4.0])).tolist() == [-1, 4]


def test_rrelu_draws_slopes(anywhere: ModuleType) -> None:
    anywhere.manual_seed(3)
    x = anywhere.full((1000,), -2.0, requires_grad=True)
    y = F.rrelu(x, 0.25, 0.5, training=True)
    y.sum().backward()
    slopes = x.grad.numpy()
    assert slopes.min() >= 0.25
    assert slopes.max() <= 0.5
    assert abs(slopes.mean() - 0.375) < 0.01
    np.testing.assert_allclose(y.detach().numpy(), slopes * -2, rtol=1e-6)
    layer = nn.RReLU(0.25, 0.5)
    assert layer(anywhere.tensor([4.0])).tolist() == [4.0]
    assert layer.eval()(anywhere.tensor([-4.0])).tolist() == [-1.5]


@pytest.mark.sweep
def test_gumbel_softmax_chooses_by_the_probabilities(anywhere: ModuleType) -> None:
    anywhere.manual_seed(0)
    logits = anywhere.tensor(np.log([0.2, 0.3, 0.5])).expand(3000, 3).clone().requires_grad_()
    hard = F.gumbel_softmax(logits, tau=0.7, hard=True)
    numbers = hard.detach().numpy()
    assert np.allclose(np.sort(numbers, 1), [0, 0, 1])
    np.testing.assert_allclose(numbers.mean(0), [0.2, 0.3, 0.5], atol=0.03)
    (hard * anywhere.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert (logits.grad.numpy() != 0).all()
    np.testing.assert_allclose(logits.grad.numpy().sum(1), 0, atol=1e-12)  # it is that of a softmax
    soft = F.gumbel_softmax(logits.detach(), dim=0)
    np.testing.assert_allclose(soft.numpy().sum(0), 1)
    with pytest.warns(UserWarning, match="`eps` parameter is deprecated and has no effect"):
        F.gumbel_softmax(logits, eps=1.0)


def test_adaptive_log_softmax(anywhere: ModuleType) -> None:
    anywhere.manual_seed(1)
    layer = nn.AdaptiveLogSoftmaxWithLoss(6, 11, [3, 7], div_value=2.0, head_bias=True)
    rng = np.random.default_rng(0)
    x, target = rng.standard_normal((9, 6)).astype("f"), np.array([0, 2, 3, 6, 7, 10, 5, 1, 9])
    weights = {name: p.detach().numpy() for name, p in layer.named_parameters()}
    assert list(weights) == [
        "head.weight",
        "head.bias",
        "tail.0.0.weight",
        "tail.0.1.weight",
        "tail.1.0.weight",
        "tail.1.1.weight",
    ]
    head = special.log_softmax(x @ weights["head.weight"].T + weights["head.bias"], 1)
    tails = [
        special.log_softmax(x @ weights[f"tail.{i}.0.weight"].T @ weights[f"tail.{i}.1.weight"].T, 1)
        for i in (0, 1)
    ]
    want = np.concatenate([head[:, :3], tails[0] + head[:, 3:4], tails[1] + head[:, 4:5]], 1)
    inputs, targets = anywhere.tensor(x), anywhere.tensor(target)
    np.testing.assert_allclose(layer.log_prob(inputs).detach().numpy(), want, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(layer.predict(inputs).numpy(), want.argmax(1))
    output, loss = layer(inputs, targets)
    np.testing.assert_allclose(output.detach().numpy(), want[range(9), target], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(loss.item(), -want[range(9), target].mean(), rtol=1e-5)
    loss.backward()
    assert all(p.grad is not None for p in layer.parameters())
    single = layer(inputs[0], targets[0])
    np.testing.assert_allclose(single.output.item(), want[0, 0], rtol=1e-5)
    with pytest.raises(
        RuntimeError, match=r"Target values should be in \[0, 10\], but values in range \[1, 11\]"
    ):
        layer(inputs, anywhere.tensor(target + 1))
    with pytest.raises(ValueError, match="cutoffs should be a sequence of unique, positive"):
        nn.AdaptiveLogSoftmaxWithLoss(6, 11, [3, 11])


MESSAGES: dict[str, Any] = {
    r"lambda must be in range \[0, 3.40282e\+38\] for input dtype Float, but found -1": lambda x: (
        F.softshrink(x, -1.0)
    ),
    "alpha cannot be 0 for CELU": lambda x: F.celu(x, 0.0),
    "Halving dimension must be even, but dimension 1 is size 3": F.glu,
    "Found parameter numbers = 2 and channel size = 3": lambda x: F.prelu(x, distgrad.ones(2)),
    "prelu: Type promoting not supported. Got Float and Double": lambda x: F.prelu(
        x, distgrad.ones(1).double()
    ),
    "weight` to be a scalar or 1D tensor, but got: ndim = 2": lambda x: F.prelu(x, distgrad.ones(1, 1)),
    "min_val cannot be greater than max_val": lambda x: F.hardtanh(x, 2.0, 1.0),
    "Lower bound should be less than or equal to the upper bound": lambda x: F.rrelu(x, 2.0, 1.0),
    "\"hardswish_cpu\" not implemented for 'Long'": lambda x: F.hardswish(x.long()),
    "Bool inputs not supported for hardtanh": lambda x: F.relu6(x > 0),
    "dtype must be a floating point but you specified Long": lambda x: F.gumbel_softmax(x.long()),
    "Softmax2d: expected input to be 3D or 4D, got 2D instead": nn.Softmax2d(),
    r"max_val \(1\) must be greater than min_val \(2\)": lambda x: nn.Hardtanh(2, 1),
}


@pytest.mark.parametrize("message", MESSAGES)
def test_messages(message: str) -> None:
    with pytest.raises((RuntimeError, ValueError, AssertionError), match=message):
        MESSAGES[message](distgrad.ones(2, 3))


def test_warnings_name_the_users_line() -> None:
    for call in (
        lambda: nn.Softmax()(distgrad.ones(2)),
        lambda: F.softmin(distgrad.ones(2)),
        lambda: nn.Hardtanh(min_value=0.0),
    ):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call()
        assert [w.filename for w in caught] == [__file__]
