"""Where work runs: a table of facts and decisions, and no session."""

from __future__ import annotations

from typing import Any

import pytest

from distgrad.plan.costs import SMALL
from distgrad.session.placement import (
    AT_ONCE,
    FEED,
    LIGHT,
    STEPS,
    Facts,
    Where,
    decide,
    fits_call,
    fits_here,
    stays,
    waits_for_more,
)

HERE, LAZY, VIEW, FETCH, WORKERS, NOWHERE = Where
SHARD = 1 << 20


@pytest.mark.parametrize(
    ("limit", "facts", "where"),
    [
        (SHARD, {}, HERE),
        (SHARD, {"nbytes": SHARD}, HERE),
        (SHARD, {"nbytes": SHARD + 1}, WORKERS),  # too large
        (0, {}, WORKERS),  # the workers do everything
        (SHARD, {"cut": True}, WORKERS),  # looking at a tensor changes nothing
        (SHARD, {"near": False}, WORKERS),
        (SHARD, {"constant": True, "nbytes": SHARD}, LAZY),
        (SHARD, {"constant": True, "nbytes": SHARD + 1}, WORKERS),
        (0, {"constant": True}, WORKERS),
        (SHARD, {"remote": True}, HERE),  # there are no workers any more
        (SHARD, {"remote": True, "workers": True}, WORKERS),
        (SHARD, {"remote": True, "workers": True, "constant": True}, LAZY),
        # Views of what waits for writes wait too, wherever that is.
        (SHARD, {"waiting": True}, VIEW),
        (0, {"waiting": True, "near": False, "lost": True}, VIEW),
        # Writes.
        (SHARD, {"write": True, "nbytes": AT_ONCE}, HERE),
        (SHARD, {"write": True, "nbytes": AT_ONCE + 1}, LAZY),
        (SHARD, {"write": True, "near": False}, LAZY),
        (0, {"write": True}, LAZY),
        # What only workers have, or had.
        (SHARD, {"near": False, "lost": True}, NOWHERE),
        (0, {"near": False, "lost": True}, NOWHERE),
        (SHARD, {"near": False, "lost": True, "workers": True}, WORKERS),
        (SHARD, {"near": False, "lost": True, "workers": True, "fetchable": True}, WORKERS),
        (SHARD, {"near": False, "lost": True, "workers": True, "heavy": True}, WORKERS),
        (SHARD, {"near": False, "lost": True, "workers": True, "heavy": True, "fetchable": True}, FETCH),
        (0, {"near": False, "lost": True, "workers": True, "heavy": True, "fetchable": True}, WORKERS),
        (SHARD, {"near": False, "lost": True, "heavy": True, "fetchable": True}, NOWHERE),
    ],
)
def test_where_work_runs(limit: int, facts: dict[str, Any], where: Where) -> None:
    assert decide(Facts(limit, **facts)) is where


def test_nothing_runs_here_that_the_driver_must_not_compute() -> None:
    """Of all facts, not only those of the table: the driver computes what is near, small and in one piece."""
    flags = ("workers", "cut", "near", "constant", "write", "waiting", "remote", "lost", "heavy", "fetchable")
    for bits in range(1 << len(flags)):
        told = {name: bool(bits >> n & 1) for n, name in enumerate(flags)}
        for limit, nbytes in ((0, 8), (SHARD, 8), (SHARD, SHARD + 1)):
            where = decide(Facts(limit, nbytes=nbytes, **told))  # type: ignore[arg-type]
            small = limit > 0 and nbytes <= limit and (told["write"] or not told["cut"])
            assert where is not HERE or (told["near"] and small)
            assert where is not FETCH or limit
            if where in (WORKERS, FETCH):
                assert told["workers"] or not told["lost"]
            assert (where is VIEW) == told["waiting"]
            if told["workers"] and not (told["near"] or told["waiting"] or told["write"] or told["heavy"]):
                assert where is WORKERS  # which `door` takes for granted


def test_where_arrays_lie() -> None:
    assert [fits_call(n) for n in (FEED, FEED + 1)] == [True, False]
    assert [stays(n, 0) for n in (FEED, FEED + 1)] == [True, False]
    assert [stays(n, SHARD) for n in (SHARD, SHARD + 1)] == [True, False]
    assert [fits_here(*x) for x in ((SMALL, 1), (SMALL + 1, 1), (8, 2))] == [True, False, False]
    assert [waits_for_more(w, STEPS - 1) for w in (LIGHT - 1, LIGHT)] == [True, False]
    assert not waits_for_more(0, STEPS)
