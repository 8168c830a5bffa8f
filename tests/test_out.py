"""`out=`: results written into a tensor that is there already."""

from __future__ import annotations

from types import ModuleType

import pytest


def test_the_result_is_put_into_the_tensor(anywhere: ModuleType) -> None:
    torch = anywhere
    a, b = torch.arange(24.0).view(6, 4), torch.ones(4)
    out = torch.zeros(6, 4, dtype=torch.float64)
    assert torch.add(a, b, out=out) is out
    assert (out._version, out.dtype, out.tolist()) == (1, torch.float64, (a + 1).tolist())
    assert torch.mm(a, a.t(), out=torch.empty(6, 6)).tolist() == (a @ a.t()).tolist()
    assert torch.matmul(a, b, out=torch.empty(6)).tolist() == a.sum(1).tolist()
    assert torch.cat([a, a], out=torch.empty(0)).shape == (12, 4)
    assert torch.exp(a, out=None).shape == (6, 4)
    assert torch.add(out, 1, out=out).tolist() == (a + 2).tolist()  # the operand itself


def test_a_view_writes_through(anywhere: ModuleType) -> None:
    torch = anywhere
    base = torch.zeros(6, 4)
    torch.add(torch.ones(2, 4), 1, out=base[2:4])
    torch.add(torch.ones(6), 2, out=base.t()[3])
    assert base.sum(1).tolist() == [3.0, 3.0, 9.0, 9.0, 3.0, 3.0]
    assert base._version == 2


def test_several_results(anywhere: ModuleType) -> None:
    torch = anywhere
    a = torch.arange(12.0).view(3, 4)
    values, indices = torch.empty(3), torch.empty(3, dtype=torch.int64)
    found = torch.max(a, 1, out=(values, indices))
    assert (found.values is values, found.indices is indices) == (True, True)
    assert (values.tolist(), indices.tolist()) == ([3.0, 7.0, 11.0], [3, 3, 3])
    with pytest.raises(
        RuntimeError, match="Expected out tensor to have dtype long int, but got float instead"
    ):
        torch.max(a, 1, out=(values, torch.empty(3)))


def test_a_tensor_of_another_shape_is_resized(anywhere: ModuleType) -> None:
    torch = anywhere
    out = torch.zeros(5)
    with pytest.warns(
        UserWarning, match=r"resized since it had shape \[5\], which does not match .* \[2, 3\]"
    ):
        torch.add(torch.ones(2, 3), 1, out=out)
    assert out.tolist() == [[2.0] * 3] * 2


def test_what_is_refused_before_anything_changes(anywhere: ModuleType) -> None:
    torch = anywhere
    a = torch.arange(6.0)
    x = torch.ones(6, requires_grad=True)
    out = torch.zeros(6)
    no_grad = "functions with out=... arguments don't support automatic differentiation"
    overlap = "more than one element of the written-to tensor refers to a single memory location"
    for call, error, message in (
        (lambda: torch.add(a, x, out=out), RuntimeError, rf"add\(\): {no_grad}"),
        (lambda: torch.add(a, a, out=x), RuntimeError, no_grad),
        (
            lambda: torch.add(a, a, out=torch.zeros(6, dtype=torch.int64)),
            RuntimeError,
            "can't be cast to the desired",
        ),
        (
            lambda: torch.add(a[:5], 1, out=a[1:]),
            RuntimeError,
            "some elements of the input tensor and the written-to",
        ),
        (lambda: torch.add(a, a, out=torch.zeros(1).expand(6)), RuntimeError, overlap),
        (lambda: torch.add(a, a, out=3), TypeError, "argument 'out' must be Tensor, not int"),
        (
            lambda: torch.transpose(a.view(2, 3), 0, 1, out=out),
            TypeError,
            "unexpected keyword argument 'out'",
        ),
        (lambda: torch.relu(a, out=out), TypeError, "unexpected keyword argument 'out'"),
    ):
        with pytest.raises(error, match=message):
            call()
    assert (out.tolist(), a.tolist()) == ([0.0] * 6, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    with torch.no_grad():
        assert torch.add(a, x, out=out).tolist() == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
