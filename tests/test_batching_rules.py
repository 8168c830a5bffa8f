"""Every primitive's batching rule, beside a loop over the samples: for each set of operands that are batched."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from cases import CASES, Case

from distgrad import session, vmaps
from distgrad.graph import Value
from distgrad.primitives import TABLE
from distgrad.primitives.batching import Refused
from distgrad.session import door
from distgrad.sharding import Sharding
from distgrad.worker.inproc import InProcess
from distgrad.worker.worker import Worker

B = 3
X = np.arange(24.0).reshape(4, 6)
MASK = np.array([True, False, True, True, False])
EXTRA = {  # those without a label rule, whose cases are elsewhere
    "reshape": [Case((X,), {"shape": (2, 12)}, None), Case((np.ones(()),), {"shape": (1, 1)}, None)],
    "cat": [Case((X, X[:2], X[:1]), {"dim": 0, "sizes": (4, 2, 1)}, None)],
    "slice": [Case((X,), {"slices": ((1, 2, 2), (0, 6, 1))}, None)],
    "slice_put": [
        Case((X, X[:2, :3], np.ones(())), {"parts": (((1, 2, 2), (0, 3, 1)), ((0, 1, 1), (2, 2, 3)))}, None),
        Case((X, X[:1, :3]), {"parts": (((1, 2, 2), (0, 3, 1)),)}, None),
    ],
    "pad": [Case((X[:2],), {"slices": ((1, 2, 2), (0, 6, 1)), "cuts": Sharding.whole((4, 6))}, None)],
    "take_own": [Case((X, np.array([[1, 0, 1], [0, 0, 1]])), {"step": 2}, None)],
    "reshard": [Case((X,), {"cuts": Sharding.whole((4, 6))}, None)],
    "compress": [Case((X[0, :5], MASK), {"size": 3, "cuts": None}, None)],
    "uncompress": [Case((X[0, :3], MASK), {"cuts": None}, None)],
}
REFUSED = {
    name for name, primitive in TABLE.items() if isinstance(primitive.batch, Refused)
}  # of one sample, or of none
SAME = {
    ("compress", 1),
    ("uncompress", 1),
    ("update", 2),
    ("update_all", 0),
    ("update_alike", 0),
}  # operands that are never batched
INEXACT = {"atol": 2e-4, "rtol": 2e-4}


def sample(array: np.ndarray, k: int) -> np.ndarray:
    """Another array whose elements are as good as those of `array`; some matrices must stay what they are."""
    if array.dtype.kind == "f":
        return (array * (1 + k / 8)).astype(array.dtype)
    return np.roll(array.reshape(-1), k).reshape(array.shape)


def subsets(name: str, count: int) -> Iterator[tuple[bool, ...]]:
    free = [(False,) if (name, i) in SAME else (True, False) for i in range(count)]
    return itertools.islice((flags for flags in itertools.product(*free) if any(flags)), 12)


def batched(arrays: Sequence[np.ndarray], flags: Sequence[bool], level: vmaps.Level) -> list[Value]:
    values = []
    for array, flag in zip(arrays, flags, strict=True):
        if not flag:
            values.append(session.constant(array))
            continue
        value = session.constant(np.stack([sample(array, k) for k in range(B)]))
        values.append(vmaps.split(value, 0, level.number, B))
    return values


def check(name: str, one: Case) -> None:
    for flags in subsets(name, len(one.arrays)):
        level = vmaps.enter(B, "error")
        try:
            outs = session.emit_all(name, *batched(one.arrays, flags, level), **one.attrs)
            joined = [vmaps.join(out, 0, level.number, B) for out in outs]
        finally:
            vmaps.leave(level)
        for k in range(B):
            arrays = [sample(a, k) if flag else a for a, flag in zip(one.arrays, flags, strict=True)]
            wants = session.emit_all(name, *map(session.constant, arrays), **one.attrs)
            for out, value, want in zip(outs, joined, wants, strict=True):
                assert (out.shape, out.dtype) == (want.shape, want.dtype), (name, flags)
                np.testing.assert_allclose(
                    session.fetch(value)[k], session.fetch(want), err_msg=f"{name} {flags}", **INEXACT
                )


def cases(name: str) -> list[Case]:
    return [*CASES.get(name, ()), *EXTRA.get(name, ())]


def test_every_primitive_has_a_rule_and_a_case() -> None:
    assert [name for name, primitive in TABLE.items() if primitive.batch is None] == []
    assert [name for name in TABLE if not cases(name) and name not in REFUSED] == []


@pytest.mark.parametrize("name", sorted(set(TABLE) - REFUSED))
def test_rule(name: str) -> None:
    door.shutdown()
    for one in cases(name)[:6]:
        check(name, one)


@pytest.mark.sweep
@pytest.mark.parametrize("name", sorted(set(TABLE) - REFUSED))
def test_rule_on_workers(name: str) -> None:
    door.shutdown()
    door.attach(InProcess(3, Worker), inline_bytes=0, shard_bytes=64)
    try:
        check(name, cases(name)[0])
    finally:
        door.shutdown()
