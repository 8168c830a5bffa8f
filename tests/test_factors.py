"""SVD, QR and least squares with all torch's shapes; determinants of singular matrices."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

import distgrad

RANDOM = np.random.default_rng(0)
WIDE, HIGH, MANY = (RANDOM.standard_normal(shape) for shape in ((2, 4), (5, 3), (5, 4, 2)))


def leaf(torch: ModuleType, x: Any) -> Any:
    return torch.tensor(x, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("x", [WIDE, HIGH, MANY], ids=["wide", "high", "many"])
def test_svd_with_square_factors(anywhere: ModuleType, x: np.ndarray) -> None:
    torch = anywhere
    a = leaf(torch, x)
    found = torch.linalg.svd(a)
    (m, n), k = x.shape[-2:], min(x.shape[-2:])
    assert (found.U.shape[-2:], found.S.shape[-1], found.Vh.shape[-2:]) == ((m, m), k, (n, n))
    u, s, vh = (t.detach().numpy() for t in found)
    np.testing.assert_allclose((u[..., :k] * s[..., None, :]) @ vh[..., :k, :], x, atol=1e-12)
    for q in (u, vh):
        np.testing.assert_allclose(
            q @ q.swapaxes(-1, -2), np.broadcast_to(np.eye(q.shape[-1]), q.shape), atol=1e-12
        )
    weights = torch.tensor(RANDOM.standard_normal((m, k)))
    (found.S.sum() + (found.U[..., :k] ** 2 * weights).sum()).backward()
    one = leaf(torch, x)
    u, s, _ = torch.linalg.svd(one, full_matrices=False)
    (s.sum() + (u**2 * weights).sum()).backward()
    np.testing.assert_allclose(a.grad.numpy(), one.grad.numpy(), atol=1e-10)
    old = torch.svd(a.detach(), some=False)
    assert old.V.shape[-2:] == (n, n)
    np.testing.assert_allclose(np.abs(old.V.numpy()), np.abs(vh.swapaxes(-1, -2)), atol=1e-12)
    assert torch.svd(a.detach(), compute_uv=False).U.abs().sum().item() == 0


@pytest.mark.parametrize("x", [WIDE, HIGH, MANY], ids=["wide", "high", "many"])
def test_qr_of_all_shapes(anywhere: ModuleType, x: np.ndarray) -> None:
    torch = anywhere
    q, r = (t.numpy() for t in torch.linalg.qr(torch.tensor(x), mode="complete"))
    m, n = x.shape[-2:]
    assert (q.shape[-2:], r.shape[-2:]) == ((m, m), (m, n))
    np.testing.assert_allclose(q @ r, x, atol=1e-12)
    np.testing.assert_allclose(q.swapaxes(-1, -2) @ q, np.broadcast_to(np.eye(m), q.shape), atol=1e-12)
    assert np.array_equal(np.triu(r), r)
    assert torch.qr(torch.tensor(x), some=False).Q.shape[-1] == m
    assert torch.qr(torch.tensor(x)).R.shape[-2] == min(m, n)


def test_gradients_of_wide_qr() -> None:
    torch = distgrad
    a = leaf(torch, WIDE)
    assert torch.autograd.gradcheck(lambda a: tuple(torch.linalg.qr(a)), a)
    assert torch.autograd.gradgradcheck(lambda a: tuple(torch.linalg.qr(a, mode="complete")), a)
    high = leaf(torch, HIGH)
    found = torch.linalg.qr(high, mode="complete")
    with pytest.raises(RuntimeError, match=r"not differentiable when mode='complete' and nrows > ncols\."):
        found.R.sum().backward()


@pytest.mark.parametrize("x", [WIDE, HIGH, MANY], ids=["wide", "high", "many"])
def test_least_squares(anywhere: ModuleType, x: np.ndarray) -> None:
    torch = anywhere
    b = np.random.default_rng(1).standard_normal((*x.shape[:-1], 2))
    found = torch.linalg.lstsq(torch.tensor(x), torch.tensor(b), driver="gelsd")
    expected = np.linalg.pinv(x) @ b
    np.testing.assert_allclose(found.solution.numpy(), expected, rtol=1e-9)
    assert (found.rank == min(x.shape[-2:])).all()
    assert found.rank.dtype is torch.int64
    np.testing.assert_allclose(found.singular_values.numpy(), np.linalg.svd(x, compute_uv=False), rtol=1e-9)
    if x.shape[-2] > x.shape[-1]:
        np.testing.assert_allclose(found.residuals.numpy(), ((x @ expected - b) ** 2).sum(-2), rtol=1e-9)
    plain = torch.linalg.lstsq(torch.tensor(x), torch.tensor(b))
    assert (plain.residuals.numel(), plain.singular_values.numel()) == (0, 0)


def test_least_squares_of_vectors_and_low_ranks(anywhere: ModuleType) -> None:
    torch = anywhere
    a = torch.tensor([[1.0, 2.0], [2.0, 4.0]], dtype=torch.float64)
    found = torch.linalg.lstsq(a, torch.ones(2, dtype=torch.float64))
    np.testing.assert_allclose(found.solution.numpy(), [0.12, 0.24])
    assert found.rank.item() == 1
    assert repr(found).startswith("torch.return_types.linalg_lstsq(\nsolution=tensor(")
    for call, text in {
        "torch.linalg.lstsq(a, torch.ones(3, 1, dtype=a.dtype))": r"input.size\(-2\) should match other.size\(-2\)",
        "torch.linalg.lstsq(a, torch.ones(2, 1))": "to have the same dtype, but got input's dtype Double and other's",
        "torch.linalg.lstsq(a[0], a)": "input must have at least 2 dimensions",
        "torch.linalg.lstsq(a, a, driver='x')": r"should be one of \(gels, gelsy, gelsd, gelss\)",
    }.items():
        with pytest.raises(RuntimeError, match=text):
            eval(call, {"torch": torch, "a": a})


def test_gradients_of_least_squares() -> None:
    """Of square matrices, too, whose singular values are all the same."""
    torch = distgrad
    for x in (WIDE, HIGH, np.eye(2)[::-1] * 2):
        a, b = leaf(torch, x), leaf(torch, np.random.default_rng(2).standard_normal((len(x), 2)))
        assert torch.autograd.gradcheck(lambda a, b: torch.linalg.lstsq(a, b).solution, (a, b))


SINGULAR = {
    "rank 1 of 2": [[1.0, 2], [2, 4]],
    "none of 2": [[0.0, 0], [0, 0]],
    "rank 2 of 3": [[1.0, 2, 3], [2, 4, 6], [0, 1, 1]],
    "rank 1 of 3": [[1.0, 2, 3], [2, 4, 6], [3, 6, 9]],
    "one": [[0.0]],
}


@pytest.mark.parametrize("name", SINGULAR)
def test_gradients_of_determinants_of_singular_matrices(anywhere: ModuleType, name: str) -> None:
    """The cofactors; and the second derivatives, which are the minors of two rows and columns, with their signs."""
    torch, x = anywhere, np.array(SINGULAR[name])
    n = len(x)
    minor = lambda i, j: np.linalg.det(np.delete(np.delete(x, i, 0), j, 1))  # noqa: E731
    cofactors = np.array([[(-1) ** (i + j) * minor(i, j) for j in range(n)] for i in range(n)])
    a = leaf(torch, np.stack([x, np.eye(n)]))
    (g,) = torch.autograd.grad(torch.linalg.det(a).sum(), a, create_graph=True)
    np.testing.assert_allclose(g[0].detach().numpy(), cofactors, atol=1e-12)
    np.testing.assert_allclose(g[1].detach().numpy(), np.eye(n), atol=1e-12)
    weights = np.arange(1.0, 1 + n * n).reshape(n, n)
    (h,) = torch.autograd.grad((g[0] * torch.tensor(weights)).sum(), a)
    step, second = 1e-4, np.zeros((n, n))
    for at in np.ndindex(n, n):
        moved = []
        for sign in (1, -1):
            y = x.copy()
            y[at] += sign * step
            rest = lambda i, j, y=y: np.linalg.det(np.delete(np.delete(y, i, 0), j, 1))  # noqa: E731
            moved.append(sum(weights[i, j] * (-1) ** (i + j) * rest(i, j) for i, j in np.ndindex(n, n)))
        second[at] = (moved[0] - moved[1]) / (2 * step)
    np.testing.assert_allclose(h[0].numpy(), second, atol=1e-7)


def test_singular_matrices_have_no_logarithm_to_derive(anywhere: ModuleType) -> None:
    torch = anywhere
    a = leaf(torch, SINGULAR["rank 1 of 2"])
    found = torch.linalg.slogdet(a)
    assert found.logabsdet.item() == -np.inf
    with pytest.raises(RuntimeError, match="the input matrix is singular"):
        torch.autograd.grad(found.logabsdet, a)[0].tolist()
    with pytest.raises(RuntimeError, match="The diagonal element 2 is zero, the inversion could not"):
        torch.linalg.inv(a).tolist()


@pytest.mark.parametrize("shape", [(40, 9), (9, 40), (3, 12, 7)])
@pytest.mark.parametrize("centred", [False, True])
def test_of_low_rank(anywhere: ModuleType, shape: tuple[int, ...], centred: bool) -> None:
    """A matrix of rank 3, or of rank 2 around the mean of its rows, is its own approximation."""
    torch = anywhere
    rng = np.random.default_rng(3)
    rank = 2 if centred else 3
    a = rng.standard_normal((*shape[:-1], rank)) @ rng.standard_normal((*shape[:-2], rank, shape[-1]))
    mean = rng.standard_normal((*shape[:-2], 1, shape[-1])) if centred else np.zeros(1)
    x = torch.tensor(a - a.mean(-2, keepdims=True) * centred + mean, requires_grad=True)
    u, s, v = torch.pca_lowrank(x, q=4) if centred else torch.svd_lowrank(x, q=4)
    want = x.detach().numpy() - (x.detach().numpy().mean(-2, keepdims=True) if centred else 0)
    np.testing.assert_allclose((u * s.unsqueeze(-2) @ v.mT).detach().numpy(), want, atol=1e-12)
    np.testing.assert_allclose(s.detach().numpy(), np.linalg.svd(want, compute_uv=False)[..., :4], atol=1e-12)
    if centred:
        less = torch.svd_lowrank(x.detach(), 4, 0, torch.tensor(want).neg() + x.detach())[
            1
        ]  # the mean, by itself
        np.testing.assert_allclose(less.numpy(), s.detach().numpy(), atol=1e-10)
    s[..., :rank].sum().backward()
    assert np.isfinite(x.grad.numpy()).all()


def test_of_low_rank_refuses(torch: ModuleType) -> None:
    with pytest.raises(
        ValueError, match=r"q\(=5\) must be non-negative integer and not greater than min\(m, n\)=3"
    ):
        torch.pca_lowrank(torch.ones(3, 4), 5)
    with pytest.raises(ValueError, match=r"niter\(=-1\) must be non-negative integer"):
        torch.pca_lowrank(torch.ones(3, 4), niter=-1)


def test_the_gradient_of_det_at_what_is_infinite_ends(torch: ModuleType) -> None:
    """LAPACK looked for the singular values of this one for ever."""
    rows = [[6.86, 46.7, -3.1], [-np.inf, np.inf, -5.0], [-17.2, 12.7, -48.2]]
    for infinite in (np.inf, np.nan):
        x = (
            torch.tensor(rows, dtype=torch.float64)
            .nan_to_num(neginf=-infinite, posinf=infinite)
            .requires_grad_()
        )
        torch.linalg.det(x).backward()
        assert x.grad.isnan().all()
