"""`nn.init`: the distributions that are drawn from, and that the numbers do not depend on how a tensor is cut."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy import stats

import distgrad
from distgrad import nn

init = nn.init
SHAPE = (50, 80)
FAN_IN, FAN_OUT = 80, 50
TRUNCATED = stats.truncnorm(-1.5, 0.5, loc=1.0, scale=2.0)
RELU = math.sqrt(2)

DRAWS: dict[str, tuple[Any, Any]] = {  # a call, and the distribution
    "uniform": (lambda w: init.uniform_(w, -1, 3), stats.uniform(-1, 4)),
    "normal": (lambda w: init.normal_(w, 1, 2), stats.norm(1, 2)),
    "trunc_normal": (lambda w: init.trunc_normal_(w, 1, 2, -2, 2), TRUNCATED),
    "xavier_normal": (lambda w: init.xavier_normal_(w, 2), stats.norm(0, 2 * math.sqrt(2 / 130))),
    "kaiming_normal": (
        lambda w: init.kaiming_normal_(w, mode="fan_out", nonlinearity="relu"),
        stats.norm(0, RELU / math.sqrt(FAN_OUT)),
    ),
    "xavier_uniform": (init.xavier_uniform_, stats.uniform(-math.sqrt(6 / 130), 2 * math.sqrt(6 / 130))),
    "kaiming_uniform": (
        lambda w: init.kaiming_uniform_(w, math.sqrt(5)),
        stats.uniform(-1 / math.sqrt(FAN_IN), 2 / math.sqrt(FAN_IN)),
    ),
}


@pytest.mark.parametrize("name", DRAWS)
def test_distributions(torch: ModuleType, name: str) -> None:
    draw, distribution = DRAWS[name]
    torch.manual_seed(1)
    w = nn.Parameter(torch.empty(*SHAPE))
    assert draw(w) is w
    assert w.is_leaf
    assert w.grad_fn is None
    assert stats.kstest(w.detach().numpy().ravel(), distribution.cdf).pvalue > 0.01


@pytest.mark.parametrize("name", DRAWS)
def test_cuts_have_no_say_in_the_numbers(start: Any, name: str) -> None:
    draw, _ = DRAWS[name]
    found = []
    for workers, cuts in ((1, None), (3, {0: 7, 1: 11})):
        start(workers=workers, shard_bytes=1 << 12)
        distgrad.manual_seed(5)
        found.append(draw(distgrad.empty(*SHAPE, sharding=cuts)).numpy())
    np.testing.assert_array_equal(*found)


def test_tails_are_not_lost(torch: ModuleType) -> None:
    """Nine deviations above the mean a probability and 1 cannot be told apart; from below they can."""
    with pytest.warns(UserWarning, match="mean is more than 2 std"):
        w = init.trunc_normal_(torch.empty(2000), 0.0, 1.0, 9.0, 10.0).numpy()
    assert w.min() >= 9
    assert w.max() <= 10
    assert abs(w.mean() - stats.truncnorm(9, 10).mean()) < 0.02


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (4, 2, 3)])
def test_orthogonal(torch: ModuleType, shape: tuple[int, ...]) -> None:
    m = init.orthogonal_(torch.empty(*shape), 2.0).numpy().reshape(shape[0], -1)
    small = m @ m.T if m.shape[0] < m.shape[1] else m.T @ m
    np.testing.assert_allclose(small, 4 * np.eye(len(small)), atol=1e-5)


def test_others(torch: ModuleType) -> None:
    w = init.sparse_(torch.empty(10, 7), 0.31).numpy()
    assert ((w == 0).sum(0) == 4).all()
    assert init.eye_(torch.empty(2, 3)).tolist() == [[1, 0, 0], [0, 1, 0]]
    assert init.constant_(torch.empty(2), 3.0).tolist() == [3, 3]
    w = init.dirac_(torch.ones(4, 3, 3), groups=2).numpy()
    expected = np.zeros((4, 3, 3))
    for group in (0, 1):
        for i in range(2):
            expected[group * 2 + i, i, 1] = 1
    np.testing.assert_array_equal(w, expected)
    with pytest.warns(FutureWarning, match=r"`nn.init.uniform` is now deprecated"):
        init.uniform(torch.empty(1))
    with pytest.warns(UserWarning, match="zero-element tensors is a no-op"):
        init.kaiming_uniform_(torch.empty(0, 2))


@pytest.mark.parametrize(
    ("act", "text"),
    [
        (lambda: init.calculate_gain("none"), "Unsupported nonlinearity none"),
        (lambda: init.calculate_gain("leaky_relu", True), "negative_slope True not a valid number"),
        (lambda: init.xavier_normal_(distgrad.empty(3)), "Fan in and fan out can not be computed"),
        (lambda: init.kaiming_normal_(distgrad.empty(3, 2), mode="in"), "Mode in not supported"),
        (lambda: init.eye_(distgrad.empty(3)), "Only tensors with 2 dimensions are supported"),
        (lambda: init.dirac_(distgrad.empty(3, 2, 1), 2), "dim 0 must be divisible by groups"),
        (lambda: init.orthogonal_(distgrad.empty(3)), "Only tensors with 2 or more dimensions"),
    ],
)
def test_errors(act: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        act()


def test_gains() -> None:
    assert init.calculate_gain("conv_transpose2d") == 1
    assert init.calculate_gain("tanh") == 5 / 3
    assert init.calculate_gain("leaky_relu", 1) == 1
