"""Products: every number of dimensions, any cuts, names of nodes and messages; numbers are checked against NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import distgrad
from distgrad.ops.table import OPS
from distgrad.session import door
from distgrad.worker.inproc import InProcess
from distgrad.worker.worker import Worker

Shape = tuple[int, ...]

MATMULS: list[tuple[Shape, Shape, str]] = [
    ((4,), (4,), "DotBackward0"),
    ((3, 4), (4,), "MvBackward0"),
    ((4,), (4, 3), "SqueezeBackward4"),
    ((3, 4), (4, 5), "MmBackward0"),
    ((2, 3, 4), (4,), "UnsafeViewBackward0"),
    ((4,), (2, 4, 5), "UnsafeViewBackward0"),
    ((2, 3, 4), (4, 5), "UnsafeViewBackward0"),
    ((3, 4), (2, 4, 5), "CloneBackward0"),
    ((2, 3, 4), (2, 4, 5), "UnsafeViewBackward0"),
    ((2, 1, 3, 4), (5, 4, 6), "UnsafeViewBackward0"),
    ((2, 3, 4), (1, 2, 4, 5), "UnsafeViewBackward0"),
    ((3, 1, 2, 2), (1, 4, 2, 2), "UnsafeViewBackward0"),
    ((0, 3, 4), (4, 2), "UnsafeViewBackward0"),
    ((2, 3, 0), (2, 0, 5), "UnsafeViewBackward0"),
    ((1, 1, 2), (1, 2, 1), "UnsafeViewBackward0"),
]
EINSUMS: list[tuple[str, list[Shape]]] = [
    ("ij,jk->ik", [(2, 3), (3, 4)]),
    ("ij,jk", [(2, 3), (3, 4)]),
    ("ba", [(2, 3)]),
    ("Ab", [(2, 3)]),
    ("ij->", [(2, 3)]),
    ("ijk->kj", [(2, 3, 4)]),
    ("ii->i", [(3, 3)]),
    ("ii", [(3, 3)]),
    ("iji->j", [(3, 2, 3)]),
    ("iii->i", [(3, 3, 3)]),
    ("abab->ba", [(2, 3, 2, 3)]),
    ("iij,jkk->ik", [(2, 2, 3), (3, 4, 4)]),
    ("i,j->ji", [(2,), (3,)]),
    ("i,i", [(3,), (3,)]),
    ("i,j->", [(2,), (3,)]),
    (",i->i", [(), (3,)]),
    ("bij,bkj->bki", [(2, 3, 4), (2, 5, 4)]),
    ("bhqd,bhkd->bhqk", [(2, 2, 3, 4), (2, 2, 5, 4)]),
    ("...ij,...jk->...ik", [(2, 3, 4), (7, 1, 4, 5)]),
    ("...i->i...", [(2, 3, 4)]),
    ("...a,...b->...", [(2, 3), (2, 4)]),
    ("ij,ij,ij->i", [(2, 3), (1, 3), (2, 1)]),
    ("ab,bc,cd,de->ae", [(2, 7), (7, 2), (2, 7), (7, 3)]),
    ("bi,ij,bj->b", [(3, 4), (4, 5), (3, 5)]),
    (" i j , j k -> k i ", [(2, 3), (3, 4)]),
    ("ab,b->a", [(2, 0), (0,)]),
]


def arrays_of(shapes: Sequence[Shape]) -> list[np.ndarray]:
    return [np.random.default_rng((i, *shape)).normal(size=shape) for i, shape in enumerate(shapes)]


def cut_both_ways(torch: ModuleType, array: np.ndarray) -> Any:
    """A leaf that is cut along all dimensions that are longer than 1."""
    x = torch.tensor(array)
    if torch.is_initialized() and array.size > 1:
        x = x.reshard({d: [n // 2] for d, n in enumerate(array.shape) if n > 1}).detach()
    return x.requires_grad_()


def check(torch: ModuleType, function: Any, equation: str, shapes: Sequence[Shape]) -> Any:
    """Result and gradients are those of NumPy's einsum; lengths of 1 repeat."""
    arrays = arrays_of(shapes)
    xs = [cut_both_ways(torch, a) for a in arrays]
    out = function(*xs)
    want = np.einsum(equation, *arrays)
    assert out.shape == want.shape
    np.testing.assert_allclose(out.detach().numpy(), want, rtol=1e-12, atol=1e-12)
    direction = np.random.default_rng(5).normal(size=want.shape)
    out.backward(torch.tensor(direction))
    for i, x in enumerate(xs):  # the product is linear in each operand
        by = np.random.default_rng(7).normal(size=arrays[i].shape)
        moved = [by if j == i else a for j, a in enumerate(arrays)]
        slope = (np.einsum(equation, *moved) * direction).sum()
        np.testing.assert_allclose((x.grad.numpy() * by).sum(), slope, rtol=1e-10, atol=1e-10)
        assert x.grad.sharding == x.sharding
    return out


def matmul_equation(a: Shape, b: Shape) -> str:
    left, right = "mk" if len(a) > 1 else "k", "kn" if len(b) > 1 else "k"
    dots = "..." if max(len(a), len(b)) > 2 else ""
    before = [dots if len(shape) > 2 else "" for shape in (a, b)]
    return f"{before[0]}{left},{before[1]}{right}->{dots}{left[:-1]}{right[1:]}"


@pytest.mark.parametrize(("a", "b", "node"), MATMULS, ids=str)
def test_matmul(torch: ModuleType, a: Shape, b: Shape, node: str) -> None:
    out = check(torch, torch.matmul, matmul_equation(a, b), [a, b])
    assert out.grad_fn.name() == node
    np.testing.assert_array_equal((torch.ones(*a) @ torch.ones(*b)).numpy(), np.ones(a) @ np.ones(b))


@pytest.mark.parametrize(("equation", "shapes"), EINSUMS, ids=str)
def test_einsum(torch: ModuleType, equation: str, shapes: list[Shape]) -> None:
    check(torch, lambda *xs: torch.einsum(equation, *xs), equation, shapes)
    if all("..." in word for word in equation.partition("->")[0].split(",")):
        return
    check(torch, lambda *xs: torch.einsum(equation, list(xs)), equation, shapes)


def test_an_ellipsis_that_the_result_lacks_is_summed(torch: ModuleType) -> None:
    x = torch.arange(6.0).reshape(2, 3)
    assert torch.einsum("...->", x).tolist() == 15
    assert torch.einsum("...i->i", x).tolist() == [3, 5, 7]


def test_einsum_of_lists(torch: ModuleType) -> None:
    a, b = torch.arange(6).reshape(2, 3), torch.arange(12).reshape(3, 4)
    want = (a @ b).tolist()
    assert torch.einsum(a, [0, 1], b, [1, 2]).tolist() == want
    assert torch.einsum(a, [..., 1], b, [1, 2], [..., 2]).tolist() == want
    assert torch.einsum(a, [30, 7], b, [7, 40], [40, 30]).tolist() == torch.tensor(want).t().tolist()


def test_a_diagonal_does_not_see_the_rest(torch: ModuleType) -> None:
    x = torch.tensor([[1.0, float("nan")], [float("inf"), 2.0]], requires_grad=True)
    y = torch.einsum("ii->i", x)
    y.sum().backward()
    assert y.tolist() == [1, 2]
    assert x.grad.tolist() == [[1, 0], [0, 1]]


def test_what_is_no_number_is_not_hidden(torch: ModuleType) -> None:
    x = torch.tensor([[float("inf"), 0.0]]) @ torch.tensor([[0.0], [1.0]])
    assert x.isnan().tolist() == [[True]]


def test_other_products(torch: ModuleType) -> None:
    check(torch, torch.bmm, "bmk,bkn->bmn", [(3, 2, 4), (3, 4, 5)])
    check(torch, torch.outer, "i,j->ij", [(3,), (4,)])
    check(torch, torch.ger, "i,j->ij", [(3,), (4,)])
    check(torch, torch.vdot, "i,i->", [(5,), (5,)])
    check(torch, torch.inner, "i,i->", [(5,), (5,)])
    check(torch, torch.inner, "abi,ci->abc", [(2, 3, 4), (5, 4)])
    check(torch, torch.inner, ",ij->ij", [(), (2, 3)])
    check(torch, torch.tensordot, "abc,bcd->ad", [(2, 3, 4), (3, 4, 5)])
    check(torch, lambda a, b: torch.tensordot(a, b, 0), "ab,c->abc", [(2, 3), (4,)])
    check(
        torch,
        lambda a, b: torch.tensordot(a, b, dims=([-1, 0], [0, 1])),
        "abc,cad->bd",
        [(2, 3, 4), (4, 2, 5)],
    )
    check(torch, lambda a, b: torch.tensordot(a, b, dims=([1], [0])), "ab,bc->ac", [(2, 1), (3, 4)])


@pytest.mark.parametrize("in_place", [False, True])
def test_products_that_are_added(torch: ModuleType, in_place: bool) -> None:
    for name, equation, shapes in [
        ("addmm", "mk,kn->mn", [(2, 5), (2, 3), (3, 5)]),
        ("addmv", "mk,k->m", [(2,), (2, 3), (3,)]),
        ("addr", "m,n->mn", [(2, 3), (2,), (3,)]),
        ("addbmm", "bmk,bkn->mn", [(2, 5), (4, 2, 3), (4, 3, 5)]),
        ("baddbmm", "bmk,bkn->bmn", [(4, 2, 5), (4, 2, 3), (4, 3, 5)]),
    ]:
        x, a, b = arrays_of(shapes)
        tensors = [cut_both_ways(torch, array) for array in (x, a, b)]
        first = tensors[0].clone() if in_place else tensors[0]
        method = getattr(first, name + "_" * in_place)
        out = method(*tensors[1:], beta=2, alpha=0.5)
        assert (out is first) == in_place
        assert out.grad_fn.name() == name.capitalize() + "Backward0"
        np.testing.assert_allclose(out.detach().numpy(), 2 * x + 0.5 * np.einsum(equation, a, b), rtol=1e-12)
        (out * out).sum().backward()
        np.testing.assert_allclose(tensors[0].grad.numpy(), 4 * out.detach().numpy(), rtol=1e-12)
    nothing = torch.full((2,), float("nan"))
    assert torch.addmv(nothing, torch.ones(2, 3), torch.ones(3), beta=0).tolist() == [3, 3]


def test_names_of_second_order(torch: ModuleType) -> None:
    for name, shapes, nodes in [
        ("mm", [(2, 3), (3, 4)], ["MmBackward0", "MmBackward0"]),
        ("mv", [(2, 3), (3,)], ["MulBackward0", "MvBackward0"]),
        ("dot", [(3,), (3,)], ["MulBackward0", "MulBackward0"]),
        ("bmm", [(2, 2, 3), (2, 3, 4)], ["BmmBackward0", "BmmBackward0"]),
    ]:
        xs = [torch.tensor(a, requires_grad=True) for a in arrays_of(shapes)]
        out = getattr(torch, name)(*xs)
        grads = torch.autograd.grad((out * out).sum(), xs, create_graph=True)
        assert [g.grad_fn.name() for g in grads] == nodes, name


def test_arrays_and_dtypes(torch: ModuleType) -> None:
    x, array = torch.ones(2, 3), np.full((3, 2), 2, np.float32)
    assert (x @ array).tolist() == (array.T @ x.t()).tolist() == [[6, 6], [6, 6]]
    assert torch.einsum("ij,ji", x, array).item() == 12
    whole = torch.arange(6).reshape(2, 3)
    assert (whole @ whole.t()).tolist() == [[5, 14], [14, 50]]
    assert torch.einsum("ij->i", torch.ones(2, 3, dtype=torch.int32)).dtype == torch.int64
    assert torch.outer(x[0], torch.ones(2, dtype=torch.float64)).dtype == torch.float64
    with pytest.raises(TypeError, match="unsupported operand"):
        x @ 3


EINSUM_ERRORS = [
    (
        "ij,jk->ik",
        [(2, 3), (4, 4)],
        "subscript j has size 4 for operand 1 which does not broadcast with previously seen size 3",
    ),
    ("ij,jk->ik", [(2, 3)], "fewer operands were provided than specified in the equation"),
    ("ij->j", [(2, 3), (3,)], "more operands were provided than specified in the equation"),
    ("ij->ik", [(2, 3)], "output subscript k does not appear in the equation for any input operand"),
    ("ij->ii", [(2, 3)], "output subscript i appears more than once in the output"),
    (
        "ijk",
        [(2, 3)],
        "the number of subscripts in the equation (3) does not match the number of dimensions (2) for operand 0 and no "
        "ellipsis was given",
    ),
    (
        "abc...",
        [(2, 3)],
        "the number of subscripts in the equation (3) is more than the number of dimensions (2) "
        "for operand 0",
    ),
    ("ii->i", [(2, 3)], "subscript i is repeated for operand 0 but the sizes don't match, 3 != 2"),
    (
        "i$->i",
        [(2, 3)],
        "invalid subscript given at index 1 in the equation string, subscripts must be in [a-zA-Z]",
    ),
    (
        "ij->i->j",
        [(2, 3)],
        "invalid subscript given at index 5 in the equation string, subscripts must be in [a-zA-Z]",
    ),
    ("i.j", [(2, 3)], "found '.' for operand 0 that is not part of any ellipsis"),
    ("...i...", [(2, 3)], "found '.' for operand 0 for which an ellipsis was already found"),
    ("ij->...i...", [(2, 3)], "found '.' for output but an ellipsis (...) was already found"),
    (
        "...ij,...jk->...ik",
        [(2, 3, 4), (3, 4, 5)],
        "dimension 0 covered by ellipsis in operand 1has size 3 which does not broadcast with previously seen ellipsis "
        "with size 2 for the respective dimension",
    ),
]


def test_a_product_with_an_array_has_the_dtype_of_numpys(anywhere: ModuleType) -> None:
    """torch leaves it to NumPy. Unlike there gradients go through it."""
    torch = anywhere
    x = torch.ones(5, 3, requires_grad=True)
    array = np.arange(6.0).reshape(3, 2)
    product = x @ array
    assert product.dtype is torch.float64
    assert product.tolist() == (np.ones((5, 3)) @ array).tolist()
    product.sum().backward()
    assert x.grad.dtype is torch.float32
    assert x.grad[4].tolist() == [1, 5, 9]
    assert (x.detach() @ np.ones((3, 2), np.int64)).dtype is torch.float64
    assert (torch.ones(2, 3, dtype=torch.int64) @ array).dtype is torch.float64
    assert (x.detach() @ array.astype(np.float32)).dtype is torch.float32
    assert (x.detach()[0] @ array[:, 0]).item() == 6


@pytest.mark.parametrize(("equation", "shapes", "text"), EINSUM_ERRORS, ids=str)
def test_einsum_errors(equation: str, shapes: list[Shape], text: str) -> None:
    with pytest.raises(RuntimeError) as caught:
        distgrad.einsum(equation, *(distgrad.ones(*s) for s in shapes))
    assert str(caught.value) == f"einsum(): {text}"


MATMUL_ERRORS: list[tuple[Shape, Shape, str]] = [
    ((2, 3, 4), (5,), "size mismatch, got input (6), mat (6x4), vec (5)"),
    ((2, 3, 4), (5, 6), "mat1 and mat2 shapes cannot be multiplied (6x4 and 5x6)"),
    (
        (2, 3, 4),
        (2, 5, 6),
        "Expected size for first two dimensions of batch2 tensor to be: [2, 4] but got: [2, 5].",
    ),
    (
        (2, 3, 4),
        (3, 4, 6),
        "The size of tensor a (2) must match the size of tensor b (3) at non-singleton dimension 0",
    ),
    ((4,), (2, 5, 6), "size mismatch, got input (12), mat (12x5), vec (4)"),
    ((3, 4), (2, 5, 6), "mat1 and mat2 shapes cannot be multiplied (12x5 and 4x3)"),
    ((4,), (5, 6), "mat1 and mat2 shapes cannot be multiplied (1x4 and 5x6)"),
]


@pytest.mark.parametrize(("a", "b", "text"), MATMUL_ERRORS, ids=str)
def test_matmul_errors(a: Shape, b: Shape, text: str) -> None:
    with pytest.raises(RuntimeError) as caught:
        distgrad.matmul(distgrad.ones(*a), distgrad.ones(*b))
    assert str(caught.value) == text


def test_errors_of_other_products() -> None:
    ones, double = distgrad.ones, distgrad.float64

    def refused(
        text: str, function: Any, *args: Any, kind: type[Exception] = RuntimeError, **more: Any
    ) -> None:
        with pytest.raises(kind) as caught:
            function(*args, **more)
        assert str(caught.value) == text

    refused("batch2 must be a 3D tensor", distgrad.bmm, ones(2, 3, 4), ones(3, 4))
    refused(
        "expected scalar type Float but found Double",
        distgrad.bmm,
        ones(2, 2, 2),
        ones(2, 2, 2, dtype=double),
    )
    refused("outer: Expected 1-D argument vec2, but got 2-D", distgrad.outer, ones(2), ones(3, 4))
    refused("both inputs should have same dtype", distgrad.inner, ones(2), ones(2, dtype=double))
    refused(
        "contracted dimensions need to match, but first has size 3 in dim -1 and second has size 4 in dim 0",
        distgrad.tensordot,
        ones(3, 3),
        ones(4, 3),
        dims=1,
    )
    refused("tensordot expects dims >= 0, but got dims=-1", distgrad.tensordot, ones(2), ones(2), dims=-1)
    refused("mat1 must be a matrix, got 3-D tensor", distgrad.addmm, ones(4), ones(2, 3, 1), ones(2, 4))
    refused(
        "Input dtypes must be the same, got: input float, batch1: double, batch2: double",
        distgrad.baddbmm,
        ones(2),
        *(ones(2, 2, 2, dtype=double),) * 2,
    )
    flags = ones(2, 2, 2, dtype=distgrad.bool)
    refused("\"bmm\" not implemented for 'Bool'", distgrad.bmm, flags, flags, kind=NotImplementedError)


def test_no_operand_is_cut_anew() -> None:
    """Neither an operand that is cut along both dimensions, for a gradient, nor one that is cut along the batch."""
    door.shutdown()
    door.attach(InProcess(2, Worker), inline_bytes=0, shard_bytes=1 << 12)
    try:
        x = distgrad.rand(256, 256, sharding={0: 64, 1: 64})
        g, b = distgrad.rand(256, 4), distgrad.rand(64, 4, 4, sharding=8)
        distgrad.synchronize()
        grad = OPS["mm"].formulas[1].function(g, x)
        batches = b @ b.transpose(1, 2) @ distgrad.ones(4, 4)
        plan = distgrad.session.explain([grad._value, batches._value]).text
        assert plan.count("contract") == 2
        assert "reshard of float32[256, 256]" not in plan
        assert "reshard of float32[64" not in plan
    finally:
        door.shutdown()
