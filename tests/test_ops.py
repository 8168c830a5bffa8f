"""Every op of the table against NumPy and by finite differences to second order, for all ways to cut its operands."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import op_checks
import pytest
from op_checks import CUT, CUTS, Call, Outcome, calls, outcomes
from references import NO_REFERENCE, REFERENCES

from distgrad.ops.table import OPS

EACH = pytest.mark.parametrize("name", sorted(OPS))


@functools.cache
def in_driver(name: str) -> list[tuple[Call, Outcome]]:
    batch = calls(name)
    return list(zip(batch, outcomes(batch), strict=True))


@pytest.fixture(autouse=True)
def small_work_in_the_driver() -> Iterator[None]:
    with op_checks.workers(inline_bytes=1 << 16):
        yield


def test_every_op_has_samples_and_a_reference() -> None:
    assert set(OPS) == set(REFERENCES) | set(NO_REFERENCE)


@EACH
def test_results(name: str) -> None:
    for call, outcome in in_driver(name):
        op_checks.check_results(call, outcome.outs)


@EACH
def test_first(name: str) -> None:
    for call, outcome in in_driver(name):
        op_checks.check_first(call, outcome)


@EACH
def test_second(name: str) -> None:
    for call, outcome in in_driver(name):
        op_checks.check_second(call, outcome)


@pytest.mark.parametrize("cut", CUTS)
@EACH
def test_cuts(name: str, cut: str) -> None:
    known = in_driver(name)
    with op_checks.workers():
        found = outcomes([call for call, _ in known], CUTS[cut])
    for (call, want), got in zip(known, found, strict=True):
        op_checks.check_alike(call, got, want, **CUT)
