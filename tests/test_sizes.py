"""Sizes for which there is no room, that no integer can count, or that are none: refused in torch's words."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import distgrad as torch
from distgrad.errors import OutOfMemoryError

STORAGE = "Storage size calculation overflowed with sizes="
LONG = 'failed to unpack the object at pos 1 with error "Overflow when unpacking long long"'


@pytest.fixture(autouse=True, params=["driver", "workers"])
def session(request: pytest.FixtureRequest) -> Iterator[None]:
    torch.shutdown()
    with torch.init("inproc", inline_bytes=0 if request.param == "workers" else None):
        yield


MAKERS: dict[str, Callable[..., Any]] = {
    "ones": torch.ones,
    "zeros": torch.zeros,
    "empty": torch.empty,
    "rand": torch.rand,
    "randn": torch.randn,
    "full": lambda *size: torch.full(size, 2.0),
    "randint": lambda *size: torch.randint(5, size),
    "new_zeros": lambda *size: torch.ones(1).new_zeros(*size),
}


@pytest.mark.parametrize("name", MAKERS)
def test_more_than_can_be_counted(name: str) -> None:
    make = MAKERS[name]
    with pytest.raises(RuntimeError, match=re.escape(f"{STORAGE}[{2**62}, 8]")):
        make(2**62, 8)
    with pytest.raises(TypeError, match=re.escape(f"{name}(): argument 'size' {LONG}")):
        make(2**63)
    with pytest.raises(TypeError, match="Overflow when unpacking"):
        make(2**70)


@pytest.mark.parametrize("name", MAKERS)
def test_more_than_there_is(name: str) -> None:
    with pytest.raises(OutOfMemoryError, match=r"shape \[4503599627370496\] takes [\d,]{21,} bytes"):
        MAKERS[name](2**52)  # no work is sent, and none is pending
    assert float(torch.ones(3).sum()) == 3.0


@pytest.mark.parametrize(
    "read", [lambda x: x[0].item(), lambda x: x.numpy(), lambda x: str(x), lambda x: x.tolist()]
)
def test_more_than_the_workers_have(read: Callable[[Any], Any]) -> None:
    with pytest.raises(MemoryError):
        read(torch.ones(2**42))
    assert float(torch.ones(3).sum()) == 3.0


@pytest.mark.parametrize("name", MAKERS)
def test_less_than_nothing(name: str) -> None:
    with pytest.raises(RuntimeError, match=r"negative dimension -1|must be non-negative"):
        MAKERS[name](2, -1)


@pytest.mark.parametrize("wrong", [2.5, "3", None, True, np.float64(2)])
def test_no_size_at_all(wrong: Any) -> None:
    for make in (torch.ones, torch.rand, torch.empty):
        kind = type(wrong).__name__
        with pytest.raises(
            TypeError, match=rf"argument 'size' \(position 1\) must be tuple of ints, not {kind}"
        ):
            make(wrong)


@pytest.mark.parametrize("function", ["randperm", "eye"])
def test_a_number_of_elements(function: str) -> None:
    make = getattr(torch, function)
    message = {"randperm": "negative dimension -1", "eye": "n must be greater or equal to 0, got -1"}[
        function
    ]
    with pytest.raises(RuntimeError, match=message):
        make(-1)
    with pytest.raises(ValueError, match="Overflow when unpacking long long"):
        make(2**63)
    for wrong in (2.5, "3", True):
        kind = type(wrong).__name__
        with pytest.raises(
            TypeError, match=rf"{function}\(\): argument 'n' \(position 1\) must be int, not {kind}"
        ):
            make(wrong)
    with pytest.raises((MemoryError, RuntimeError)):
        make(2**50)


@pytest.mark.parametrize("end", [1e300, 1e19])
def test_ranges(end: float) -> None:
    with pytest.raises(RuntimeError, match=r"^invalid size, possible overflow\?$"):
        torch.arange(0, end)
    with pytest.raises(RuntimeError, match="step must be nonzero"):
        torch.arange(0, end, 0)
    with pytest.raises(RuntimeError, match="unsupported range: 0 -> inf"):
        torch.arange(0, float("inf"))
    with pytest.raises(RuntimeError, match="number of steps must be non-negative"):
        torch.linspace(0, 1, -1)


def test_what_is_made_of_tensors() -> None:
    x = torch.ones(1)
    with pytest.raises(TypeError, match=re.escape(LONG)):
        x.expand(2**63)
    with pytest.raises(RuntimeError, match=re.escape(STORAGE)):
        x.expand(2**40, 2**40)
    with pytest.raises(RuntimeError, match=re.escape(STORAGE)):
        x.repeat(2**62)
    with pytest.raises(RuntimeError, match=re.escape(STORAGE)):
        torch.ones(2**31, 1) * torch.ones(2**31)
