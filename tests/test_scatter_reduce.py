"""Scattering with a reduction: torch's values and gradients, as torch 2.13 has them."""

from __future__ import annotations

import itertools
from types import ModuleType
from typing import Any

import numpy as np
import pytest

BASE, SRC, PLACES = [1.0, 2, 3, 4], [5.0, 6, 7, 8], [0, 1, 1, 0]
FOUND = {  # (result, gradient of input, of src) for the gradient (1, 2, 3, 4)
    ("sum", True): ([14, 15, 3, 4], [1, 2, 3, 4], [1, 2, 2, 1]),
    ("sum", False): ([13, 13, 3, 4], [0, 0, 3, 4], [1, 2, 2, 1]),
    ("prod", True): ([40, 84, 3, 4], [40, 84, 3, 4], [8, 28, 24, 5]),
    ("prod", False): ([40, 42, 3, 4], [0, 0, 3, 4], [8, 14, 12, 5]),
    ("mean", True): ([14 / 3, 5, 3, 4], [1 / 3, 2 / 3, 3, 4], [1 / 3, 2 / 3, 2 / 3, 1 / 3]),
    ("mean", False): ([6.5, 6.5, 3, 4], [0, 0, 3, 4], [0.5, 1, 1, 0.5]),
    ("amax", True): ([8, 7, 3, 4], [0, 0, 3, 4], [0, 0, 2, 1]),
    ("amax", False): ([8, 7, 3, 4], [0, 0, 3, 4], [0, 0, 2, 1]),
    ("amin", True): ([1, 2, 3, 4], [1, 2, 3, 4], [0, 0, 0, 0]),
    ("amin", False): ([5, 6, 3, 4], [0, 0, 3, 4], [1, 2, 0, 0]),
}


def leaf(torch: ModuleType, numbers: Any) -> Any:
    return torch.tensor(numbers, dtype=torch.float64, requires_grad=True)


CALLS = [("scatter_reduce", *key) for key in FOUND]
CALLS += [("index_reduce", *key) for key in FOUND if key[0] != "sum"]  # for sums there is index_add


@pytest.mark.parametrize(("name", "reduce", "include_self"), CALLS)
@pytest.mark.filterwarnings("ignore:index_reduce")
def test_values_and_gradients(anywhere: ModuleType, name: str, reduce: str, include_self: bool) -> None:
    torch = anywhere
    x, src = leaf(torch, BASE), leaf(torch, SRC)
    out = getattr(x, name)(0, torch.tensor(PLACES), src, reduce, include_self=include_self)
    (out * torch.arange(1.0, 5.0)).sum().backward()
    for found, expected in zip((out, x.grad, src.grad), FOUND[reduce, include_self], strict=True):
        np.testing.assert_allclose(found.detach().numpy(), expected)
    changed = x.detach().clone()
    getattr(changed, name + "_")(0, torch.tensor(PLACES), src.detach(), reduce, include_self=include_self)
    np.testing.assert_allclose(changed.numpy(), FOUND[reduce, include_self][0])


def test_products_with_zeros(anywhere: ModuleType) -> None:
    """The gradient for a zero is the product of the others; where there are two it is zero, and has none itself."""
    torch = anywhere
    x, src = leaf(torch, [0.0, 7, 3, 4]), leaf(torch, [0.0, 0, 7, 8])
    out = x.scatter_reduce(0, torch.tensor([1, 0, 1, 1]), src, "prod")
    (gx, gs) = torch.autograd.grad(out.sum(), (x, src), create_graph=True)
    assert gx.tolist() == [0, 0, 1, 1]
    assert gs.tolist() == [7 * 7 * 8, 0, 0, 0]
    src = leaf(torch, [0.0, 0, 5])
    (gs,) = torch.autograd.grad(
        x.scatter_reduce(0, torch.tensor([1, 1, 2]), src, "prod").sum(), src, create_graph=True
    )
    assert gs.tolist() == [0, 0, 3]
    (second,) = torch.autograd.grad(gs.sum(), src)
    assert np.isnan(second.tolist()[:2]).all()


def test_ties_share_one_gradient(anywhere: ModuleType) -> None:
    """Without `include_self` what stood there has no share: torch counts it all the same."""
    torch = anywhere
    x, src = leaf(torch, [7.0, 7, 0]), leaf(torch, [7.0, 7, 7])
    for include_self, mine, theirs in (
        (True, [0.5, 1 / 3, 1], [0.5, 1 / 3, 1 / 3]),
        (False, [0, 0, 1], [1, 0.5, 0.5]),
    ):
        x.grad = src.grad = None
        x.scatter_reduce(0, torch.tensor([0, 1, 1]), src, "amax", include_self=include_self).sum().backward()
        np.testing.assert_allclose(x.grad.numpy(), mine)
        np.testing.assert_allclose(src.grad.numpy(), theirs)


def test_many_along_each_dimension(anywhere: ModuleType) -> None:
    """More is scattered than there are places; shards of all are uneven. Of integers a mean is rounded down."""
    torch, random = anywhere, np.random.default_rng(0)
    ufuncs = {"sum": np.add, "prod": np.multiply, "amax": np.maximum, "amin": np.minimum, "mean": np.add}
    for dim, (reduce, ufunc), include_self in itertools.product((0, 1), ufuncs.items(), (True, False)):
        shape = (5, 7)
        base, src = random.integers(-9, 9, shape), random.integers(-9, 9, (11, 7) if dim == 0 else (5, 11))
        index = random.integers(0, shape[dim] - 1, src.shape)
        expected, count = base.copy(), np.full(shape, int(include_self))
        for at in np.ndindex(index.shape):
            there = (index[at], at[1]) if dim == 0 else (at[0], index[at])
            expected[there] = ufunc(expected[there], src[at]) if count[there] else src[at]
            count[there] += 1
        if reduce == "mean":
            expected //= np.maximum(count, 1)
        x, places, more = (torch.tensor(a) for a in (base, index, src))
        out = torch.scatter_reduce(x, dim, places, more, reduce, include_self=include_self)
        assert out.tolist() == expected.tolist(), (dim, reduce, include_self)


def test_scatter_that_adds_or_multiplies(anywhere: ModuleType) -> None:
    torch = anywhere
    x, src, places = torch.tensor(BASE), torch.tensor(SRC), torch.tensor(PLACES)
    with pytest.warns(UserWarning, match="Use torch.scatter_reduce instead"):
        assert x.scatter(0, places, src, reduce="add").tolist() == [14, 15, 3, 4]
    assert x.scatter(0, places, 2.0, reduce="multiply").tolist() == [4, 8, 3, 4]
    assert torch.scatter(x, 0, places, value=2, reduce="add").tolist() == [5, 6, 3, 4]
    assert x.scatter_(0, places, value=2.0, reduce="add") is x
    assert x.tolist() == [5, 6, 3, 4]
    assert torch.scatter(x, 0, places[:1], 9.0, out=torch.empty(4)).tolist() == [9, 6, 3, 4]


MESSAGES = {
    "scatter_reduce(0, i, s, 'foo')": "reduce argument must be either sum, prod, mean, amax or amin, got foo",
    "scatter(0, i, s, reduce='mean')": "reduce argument must be either add or multiply.",
    "index_reduce(0, i, s, 'sum')": (
        "index_reduce(): Expected reduce to be one of prod, mean, amax or amin but got sum."
    ),
    "scatter_reduce(0, i, i, 'sum')": "scatter(): Expected self.dtype to be equal to src.dtype",
    "scatter_reduce(0, i + 3, s, 'amax')": "index 4 is out of bounds for dimension 0 with size 4",
    "index_reduce(0, i, s[:3], 'amax')": (
        "index_reduce_(): Number of indices (4) should be equal to source.size(dim): (3), for dim: 0"
    ),
    "index_reduce(0, i, i, 'prod')": "index_reduce_(): self (Float) and source (Long) must have the same scalar type",
    "index_reduce(0, i[None], s, 'prod')": (
        "index_reduce_(): Index is supposed to be a vector, but got dim: 2 with type: Long and size: [1, 4]"
    ),
    "index_reduce(0, s, s, 'prod')": "index_reduce_(): Expected dtype int32/int64 for index but got: Float",
}


@pytest.mark.parametrize("call", MESSAGES)
@pytest.mark.filterwarnings("ignore:index_reduce")
def test_messages(anywhere: ModuleType, call: str) -> None:
    torch = anywhere
    names = {"x": torch.tensor(BASE), "s": torch.tensor(SRC), "i": torch.tensor(PLACES)}
    with pytest.raises((RuntimeError, IndexError)) as error:
        assert eval(f"x.{call}", names).tolist()
    assert MESSAGES[call] in str(error.value).splitlines()[0]


def test_index_reduce_warns(anywhere: ModuleType) -> None:
    torch = anywhere
    with pytest.warns(UserWarning, match="in beta and the API may change at any time"):
        torch.index_reduce(torch.ones(3), 0, torch.tensor([1]), torch.ones(1), "prod")
