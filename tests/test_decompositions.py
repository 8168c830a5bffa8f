"""Decompositions and linear equations: gradients of symmetric matrices, torch's errors, what singular matrices give."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import distgrad as t


def slopes(f: Any, x: np.ndarray) -> np.ndarray:
    """The gradient of a number by central differences."""
    found = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[i] = 1e-6
        found[i] = (f(x + step) - f(x - step)) / 2e-6
    return found


X = np.array([[2.0, 0.3, -0.5], [0.1, 1.5, 0.4], [0.7, -0.2, 1.1]])
W = np.array([[0.3, -1.0, 0.5], [0.8, 0.2, -0.4], [1.0, 0.6, -0.7]])


@pytest.mark.parametrize(
    ("name", "ours", "numpys"),
    [
        ("cholesky", lambda a: t.linalg.cholesky(a), np.linalg.cholesky),
        ("upper", lambda a: t.linalg.cholesky(a, upper=True), lambda a: np.linalg.cholesky(a).T),
        (
            "eigenvalues",
            lambda a: t.linalg.eigvalsh(a) * t.ones(3, 1),
            lambda a: np.linalg.eigvalsh(a) * np.ones((3, 1)),
        ),
        ("eigenvectors", lambda a: t.linalg.eigh(a)[1] ** 2, lambda a: np.linalg.eigh(a)[1] ** 2),
        ("inverse", lambda a: t.cholesky_inverse(t.linalg.cholesky(a)), np.linalg.inv),
    ],
)
def test_gradients_of_symmetric_matrices(torch: ModuleType, name: str, ours: Any, numpys: Any) -> None:
    x = torch.tensor(X, requires_grad=True)
    w = torch.tensor(W)
    f = lambda x: (ours(x @ x.T) * w).sum()  # noqa: E731
    f(x).backward(create_graph=True)
    np.testing.assert_allclose(
        x.grad.detach().numpy(), slopes(lambda x: (numpys(x @ x.T) * W).sum(), X), atol=1e-7
    )
    (second,) = torch.autograd.grad((x.grad * w).sum(), x)

    def along(x: np.ndarray) -> float:
        leaf = t.tensor(x, requires_grad=True)
        return (t.autograd.grad(f(leaf), leaf)[0] * w).sum().item()

    np.testing.assert_allclose(second.numpy(), slopes(along, X), rtol=1e-5, atol=1e-6)


def test_batches_are_cut(start: Any) -> None:
    x = np.random.default_rng(0).standard_normal((9, 3, 3)) + 3 * np.eye(3)
    found = []
    for workers in (1, 3):
        start(workers, shard_bytes=200)
        a = t.tensor(x, requires_grad=True)
        out = t.linalg.solve(a, t.ones(3, 1, dtype=t.float64)).sum() + t.linalg.slogdet(a)[1].sum()
        out.backward()
        found.append((out.item(), a.grad.numpy()))
    assert found[0][0] == found[1][0]
    np.testing.assert_array_equal(found[0][1], found[1][1])


FAILS: dict[str, tuple[Any, float]] = {  # and with which number in place of the matrices
    "linalg.inv: (Batch element {}): The diagonal element 1 is zero": (t.linalg.inv, 0.0),
    "torch.linalg.solve: (Batch element {}): The solver failed": (
        lambda x: t.linalg.solve(x, t.ones(x.shape[:-1]).double()),
        0.0,
    ),
    "linalg.cholesky: (Batch element {}): The factorization": (t.linalg.cholesky, -1.0),
    "torch.linalg.lu_factor: (Batch element {}): U[1,1] is zero": (t.linalg.lu_factor, 0.0),
    "linalg.svd: (Batch element {}): The algorithm failed": (t.linalg.svdvals, math.nan),
}


@pytest.mark.parametrize("text", FAILS)
@pytest.mark.parametrize("batch", [(9,), (3, 3)])
def test_the_first_bad_matrix_is_counted_in_the_whole_batch(
    anywhere: ModuleType, text: str, batch: tuple[int, ...]
) -> None:
    call, bad = FAILS[text]
    x = np.broadcast_to(np.eye(2), (9, 2, 2)).copy()
    x[[5, 8]] = bad
    with pytest.raises(anywhere.linalg.LinAlgError) as caught:
        print(call(anywhere.tensor(x.reshape(*batch, 2, 2))))
    assert str(caught.value).startswith(text.format(5))


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: t.linalg.cholesky(-t.eye(2)), r"minor of order 1 is not positive-definite\)"),
        (
            lambda: t.linalg.cholesky(t.stack([t.eye(2), -t.eye(2)])),
            r"\(Batch element 1\): The factorization",
        ),
        (
            lambda: t.linalg.solve(t.zeros(2, 2), t.ones(2)),
            "The solver failed because the input matrix is singular",
        ),
    ],
)
def test_matrices_that_cannot_be_taken(call: Any, text: str) -> None:
    with pytest.raises(t.linalg.LinAlgError, match=text):
        call()


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda: t.linalg.cholesky(t.ones(2, 3)),
            "A must be batches of square matrices, but they are 2 by 3 matrices",
        ),
        (lambda: t.linalg.cholesky(t.ones(3)), "The input tensor A must have at least 2 dimensions"),
        (
            lambda: t.linalg.inv(t.ones(2, 2, dtype=t.int64)),
            "Expected a floating point or complex tensor as input. Got Long",
        ),
        (lambda: t.linalg.solve(t.eye(2), t.ones(3, 1)), r"equation AX = B \(2x2 and 3x1\)"),
        (
            lambda: t.linalg.solve_triangular(t.eye(2), t.ones(2), upper=True),
            "The input tensor B must have at least 2",
        ),
        (lambda: t.linalg.qr(t.eye(2), mode="x"), "qr received unrecognized mode 'x'"),
    ],
)
def test_errors(call: Any, text: str) -> None:
    with pytest.raises(RuntimeError, match=text):
        call()


def test_a_zero_on_the_diagonal_is_divided_by() -> None:
    a = t.tensor([[1.0, 0.0], [1.0, 0.0]])
    x = t.linalg.solve_triangular(a, t.tensor([[1.0], [3.0]]), upper=False)
    assert x.tolist() == [[1.0], [float("inf")]]


def test_results_have_names() -> None:
    found = t.linalg.eigh(t.eye(2))
    assert repr(found).startswith(
        "torch.return_types.linalg_eigh(\neigenvalues=tensor([1., 1.]),\neigenvectors="
    )
    assert t.linalg.qr(t.eye(2)).Q.shape == (2, 2)
    assert t.linalg.slogdet(2 * t.eye(2)).sign.item() == 1
    assert t.linalg.svdvals(t.eye(3)).tolist() == [1, 1, 1]
    assert t.logdet(-t.eye(1)).isnan()


def test_the_projection_on_a_null_space_has_a_gradient() -> None:
    """dP = -(P dA⁺ A + its transposed): rounding over a singular value of 1e-17 was taken for a part of it."""
    rng = np.random.default_rng(0)
    start = rng.normal(size=(3, 3))
    start[:, 2] = start[:, 0] + start[:, 1]
    weight, change = rng.normal(size=(3, 3)), rng.normal(size=(3, 3))
    a = t.tensor(start, requires_grad=True)
    u = t.linalg.svd(a).U[:, 2:]
    (found,) = t.autograd.grad((u @ u.T * t.tensor(weight)).sum(), [a])
    null = np.linalg.svd(start)[0][:, 2:]
    p = null @ null.T
    moved = -p @ change @ np.linalg.pinv(start)
    # Along changes that leave the rank as it is.
    change = change - p @ change @ (np.eye(3) - np.linalg.pinv(start) @ start)
    expected = (weight * (moved + moved.T)).sum()
    np.testing.assert_allclose((found.numpy() * change).sum(), expected, rtol=1e-6)


def test_no_right_hand_sides() -> None:
    assert t.linalg.lstsq(t.ones(4, 2), t.zeros(4, 0)).solution.shape == (2, 0)
