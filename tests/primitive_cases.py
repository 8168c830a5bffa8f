"""Cases of all primitives: those of a family stand in its file, those of products, layout and sources here."""

from __future__ import annotations

import itertools

import elementwise_cases  # noqa: F401 - enters its cases, as do the others
import index_cases  # noqa: F401
import normalizing_cases  # noqa: F401
import numpy as np
import recurrent_cases  # noqa: F401
import reduction_cases  # noqa: F401
import row_cases  # noqa: F401
import update_cases  # noqa: F401
import window_cases  # noqa: F401
from cases import case, flags, integers, normal, words
from scipy import linalg

from distgrad.sharding import Cut, Sharding

# Decompositions.
case("svd", lambda x: np.linalg.svd(x, full_matrices=False), normal(5, 3))
case("svd", lambda x: np.linalg.svd(x, full_matrices=False), normal(4, 2, 3, dtype="float64"))
case("svd_full", np.linalg.svd, normal(4, 2, 3, dtype="float64"))
_square = normal(4, 3, 3, dtype="float64") + 5 * np.eye(3)
_definite = _square @ _square.mT
case("eigh", np.linalg.eigh, _definite, lower=True)
case("qr", np.linalg.qr, normal(4, 5, 3, dtype="float64"))
case("qr_full", lambda x: np.linalg.qr(x, mode="complete"), normal(4, 5, 3, dtype="float64"))
case("cholesky", np.linalg.cholesky, _definite)
case("inverse", np.linalg.inv, _square)
case("cofactors", lambda x: np.linalg.det(x)[:, None, None] * np.linalg.inv(x).mT, _square)
case(
    "lstsq",
    lambda a, b: (np.linalg.pinv(a) @ b, np.full(4, 3.0), np.linalg.svd(a, compute_uv=False)),
    normal(4, 5, 3, dtype="float64"),
    normal(4, 5, 2, dtype="float64"),
    rcond=1e-12,
)
case("solve", np.linalg.solve, _square, normal(4, 3, 2, dtype="float64"))
_right = normal(4, 3, 2, dtype="float64")


def _lu(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    found = [linalg.lu_factor(one) for one in x]
    return np.array([lu for lu, _ in found]), np.array([p + 1.0 for _, p in found]), np.zeros(len(x))


case("lu", _lu, normal(4, 3, 3, dtype="float64"), check="lu_factor")
case("exchanged", lambda p: np.array([[1.0, 2, 0], [0, 2, 1]]), np.array([[2.0, 3], [1, 3]]), m=3)
case("solve_ex", lambda a, b: (np.linalg.solve(a, b), np.zeros(4)), _square, _right, turned=False)
case("cholesky_ex", lambda x: (np.linalg.cholesky(x), np.zeros(4)), _definite)
_diagonals = np.array([[4.0, 3, 2], [9, 8, 7]])
_halves = np.array([[1.0, 0, 0], [0.5, 1, 0], [0.25, 0, 1]])
_factors = np.tril(_halves, -1) + _diagonals[:, None] * np.eye(3)
_symmetric = _halves * _diagonals[:, None] @ _halves.T
case("ldl", lambda x: (_factors, np.tile([1.0, 2, 3], (2, 1)), np.zeros(2)), _symmetric)
case(
    "ldl_solve",
    lambda f, p, b: np.linalg.solve(_symmetric, b),
    _factors,
    np.tile([1.0, 2, 3], (2, 1)),
    normal(2, 3, 2, dtype="float64"),
)
case("solve_triangular", lambda a, b: np.linalg.solve(np.triu(a), b), _square, _right, upper=True, unit=False)
case("expm", linalg.expm, _definite / 20)
case("slogdet", lambda x: tuple(map(np.asarray, np.linalg.slogdet(x))), _square)

# Products.
SIZES = dict(zip("mknbcd", (5, 4, 7, 3, 2, 6), strict=True))
for _subscripts in words(
    "mk,kn->mn mk,nk->mn km,kn->mn mk,kn->nm mk,k->m k,km->m k,k-> m,n->mn m,n->nm bmk,bkn->bmn bmk,bnk->bmn bk,bk->b "
    "bmk,bk->bm bm,bn->bmn kb,bk->b mkc,ckn->mn mdk,nk->mdn bmdk,bkn->bmdn bm,b->mb ,m->m ,-> mbk,nkb->nbm"
):
    _a, _b = _subscripts.split("->")[0].split(",")
    for _make in (normal, integers):
        case(
            "contract",
            lambda a, b, s=_subscripts: np.einsum(s, a, b),
            _make(*(SIZES[c] for c in _a)),
            _make(*(SIZES[c] for c in _b)),
            subscripts=_subscripts,
        )

# Layout.
case("permute", lambda x: x.transpose(2, 0, 1), normal(3, 4, 5), dims=(2, 0, 1))
case("expand", lambda x: np.broadcast_to(x, (3, 4, 5)), normal(3, 1, 5), shape=(3, 4, 5), cuts=None)
case("expand_dims", lambda x: x[None, :, None], normal(3, 4), dims=(0, 2))
case("squeeze_dims", lambda x: x[0, :, 0], normal(1, 3, 1, 4), dims=(0, 2))

# Sources. A file's path is put in by the fixture.
KEY = np.array([7, 3])
case("iota", lambda: np.indices((3, 4, 5))[1], shape=(3, 4, 5), dim=1, cuts=None)
for _kind, _dtype in itertools.product(("uniform", "normal"), ("float32", "float64")):
    case("random", None, KEY, shape=(6, 7, 5), kind=_kind, dtype=_dtype, low=0, high=0, cuts=None)
case("random", None, KEY, shape=(300, 40), kind="integers", dtype="int64", low=-3, high=4, cuts=None)
case("random", None, KEY, shape=(4, 9000), kind="integers", dtype="int32", low=0, high=9, cuts=None)
for _fortran in (False, True):
    case("read_npy", None, path="", offset=128, dtype="float32", shape=(6, 5), fortran=_fortran, cuts=None)
case("write_npy", lambda x: x.nbytes, normal(6, 5), path="", offset=128, shape=(6, 5))
case(
    "shard_counts",
    lambda mask: [mask[:4].sum(), mask[4:8].sum(), mask[8:].sum()],
    flags(11),
    cuts=Sharding((Cut.even(11, 4),)),
)
