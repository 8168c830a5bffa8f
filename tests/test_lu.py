"""LU and LDL factors, what is solved by them, and `inv_ex`, `solve_ex`, `cholesky_ex`, beside NumPy and torch 2.13."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from op_calls import workers

import distgrad

DRIVER = pytest.mark.parametrize("torch", ["driver"], indirect=True)
BOTH = pytest.mark.parametrize("torch", ["driver", "inproc"], indirect=True)
SHAPES = [(3, 3), (2, 4), (4, 2), (2, 3, 3), (0, 3)]
RNG = np.random.default_rng(0)
A = np.array([[1.0, 2, 3], [4, 5, 6], [7, 8, 10]])
B = np.array([[1.0, 2], [3, -1], [0, 5]])


@BOTH
@pytest.mark.parametrize("shape", SHAPES)
def test_lu_factors(torch: ModuleType, shape: tuple[int, ...]) -> None:
    x = RNG.standard_normal(shape)
    p, lower, upper = (part.numpy() for part in torch.linalg.lu(torch.tensor(x)))
    k = min(shape[-2:])
    assert (lower.shape, upper.shape) == ((*shape[:-1], k), (*shape[:-2], k, shape[-1]))
    np.testing.assert_allclose(p @ lower @ upper, x, atol=1e-12)
    np.testing.assert_array_equal(p.sum(-1), np.ones(shape[:-1]))
    np.testing.assert_array_equal(lower, np.tril(lower, -1) + np.eye(shape[-2], k))
    assert (np.abs(lower) <= 1).all()
    np.testing.assert_array_equal(upper, np.triu(upper))
    both, pivots = torch.linalg.lu_factor(torch.tensor(x))
    assert (pivots.dtype, tuple(pivots.shape)) == (torch.int32, (*shape[:-2], k))
    for one, other in zip(torch.lu_unpack(both, pivots), (p, lower, upper), strict=True):
        np.testing.assert_array_equal(one.numpy(), other)


@DRIVER
@pytest.mark.parametrize("shape", [(3, 3), (2, 4), (4, 2), (2, 2, 2)])
def test_gradients_of_factors(torch: ModuleType, shape: tuple[int, ...]) -> None:
    x = torch.tensor(RNG.standard_normal(shape), requires_grad=True)
    both = lambda x: torch.linalg.lu(x)[1:]  # noqa: E731
    assert torch.autograd.gradcheck(both, x)
    assert torch.autograd.gradgradcheck(both, x, fast_mode=True)


def test_the_same_gradients_on_workers() -> None:
    def gradients(x: np.ndarray) -> list[np.ndarray]:
        leaf = distgrad.tensor(x, requires_grad=True)
        linalg = distgrad.linalg
        lower, upper = linalg.lu(leaf)[1:]
        solved = linalg.lu_solve(*linalg.lu_factor(leaf), distgrad.ones(3, 1, dtype=distgrad.float64))
        inverse, definite = linalg.inv_ex(leaf)[0], linalg.cholesky_ex(leaf @ leaf.mT)[0]
        total = (lower * upper).sum() + solved.sum() + (inverse * definite).sum()
        (g,) = distgrad.autograd.grad(total, leaf, create_graph=True)
        return [g.detach().numpy(), distgrad.autograd.grad(g.square().sum(), leaf)[0].numpy()]

    x = np.stack([A, A.T + 1, A**2 / 10])
    with workers(inline_bytes=1 << 16):
        wants = [gradients(one) for one in x]
    with workers(shard_bytes=80):
        found = gradients(x)
    for n, alone in enumerate(wants):
        for g, want in zip(found, alone, strict=True):
            np.testing.assert_allclose(g[n], want, rtol=1e-8)


@DRIVER
def test_what_is_solved_by_factors(torch: ModuleType) -> None:
    x = torch.tensor(np.stack([A, A.T + 1]), requires_grad=True)
    b = torch.tensor(B, requires_grad=True)
    solve = torch.linalg.lu_solve

    def ways(x: Any, b: Any) -> Any:
        f = torch.linalg.lu_factor(x)
        return [
            solve(*f, b),
            solve(*f, b, adjoint=True),
            solve(*f, b.T, left=False),
            solve(*f, b.T, left=False, adjoint=True),
            torch.lu_solve(b, *f),
        ]

    for n, found in enumerate(ways(x, b)):
        for one, m in zip(found.detach().numpy(), (A, A.T + 1), strict=True):
            m = m.T if n in (1, 3) else m
            want = np.linalg.solve(m.T, B).T if n in (2, 3) else np.linalg.solve(m, B)
            np.testing.assert_allclose(one, want, atol=1e-11)
    for n in range(4):
        assert torch.autograd.gradcheck(lambda x, b, n=n: ways(x, b)[n], (x, b), fast_mode=True)


@BOTH
def test_torchs_pivots_and_errors(torch: ModuleType) -> None:
    linalg, zeros = torch.linalg, torch.zeros(2, 2, 2)
    found = linalg.lu_factor_ex(torch.tensor(A, requires_grad=True))
    assert (found.pivots.tolist(), found.info.item(), found._fields) == (
        [3, 3, 3],
        0,
        ("LU", "pivots", "info"),
    )
    assert found.LU.grad_fn.name() == "LinalgLuFactorExBackward0"
    assert linalg.lu_factor_ex(zeros).info.tolist() == [1, 1]
    message = (
        r"torch.linalg.lu_factor: \(Batch element 0\): U\[1,1\] is zero and using it on lu_solve would result"
    )
    with pytest.raises(RuntimeError, match=message):
        linalg.lu_factor(zeros).LU.numpy()
    with pytest.raises(RuntimeError, match="LU without pivoting is not implemented on the CPU"):
        linalg.lu(zeros, pivot=False)
    with pytest.raises(
        RuntimeError, match=r"torch.lu_factor: Expected tensor with 2 or more dimensions. Got size: \[3"
    ):
        linalg.lu_factor(torch.ones(3))
    with pytest.raises(NotImplementedError, match="\"lu_cpu\" not implemented for 'Long'"):
        linalg.lu_factor(torch.ones(3, 3, dtype=torch.int64))
    f = linalg.lu_factor(torch.tensor(A))
    with pytest.raises(RuntimeError, match=r"pivots should be a Tensor of scalar type torch.int32"):
        linalg.lu_solve(f.LU, f.pivots.long(), torch.tensor(B))
    with pytest.raises(
        RuntimeError, match=r"Incompatible shapes of A and B for the equation AX = B \(3x3 and 2x2"
    ):
        linalg.lu_solve(*f, torch.tensor(B[:2]))
    with pytest.raises(Exception, match="pivots must be from 1 to 3"):
        torch.lu_unpack(f.LU, f.pivots + 7).P.numpy()


@DRIVER
def test_pivots_and_factors_belong_together(torch: ModuleType) -> None:
    linalg, b = torch.linalg, torch.tensor(B)
    lu, p = linalg.lu_factor(torch.tensor(A))
    twice = torch.stack([p, p])
    solve, ldl_solve = linalg.lu_solve, linalg.ldl_solve
    ld, q = linalg.ldl_factor(torch.tensor(A))
    for call, message in (
        (
            lambda: solve(lu, p[:2], b),
            r"^linalg.lu_solve: Number of pivots per batch should be same as the dim",
        ),
        (
            lambda: torch.lu_solve(b, lu, twice),
            r"LU.shape\[:-1\] and pivots.shape to .* with shape \[2, 3\] instead",
        ),
        (
            lambda: solve(lu[:, :2], p[:2], b),
            r"^torch.linalg.lu_solve: .* square matrices, but they are 3 by 2",
        ),
        (
            lambda: torch.lu_unpack(lu[0], p),
            r"^torch.lu_unpack: Expected tensor with 2 or more .*: \[3\] instead",
        ),
        (lambda: ldl_solve(ld, q[:2], b), r"LD.shape\[:-1\] and pivots.shape to .* with shape \[2\] instead"),
        (lambda: ldl_solve(ld, q[0], b), r"pivots with shape \[\] instead"),
        (lambda: ldl_solve(ld, q.double(), b), r"ldl_solve: Expected pivots to be integers. Got Double"),
    ):
        with pytest.raises(RuntimeError, match=message):
            call()
    assert torch.lu_unpack(lu, p.long(), unpack_pivots=False).P.shape == (0,)


@BOTH
def test_info_is_of_the_matrix_itself(torch: ModuleType) -> None:
    solve_ex, x = (
        torch.linalg.solve_ex,
        torch.tensor([[1.0, 2, 3], [2, 4, 6], [1, 1, 1]], dtype=torch.float64),
    )
    found = solve_ex(x, torch.ones(2, 3, dtype=torch.float64), left=False)
    assert found.info.item() == 3  # its transpose is singular at 2
    assert np.isnan(found.result.numpy()).all()
    for check in (False, True):
        a, b = torch.tensor(A, requires_grad=True), torch.tensor(np.stack([B, -B]))
        found = solve_ex(a, b, check_errors=check)
        assert (found.info.shape, found.info.item()) == ((), 0)
        np.testing.assert_allclose(found.result[1].detach().numpy(), -np.linalg.solve(A, B), atol=1e-12)
        found = solve_ex(a, b.mT, left=False, check_errors=check)
        want = np.linalg.solve(A.T, B).T
        np.testing.assert_allclose(found.result[0].detach().numpy(), want, atol=1e-12)
        (g,) = torch.autograd.grad(found.result[0].sum(), a)
        np.testing.assert_allclose(g.numpy(), -want.T @ np.linalg.solve(A, np.ones((3, 2))).T, atol=1e-12)
    assert solve_ex(x.expand(2, 1, 3, 3), torch.ones(5, 3, 2).double()).info.tolist() == [[3], [3]]


@BOTH
def test_a_nan_is_not_positive_definite(torch: ModuleType) -> None:
    x = np.tile(np.eye(3), (5, 1, 1))
    for i, place in enumerate(((0, 0), (1, 0), (2, 1), (2, 0), (0, 2))):
        x[(i, *place)] = np.nan
    info = torch.linalg.cholesky_ex(torch.tensor(x)).info
    assert (info.tolist(), info.dtype) == ([1, 2, 3, 3, 0], torch.int32)
    for call in (torch.linalg.cholesky, lambda x: torch.linalg.cholesky_ex(x, check_errors=True).L):
        with pytest.raises(Exception, match=r"the leading minor of order 2 is not positive-definite"):
            call(torch.tensor(x[1])).numpy()


@DRIVER
def test_what_has_none_says_so(torch: ModuleType) -> None:
    linalg = torch.linalg
    x = torch.tensor(np.stack([A, np.array([[1.0, 2, 0], [2, 4, 0], [0, 0, 1]])]))
    inverse, info = linalg.inv_ex(x)
    assert (info.tolist(), info.dtype) == ([0, 2], torch.int32)
    np.testing.assert_allclose(inverse[0].numpy(), np.linalg.inv(A), atol=1e-12)
    assert not np.isfinite(inverse[1].numpy()).all()
    solved, info = linalg.solve_ex(x, torch.tensor(B))
    assert info.tolist() == [0, 2]
    np.testing.assert_allclose(solved[0].numpy(), np.linalg.solve(A, B), atol=1e-12)
    (vector, info), turned = (
        linalg.solve_ex(x[0], torch.tensor(B[:, 0])),
        linalg.solve_ex(x[0], x[0] @ x[0], left=False),
    )
    np.testing.assert_allclose(vector.numpy(), np.linalg.solve(A, B[:, 0]), atol=1e-12)
    np.testing.assert_allclose(turned.result.numpy(), A, atol=1e-11)
    definite = A @ A.T
    bad = np.array([[1.0, 2, 0], [2, 1, 0], [0, 0, 1]])
    lower, info = linalg.cholesky_ex(torch.tensor(np.stack([definite, bad])))
    assert info.tolist() == [0, 2]
    np.testing.assert_allclose(lower[0].numpy(), np.linalg.cholesky(definite), atol=1e-10)
    upper = linalg.cholesky_ex(torch.tensor(definite), upper=True).L
    np.testing.assert_allclose(upper.numpy(), np.linalg.cholesky(definite).T, atol=1e-10)
    for call in (linalg.inv_ex, linalg.cholesky_ex, lambda x, **more: linalg.solve_ex(x, x, **more)):
        with pytest.raises(RuntimeError, match=r"singular|not positive-definite"):
            call(-x[1], check_errors=True)[0].numpy()
        leaf = torch.tensor(definite, requires_grad=True)
        assert torch.autograd.gradcheck(lambda m, call=call: call(0.5 * (m + m.T))[0], leaf)


@BOTH
@pytest.mark.parametrize("seed", range(4))
def test_ldl(torch: ModuleType, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((3, 5, 5))
    x = x + x.swapaxes(1, 2)
    x[1] -= np.diag(np.diag(x[1]))  # blocks of two rows
    factor, pivots, info = torch.linalg.ldl_factor_ex(torch.tensor(x))
    assert (pivots.dtype, info.tolist()) == (torch.int32, [0, 0, 0])
    assert (pivots[1] < 0).any()
    b = rng.standard_normal((3, 5, 2))
    found = torch.linalg.ldl_solve(factor, pivots, torch.tensor(b))
    np.testing.assert_allclose(found.numpy(), np.linalg.solve(x, b), atol=1e-8)
    factor, pivots = torch.linalg.ldl_factor(torch.tensor([[0.0, 1, 2], [1, 0, 3], [2, 3, 0]]))
    assert pivots.tolist() == [-3, -3, 3]
    np.testing.assert_allclose(factor.numpy(), [[0, 0, 0], [2, 0, 0], [1.5, 0.5, -3]], atol=1e-6)
    leaf = torch.tensor(x, requires_grad=True)
    with pytest.raises(RuntimeError, match="derivative for aten::linalg_ldl_factor_ex is not implemented"):
        torch.linalg.ldl_factor(leaf).LD.sum().backward()
    with pytest.raises(Exception, match="pivots must be from 1 to 5"):
        torch.linalg.ldl_solve(torch.tensor(x[0]), torch.tensor([-1, 2, 3, 4, 5]), torch.tensor(b[0])).numpy()
