"""A tensor with a part of it replaced: slice_scatter and its kin, fill_diagonal_, as_strided_; and other late names."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

Array = np.ndarray
pytestmark = pytest.mark.parametrize("torch", ["driver", "inproc"], indirect=True)

PLACES: dict[str, tuple[tuple[Any, ...], Any, str]] = {
    "slice": (("slice_scatter", 1, -3, None, 2), np.s_[:, 1::2], "SliceScatterBackward0"),
    "rows": (("slice_scatter", 0, 1), np.s_[1:], "SliceScatterBackward0"),
    "none": (("slice_scatter", 0, 2, 1), np.s_[2:1], "SliceScatterBackward0"),
    "select": (("select_scatter", -1, -2), np.s_[:, 2], "SelectScatterBackward0"),
    "diagonal": (("diagonal_scatter", 1), ([0, 1, 2], [1, 2, 3]), "DiagonalScatterBackward0"),
    "strided": (
        ("as_strided_scatter", (2, 3), (6, 1), 1),
        ([[0, 0, 0], [1, 2, 2]], [[1, 2, 3], [3, 0, 1]]),
        "AsStridedScatterBackward0",
    ),
}


@pytest.fixture
def x(torch: ModuleType) -> Any:
    return torch.arange(12.0, dtype=torch.float64).reshape(3, 4).clone().requires_grad_()


@pytest.mark.parametrize("which", PLACES)
def test_a_part_is_replaced_and_both_have_gradients(torch: ModuleType, x: Any, which: str) -> None:
    (name, *args), place, node = PLACES[which]
    want = np.arange(12.0).reshape(3, 4)
    part = -1.0 - np.arange(want[place].size, dtype=float).reshape(want[place].shape)
    want[place] = part
    src = torch.tensor(part, requires_grad=True)
    for call in (getattr(torch, name), lambda x, *rest: getattr(x, name)(*rest)):
        out = call(x, src, *args)
        np.testing.assert_array_equal(out.detach().numpy(), want)
        assert out.grad_fn.name() == node
    weights = np.arange(1.0, 13).reshape(3, 4)
    grads = torch.autograd.grad(out, (x, src), torch.tensor(weights))
    np.testing.assert_array_equal(grads[1].numpy(), weights[place])
    weights[place] = 0
    np.testing.assert_array_equal(grads[0].numpy(), weights)
    np.testing.assert_array_equal(x.detach().numpy(), np.arange(12.0).reshape(3, 4))


def test_a_part_has_its_shape(torch: ModuleType, x: Any) -> None:
    said = r"expected src to have a size equal to the slice of self. src size = \[4\], slice size = \[3\]"
    for call in (
        lambda: torch.select_scatter(x, torch.ones(4), 1, 2),
        lambda: torch.diagonal_scatter(x, torch.ones(4)),
    ):
        with pytest.raises(RuntimeError, match=said):
            call()
    with pytest.raises(RuntimeError, match="more than one element of the written-to tensor"):
        torch.as_strided_scatter(x, torch.ones(2, 3), (2, 3), (1, 1))


def test_a_part_is_a_tensor_at_a_place_that_there_is(torch: ModuleType, x: Any) -> None:
    for name, *args in (
        ("select_scatter", 0, 0),
        ("slice_scatter", 0),
        ("diagonal_scatter",),
        ("as_strided_scatter", (2,), (1,)),
    ):
        message = rf"{name}\(\): argument 'src' \(position 2\) must be Tensor, not float"
        with pytest.raises(TypeError, match=message):
            getattr(torch, name)(x, 1.5, *args)
    with pytest.raises(TypeError, match=r"argument 'input' \(position 1\) must be Tensor, not int"):
        torch.select_scatter(1, x, 0, 0)
    with pytest.raises(IndexError, match=r"range of \[-2, 1\], but got 5"):
        torch.slice_scatter(x, x, 5, step=0)
    with pytest.raises(IndexError, match=r"index 7 out of range for tensor of size \[3, 4\] at dimension 0"):
        torch.select_scatter(x, torch.ones(4), -2, 7)


@pytest.mark.parametrize(
    ("shape", "wrap", "places"),
    [
        ((2, 4), False, [(0, 0), (1, 1)]),
        ((7, 3), False, [(0, 0), (1, 1), (2, 2)]),
        ((7, 3), True, [(0, 0), (1, 1), (2, 2), (4, 0), (5, 1), (6, 2)]),
        ((9, 2), True, [(0, 0), (1, 1), (3, 0), (4, 1), (6, 0), (7, 1)]),
        ((3, 3, 3), False, [(0, 0, 0), (1, 1, 1), (2, 2, 2)]),
    ],
)
def test_fill_diagonal(torch: ModuleType, shape: Any, wrap: bool, places: Any) -> None:
    leaf = torch.zeros(shape, requires_grad=True)
    x = leaf * 1
    assert x.fill_diagonal_(2.5, wrap) is x
    want = np.zeros(shape)
    want[tuple(zip(*places, strict=True))] = 2.5
    np.testing.assert_array_equal(x.detach().numpy(), want)
    x.sum().backward()
    np.testing.assert_array_equal(leaf.grad.numpy(), want == 0)
    with pytest.raises(RuntimeError, match="dimensions must larger than 1"):
        torch.zeros(3).fill_diagonal_(1)
    with pytest.raises(RuntimeError, match="all dimensions of input must be of equal length"):
        torch.zeros(2, 3, 3).fill_diagonal_(1)


def test_strides_in_place(torch: ModuleType, x: Any) -> None:
    y = x * 1
    assert y.as_strided_((2, 2), (1, 4), 1) is y
    assert (y.tolist(), y.stride(), y.storage_offset(), y._version) == ([[1, 5], [2, 6]], (1, 4), 1, 1)
    assert y.grad_fn.name() == "AsStridedBackward1"
    (g,) = torch.autograd.grad(y, x, torch.tensor([[1.0, 2], [3, 4]], dtype=torch.float64))
    assert g.tolist() == [[0, 1, 3, 0], [0, 2, 4, 0], [0, 0, 0, 0]]


def test_saved_tensors_may_change_in_their_block(torch: ModuleType) -> None:
    graph = torch.autograd.graph
    a = torch.full((2, 3), 2.0, requires_grad=True)
    with graph.allow_mutation_on_saved_tensors():
        b = a.clone()
        out = (b**3).sum()
        b.zero_()
        (g,) = torch.autograd.grad(out, a, create_graph=True)
        assert g.tolist() == [[12.0] * 3] * 2
        (h,) = torch.autograd.grad(g.sum(), a)
        assert h.tolist() == [[12.0] * 3] * 2
        e = a.exp()
        total = e.sum()
        e.data.zero_()
        (g,) = torch.autograd.grad(total, a)
        np.testing.assert_allclose(g.numpy(), np.exp(2.0), rtol=1e-6)
        left = (b.detach() * a * a).sum()
        with (
            pytest.raises(RuntimeError, match="contexts cannot be nested"),
            graph.allow_mutation_on_saved_tensors(),
        ):
            pass
    with pytest.raises(AssertionError, match="Trying to backward outside of the"):
        left.backward()
    with (
        graph.allow_mutation_on_saved_tensors(),
        pytest.raises(AssertionError, match="Trying to backward outside of the"),
    ):
        left.backward()


def test_only_inputs_is_taken(torch: ModuleType) -> None:
    a = torch.ones(2, requires_grad=True)
    (g,) = torch.autograd.grad(a * 3, a, torch.ones(2), True, False, True, True)
    assert g.tolist() == [3, 3]
    with pytest.warns(FutureWarning, match="only_inputs argument is deprecated and is ignored now"):
        torch.autograd.grad(a.sum(), a, only_inputs=False)


def test_batch_norm_without_running_averages(torch: ModuleType) -> None:
    nn = torch.nn
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.InstanceNorm1d(3, track_running_stats=True))
    assert torch.func.replace_all_batch_norm_modules_(net) is net
    assert not net[1].track_running_stats
    assert (net[1].running_mean, net[1].running_var, net[1].num_batches_tracked) == (None, None, None)
    assert net[2].track_running_stats
    x = torch.arange(12.0).reshape(2, 3, 2) ** 2
    out = torch.func.vmap(lambda x: net[1](net[0](x)))(x)
    for one, row in zip(out, x, strict=True):
        h = net[0](row)
        want = (h - h.mean(0)) / (h.var(0, unbiased=False) + 1e-5).sqrt()
        np.testing.assert_allclose(one.detach().numpy(), want.detach().numpy(), rtol=1e-4, atol=1e-4)
