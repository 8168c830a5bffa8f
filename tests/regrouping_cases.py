"""Cases of the primitives with a shard rule of their own: their attributes may depend on how the operands are cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from cases import normal

from distgrad.sharding import Cut, Sharding

# Ways to cut.

SCHEMES: dict[str, Callable[[tuple[int, ...]], dict[int, list[int]]]] = {
    "whole": lambda shape: {},
    "even": lambda shape: {0: [*range(max(1, shape[0] // 3), shape[0], max(1, shape[0] // 3))]},
    "uneven, with empty shards": lambda shape: {0: [0, 1, shape[0] // 2, shape[0] // 2, shape[0]]},
    "last": lambda shape: {len(shape) - 1: [1, shape[-1] // 2]},
    "both": lambda shape: {0: [shape[0] // 2], len(shape) - 1: [0, shape[-1] // 3 + 1]},
}


def cut(shape: tuple[int, ...], points: dict[int, list[int]]) -> Sharding:
    """A sharding from the points inside the dimensions that are cut."""
    found = [Cut(n) for n in shape]
    for d, inner in points.items():
        found[d] = Cut.at(shape[d], [0, *sorted(min(p, shape[d]) for p in inner), shape[d]])
    return Sharding(tuple(found))


def by_scheme(name: str, shape: tuple[int, ...]) -> Sharding:
    return cut(shape, SCHEMES[name](shape) if shape else {})


# Primitives with a rule of their own. Attributes may depend on how the operands are cut.


class Regrouping(NamedTuple):
    name: str
    arrays: tuple[np.ndarray, ...]
    attrs: Callable[[Sequence[Sharding]], dict[str, Any]]


def chosen_cuts(mask: np.ndarray, sharding: Sharding) -> Sharding | None:
    """How many elements each shard of the mask chooses, as cuts of all that are chosen."""
    if sharding.count == 1:
        return None
    counts = [int(mask[slice(*sharding.cell(i)[0])].sum()) for i in range(sharding.count)]
    return Sharding((Cut.at(int(mask.sum()), np.cumsum([0, *counts]).tolist()),))


def regroupings() -> Iterator[Regrouping]:
    for old, new in (
        ((7, 5), (35,)), ((35,), (7, 5)), ((6, 4), (2, 12)), ((6, 4), (24,)), ((6, 4), (4, 6)), ((1, 6, 4), (6, 4)),
        ((6, 4), (6, 2, 2)), ((6, 4), (1, 1, 24)), ((2, 3, 4), (6, 4)), ((12,), (1, 12)), ((12,), (12, 1)),
        ((5, 7), (7, 5)), ((1,), ()), ((), (1, 1)), ((1, 1), (1,)), ((4, 0), (0, 7)), ((0,), (3, 0)), ((0, 5), (0,)),
    ):  # fmt: skip
        yield Regrouping("reshape", (normal(*old),), lambda s, n=new: {"shape": n})
    for shape, slices in (
        ((9,), ((2, 5, 1),)), ((9,), ((0, 3, 4),)), ((9,), ((8, 1, 3),)), ((9,), ((4, 0, 1),)),
        ((7, 5), ((1, 3, 2), (0, 5, 1))), ((7, 5), ((0, 7, 1), (1, 2, 2))), ((7, 5), ((6, 1, 1), (4, 1, 1))),
        ((2, 3, 4), ((0, 2, 1), (1, 1, 1), (0, 2, 3))), ((), ()), ((0, 4), ((0, 0, 1), (1, 2, 1))),
    ):  # fmt: skip
        x = normal(*shape)
        part = np.asarray(x[tuple(slice(a, a + n * step, step) for a, n, step in slices)])
        yield Regrouping("slice", (x,), lambda s, v=slices: {"slices": v})
        yield Regrouping("slice_put", (x, normal(*part.shape)), lambda s, v=slices: {"parts": (v,)})
        yield Regrouping(
            "slice_put", (x, normal(*part.shape), normal()), lambda s, v=slices: {"parts": (v, v)}
        )
        for base in [by_scheme(scheme, shape) for scheme in SCHEMES]:
            yield Regrouping("pad", (part,), lambda s, v=slices, c=base: {"slices": v, "cuts": c})
    for dim, shapes in (
        (0, ((3, 2), (4, 2))), (1, ((3, 2), (3, 5), (3, 1))), (0, ((5,), (0,), (2,))), (0, ((1,), (1,), (1,))),
        (2, ((2, 3, 1), (2, 3, 4))), (0, ((6, 0), (2, 0))), (1, ((3, 4),)),
    ):  # fmt: skip
        arrays = tuple(normal(*s) for s in shapes)
        yield Regrouping(
            "cat", arrays, lambda s, a=arrays, d=dim: {"dim": d, "sizes": tuple(x.shape[d] for x in a)}
        )
    for n in (11, 1):
        mask, x = normal(n) > -1, normal(n)
        yield Regrouping(
            "compress", (x, mask), lambda s, m=mask: {"size": int(m.sum()), "cuts": chosen_cuts(m, s[1])}
        )
        yield Regrouping("uncompress", (x[mask], mask), lambda s, m=mask: {"cuts": chosen_cuts(m, s[1])})
    for shape in ((7, 5), (9,), (), (0, 3)):
        for target in [by_scheme(scheme, shape) for scheme in SCHEMES]:
            yield Regrouping("reshard", (normal(*shape),), lambda s, c=target: {"cuts": c})
    for n, step in ((7, 4), (6, 2), (3, 5)):
        own = np.random.default_rng(n).integers(0, n - (n - 1) // step * step, (-(-n // step), 5))
        yield Regrouping("take_own", (normal(n, 3), own), lambda s, k=step: {"step": k})


REGROUPINGS = list(regroupings())


def wanted(case: Regrouping) -> Any:
    """What NumPy says."""
    attrs = case.attrs([Sharding.whole(a.shape) for a in case.arrays])
    x, *rest = case.arrays
    parts = tuple(slice(a, a + n * step, step) for a, n, step in attrs.get("slices", ()))
    if case.name == "take_own":
        starts = range(0, len(x), attrs["step"])
        return np.stack([x[i : i + attrs["step"]][own] for i, own in zip(starts, rest[0], strict=True)])
    if case.name == "reshape":
        return x.reshape(attrs["shape"])
    if case.name == "slice":
        return x[parts]
    if case.name == "slice_put":
        made = x.copy()
        for source, triples in zip(rest, attrs["parts"], strict=True):
            made[tuple(slice(a, a + n * step, step) for a, n, step in triples)] = source
        return made
    if case.name == "pad":
        made = np.zeros(attrs["cuts"].shape, x.dtype)
        made[parts] = x
        return made
    if case.name == "cat":
        return np.concatenate(case.arrays, attrs["dim"])
    if case.name == "compress":
        return x[rest[0]]
    if case.name == "uncompress":
        made = np.zeros(rest[0].shape, x.dtype)
        made[rest[0]] = x
        return made
    return x
