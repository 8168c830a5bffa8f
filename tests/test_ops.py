"""Every op of the table against NumPy and by finite differences to second order, for all ways to cut its operands."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import op_checks
import pytest
from op_calls import CUTS, Call, calls, in_place, methods, workers
from op_checks import CUT, Outcome, attempt, check_alike, outcomes
from references import NO_REFERENCE, REFERENCES

from distgrad.ops.table import OPS

EACH = pytest.mark.parametrize("name", sorted(OPS))

# So small that results are cut anew by default, and meet operands that are cut otherwise.
SHARD_BYTES = {"even": 32, "mixed": 32}


@pytest.fixture(autouse=True)
def small_work_in_the_driver() -> Iterator[None]:
    with workers(inline_bytes=1 << 16):
        yield


@functools.cache
def in_driver(name: str) -> list[tuple[Call, Outcome]]:
    """The samples and what the driver makes of them."""
    batch = calls(name)
    return list(zip(batch, outcomes(batch), strict=True))


def test_every_op_has_samples_and_a_reference() -> None:
    assert {name for name, op in OPS.items() if not op.examples()} == set()
    assert set(OPS) == set(REFERENCES) | set(NO_REFERENCE)


@EACH
def test_results(name: str) -> None:
    for call, outcome in in_driver(name):
        op_checks.check_results(call, outcome.outs)


@EACH
def test_first_derivative(name: str) -> None:
    for call, outcome in in_driver(name):
        op_checks.check_first(call, outcome)
        op_checks.check_alone(call, outcome)


@EACH
def test_second_derivative(name: str) -> None:
    for call, outcome in in_driver(name):
        op_checks.check_second(call, outcome)


@pytest.mark.parametrize(
    ("cut", "second"),
    [
        ("uneven", False),
        *(pytest.param(cut, cut not in ("grid", "mixed"), marks=pytest.mark.sweep) for cut in CUTS),
    ],
)
@EACH
def test_cuts(name: str, cut: str, second: bool) -> None:
    """The driver's results and derivatives; of both orders for the four cuts that users meet, else of the first."""
    known = in_driver(name)
    with workers(shard_bytes=SHARD_BYTES.get(cut, 1 << 20)):
        found = outcomes([call for call, _ in known], CUTS[cut], second)
    for (call, want), got in zip(known, found, strict=True):
        check_alike(call, got, want if second else want._replace(second=[]), **CUT)


@EACH
@pytest.mark.filterwarnings("ignore:index_reduce")  # whose methods warn, as torch does
def test_methods(name: str) -> None:
    """As a method, and in place, an op gives the same; in place on workers too."""
    pairs = [
        (other, want._replace(second=[]))
        for call, want in in_driver(name)
        for other in (*methods(call), *in_place(call, want.outs))
    ]
    found = outcomes([call for call, _ in pairs], second=False)
    for (call, want), got in zip(pairs, found, strict=True):
        check_alike(call, got, want, **CUT)
    pairs = [(call, want) for call, want in pairs if call.method.endswith("_")]
    with workers():
        found = outcomes([call for call, _ in pairs], CUTS["last"], second=False)
    for (call, want), got in zip(pairs, found, strict=True):
        check_alike(call, got, want, **CUT)


@EACH
def test_float32(name: str) -> None:
    known = in_driver(name)
    batch = [op_checks.as_float32(call) for call, _ in known]
    for call, (_, want), got in zip(batch, known, outcomes(batch, second=False), strict=True):
        op_checks.check_float32(call, got, want._replace(second=[]))


@pytest.mark.sweep
@EACH
def test_float32_of_both_orders(name: str) -> None:
    known = in_driver(name)
    batch = [op_checks.as_float32(call) for call, _ in known]
    found = outcomes(batch)
    with workers():
        cut = outcomes(batch, CUTS["last"], second=False)
    for call, (_, want), one, other in zip(batch, known, found, cut, strict=True):
        op_checks.check_float32(call, one, want)
        op_checks.check_float32(call, other, want._replace(second=[]))


@pytest.mark.sweep
@pytest.mark.parametrize("change", ["as_integers", "emptied"])
@EACH
def test_other_operands(name: str, change: str) -> None:
    """Integers, and tensors without elements: as the reference, or refused; and alike in the driver and on workers."""
    batch = [new for call, _ in in_driver(name) if (new := getattr(op_checks, change)(call)) is not None]
    found = [attempt(call) for call in batch]
    with workers():
        cut = [attempt(call, CUTS["uneven"]) for call in batch]
    for call, want, got in zip(batch, found, cut, strict=True):
        if change == "as_integers":
            op_checks.check_integers(call, want)
        else:
            op_checks.check_empty(call, want)
        if isinstance(want, Outcome) and isinstance(got, Outcome):
            check_alike(call, got, want, rtol=2e-6, atol=2e-6)
        else:
            assert got == want, call.text


@pytest.mark.parametrize("name", sorted(name for name, op in OPS.items() if op.view))
def test_views(name: str) -> None:
    """What is written to a view stands in its base; and the base's gradient is 0 there."""
    for call, want in in_driver(name):
        if len(want.outs) > 1 or name == "expand":  # torch forbids to write to these
            continue
        op_checks.check_view(call, None)
        with workers():
            op_checks.check_view(call, CUTS["uneven"])
