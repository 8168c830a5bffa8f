"""What a case of a primitive is, what cases are made of, and how one is run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from distgrad.primitives import Aval, Place, Primitive

RNG = np.random.default_rng(0)


class Case(NamedTuple):
    arrays: tuple[np.ndarray, ...]
    attrs: dict[str, Any]
    want: Callable[..., Any] | None  # of the arrays; None where a test below says more


CASES: dict[str, list[Case]] = {}


def case(name: str, want: Callable[..., Any] | None, *arrays: Any, **attrs: Any) -> None:
    CASES.setdefault(name, []).append(Case(tuple(np.asarray(a) for a in arrays), attrs, want))


def normal(*shape: int, dtype: str = "float32") -> np.ndarray:
    return np.asarray(RNG.standard_normal(shape) * 2).astype(dtype)


def integers(*shape: int, low: int = -9, high: int = 10, dtype: str = "int64") -> np.ndarray:
    return np.asarray(RNG.integers(low, high, shape)).astype(dtype)


def flags(*shape: int) -> np.ndarray:
    return normal(*shape) > 0


def words(text: str) -> list[str]:
    return text.split()


# How to run one.
def avals_of(arrays: Sequence[np.ndarray]) -> list[Aval]:
    return [Aval(a.shape, a.dtype) for a in arrays]


def run(
    primitive: Primitive, arrays: Sequence[np.ndarray], attrs: dict[str, Any], at: Place, **out: Any
) -> tuple[Any, ...]:
    """The results of the kernel, after a check that they have the shapes and dtypes that were promised."""
    copies = [a.copy() for a in arrays]
    with np.errstate(all="ignore"):
        results = primitive.kernel(
            *arrays, **attrs, **({"at": at} if "placed" in primitive.traits else {}), **out
        )
    results = results if isinstance(results, tuple) else (results,)
    for result, region in zip(results, at.outs, strict=True):
        assert result.shape == tuple(hi - lo for lo, hi in region)
        if "view" not in primitive.traits:
            assert not any(np.shares_memory(result, a) for a in arrays)
    for array, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(array, copy)
    return results


def whole(shapes: Sequence[tuple[int, ...]]) -> tuple[tuple[tuple[int, int], ...], ...]:
    return tuple(tuple((0, n) for n in shape) for shape in shapes)


def run_whole(
    primitive: Primitive, arrays: Sequence[np.ndarray], attrs: dict[str, Any], **out: Any
) -> tuple[Any, ...]:
    avals = avals_of(arrays)
    outs = primitive.shape(avals, attrs)
    results = run(
        primitive,
        arrays,
        attrs,
        Place(whole([a.shape for a in avals]), whole([a.shape for a in outs])),
        **out,
    )
    assert [r.dtype for r in results] == [a.dtype for a in outs]
    return results
