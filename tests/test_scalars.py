"""Numbers that meet tensors: what a dtype cannot hold is refused where it would become an element, in torch's words.

The expected values are worked out here with Python's integers and NumPy's float32, not by distgrad.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import distgrad as t

DTYPES = ("bool", "int32", "int64", "float32", "float64")
INTS = (2**31 - 1, 2**31, -(2**31), -(2**31) - 1, 2**40, 2**63 - 1, 2**63, -(2**63), 2**64 - 1)
FLOATS = (
    3.5,
    -0.5,
    2147483647.5,
    -2147483648.5,
    1e10,
    1e20,
    3.4028234663852886e38,
    3.4028235e38,
    1e40,
    -1e40,
)
NUMBERS = (
    True,
    False,
    2,
    -1,
    *INTS,
    *FLOATS,
    math.inf,
    -math.inf,
    math.nan,
    np.float64(1e40),
    np.int64(2**40),
)
RANGE = {"int32": (-(2**31), 2**31 - 1), "int64": (-(2**63), 2**63 - 1)}
TITLE = {"int32": "int", "int64": "int64_t", "float32": "float"}
MOST = (2**24 - 1) * 2**104  # the largest float32

Fill = Callable[[Any, Any], Any]


def held(number: Any, name: str) -> Any:
    """What a number becomes in a dtype; None if the dtype cannot hold it."""
    if name in RANGE:
        low, high = RANGE[name]
        return int(number) if low <= number <= high else None
    if name == "float32":
        return None if MOST < abs(number) < math.inf else np.float32(number)
    return bool(number) if name == "bool" else float(number)


def changed(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The tensor after a change in place."""

    def run(x: Any) -> Any:
        change(x)
        return x

    return run


def masked(x: Any) -> Any:
    return t.ones(x.shape, dtype=t.bool)


# Ways to put a number into all elements of a tensor of two.
FILLS: dict[str, Fill] = {
    "full": lambda x, n: t.full((2,), n, dtype=x.dtype),
    "full_like": lambda x, n: t.full_like(x, n),
    "new_full": lambda x, n: x.new_full((2,), n),
    "fill_": lambda x, n: x.clone().fill_(n),
    "set all": lambda x, n: changed(lambda y: y.__setitem__(slice(None), n))(x.clone()),
    "set one": lambda x, n: changed(lambda y: (y.__setitem__(0, n), y.__setitem__(1, n)))(x.clone()),
    "set at": lambda x, n: changed(lambda y: y.__setitem__([0, 1], n))(x.clone()),
    "set where": lambda x, n: changed(lambda y: y.__setitem__(masked(y), n))(x.clone()),
    "masked_fill": lambda x, n: x.masked_fill(masked(x), n),
    "masked_fill_": lambda x, n: x.clone().masked_fill_(masked(x), n),
    "index_fill": lambda x, n: x.index_fill(0, t.tensor([0, 1]), n),
    "scatter": lambda x, n: x.scatter(0, t.tensor([0, 1]), n),
    "scalar_tensor": lambda x, n: t.scalar_tensor(n, dtype=x.dtype).repeat(2),
}


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("how", FILLS)
def test_a_number_that_is_written_is_held_or_refused(how: str, name: str) -> None:
    x = t.zeros(2, dtype=getattr(t, name))
    for number in NUMBERS:
        want = held(number, name)
        if how.startswith("set") and isinstance(number, int) and number > 2**63 - 1:
            with pytest.raises(ValueError, match="Overflow when unpacking long long"):
                FILLS[how](x, number)
        elif want is None:
            text = f"^value cannot be converted to type {TITLE[name]} without overflow$"
            with pytest.raises(RuntimeError, match=text):
                FILLS[how](x, number)
        else:
            got = FILLS[how](x, number)
            assert got.dtype is x.dtype
            np.testing.assert_array_equal(got.numpy(), [want, want], err_msg=f"{how} {number} {name}")
            assert np.signbit(got.numpy()).tolist() == [np.signbit(want)] * 2


@pytest.mark.parametrize("name", ["int32", "int64"])
@pytest.mark.parametrize("number", [n for n in INTS if n < 2**63])
def test_integers_are_clamped_and_chosen_by_what_they_hold(name: str, number: int) -> None:
    x, low, high = t.arange(3, dtype=getattr(t, name)), *RANGE[name]
    calls: dict[Callable[[], Any], list[int]] = {
        lambda: x.clamp(max=number): [min(n, number) for n in range(3)],
        lambda: x.clamp(min=number): [max(n, number) for n in range(3)],
        lambda: x.clone().clamp_(number, number): [number] * 3,
        lambda: t.clamp_min(x, number): [max(n, number) for n in range(3)],
        lambda: t.where(x == 1, number, x): [0, number, 2],
        lambda: t.where(x == 1, x, number): [number, 1, number],
    }
    for call, want in calls.items():
        if low <= number <= high:
            assert call().tolist() == want
        else:
            with pytest.raises(RuntimeError, match=f"type {TITLE[name]} without overflow"):
                call()


def test_the_case_of_the_report(torch: ModuleType) -> None:
    with pytest.raises(RuntimeError, match=r"^value cannot be converted to type int without overflow$"):
        torch.arange(3, dtype=torch.int32).clamp(max=2**31)
    assert torch.arange(3, dtype=torch.int32).clamp(max=2**31 - 1).tolist() == [0, 1, 2]
    large = torch.zeros(40, dtype=torch.int32)
    with pytest.raises(RuntimeError, match="type int without overflow"):
        large[3] = 2**31
    assert large.tolist() == [0] * 40  # untouched
    with pytest.raises(RuntimeError, match="type float without overflow"):
        torch.zeros(40).masked_fill_(torch.ones(40, dtype=torch.bool), 1e40)


@pytest.mark.parametrize(("number", "text"), [
    (2**64, "int too big to convert"), (-(2**63) - 1, "can't convert negative int to unsigned"),
])  # fmt: skip
@pytest.mark.parametrize("name", DTYPES)
def test_no_number_has_more_than_64_bits(name: str, number: int, text: str) -> None:
    x = t.zeros(2, dtype=getattr(t, name))
    for call in (operator.add, operator.mul, operator.eq, operator.lt, t.full_like, t.floor_divide):
        with pytest.raises(OverflowError, match=text):
            call(x, number)


def test_an_operand_wraps_around_as_in_torch() -> None:
    x = t.tensor([1, -1], dtype=t.int32)
    assert (x + 2**40).tolist() == [1, -1]
    assert (x + (2**31 + 5)).tolist() == [-(2**31) + 6, -(2**31) + 4]
    assert (x < 2**31).tolist() == [False, False]  # 2**31 counts as -2**31
    assert (t.tensor([1]) + (2**64 - 1)).tolist() == [0]
    assert (t.ones(1) + 1e40).tolist() == [math.inf]
    with pytest.raises(RuntimeError, match="attempted to promote Bool and UInt64"):
        t.tensor([True]) + 2**63


def test_factors_are_held_or_refused() -> None:
    x = t.ones(2, 2, dtype=t.int32)
    for call in (
        lambda n: t.add(x, x, alpha=n),
        lambda n: t.addcmul(x, x, x, value=n),
        lambda n: t.addmm(x, x, x, beta=n),
        lambda n: t.addmm(x, x, x, alpha=n),
        lambda n: t.index_add(x, 0, t.tensor([0]), x[:1], alpha=n),
    ):
        with pytest.raises(RuntimeError, match="type int without overflow"):
            call(2**31)
    for alpha in (np.int64(3), t.tensor(3), 3):
        assert t.add(x, x, alpha=alpha).tolist() == [[4, 4], [4, 4]]
    with pytest.raises(TypeError, match=r"add\(\): argument 'alpha' must be Number, not str"):
        t.add(x, x, alpha="2")
    with pytest.raises(RuntimeError, match="type int without overflow"):
        x**2**31
    with pytest.raises(RuntimeError, match="type float without overflow"):
        t.add(t.ones(2), t.ones(2), alpha=1e40)


def test_a_number_of_numpy_on_the_left_is_a_number() -> None:
    x = t.tensor([1, -1], dtype=t.int32)
    assert (np.int64(2**40) - x).dtype is t.int32
    assert (np.int64(5) - x).tolist() == [4, 6]
    assert (np.float64(2) * t.ones(2)).dtype is t.float32


def test_ranges_of_integers() -> None:
    for call in (lambda: t.arange(2**63, 2**63 + 2), lambda: t.arange(0, 1e20, 5e19, dtype=t.int64)):
        with pytest.raises(RuntimeError, match="type int64_t without overflow"):
            call()
    assert t.arange(-(2**63), -(2**63) + 2).tolist() == [-(2**63), -(2**63) + 1]
    assert t.arange(2**63 - 3, 2**63 - 1).tolist() == [2**63 - 3, 2**63 - 2]
    assert t.arange(0.5, 3.7, 1.9, dtype=t.int32).tolist() == [0, 1]  # steps of whole numbers
    assert t.arange(0, 2**53 + 4, 2**53).tolist() == [0, 2**53]
    for end in (math.inf, math.nan):
        with pytest.raises(RuntimeError, match=f"^unsupported range: 0 -> {end}$"):
            t.arange(end)
    with pytest.raises(RuntimeError, match="step must be nonzero"):
        t.arange(0, 1, math.nan)
    with pytest.raises(NotImplementedError, match="\"arange_cpu\" not implemented for 'Bool'"):
        t.arange(2, dtype=t.bool)
    with pytest.raises(TypeError, match=r"arange\(\): argument 'end' \(position 1\) must be Number, not str"):
        t.arange("a")
    with pytest.raises(RuntimeError, match="type int without overflow"):
        t.linspace(0, 2**40, 3, dtype=t.int32)
    with pytest.raises(RuntimeError, match="number of steps must be non-negative"):
        t.linspace(0, 1, -1)


def test_random_integers_fit_their_dtype() -> None:
    for low, high, name, text in (
        (0, 2**31 + 1, "int32", "to - 1 is out of bounds for int"),
        (-(2**31) - 1, 0, "int32", "from is out of bounds for int"),
        (0, 3, "bool", "to - 1 is out of bounds for bool"),
    ):
        with pytest.raises(RuntimeError, match=f"^{text}$"):
            t.randint(low, high, (2,), dtype=getattr(t, name))
    assert set(t.randint(2**31 - 1, 2**31, (4,), dtype=t.int32).tolist()) == {2**31 - 1}
    with pytest.raises(ValueError, match="Overflow when unpacking long long"):
        t.randint(2**63, (2,))
    with pytest.raises(TypeError, match=r"argument 'high' .* must be int, not float"):
        t.randint(3.5, (2,))
    with pytest.raises(RuntimeError, match=r"negative dimension -1: \[-1\]"):
        t.randperm(-1)


# Data.
def test_tensor_of_numbers_that_a_dtype_cannot_hold() -> None:
    for number in (2**31, 2**40, 1e10, math.nan, math.inf, 2147483647.5, np.int64(2**40), np.float64(1e40)):
        for data in (number, [number], [[1, number]], [1.5, number]):
            for make in (t.tensor, t.as_tensor, t.asarray):
                with pytest.raises(RuntimeError, match=r"^value cannot be converted to type int32 without"):
                    make(data, dtype=t.int32)
    with pytest.raises(RuntimeError, match="type int64 without overflow"):
        t.tensor([1e20], dtype=t.int64)
    with pytest.raises(ValueError, match="Overflow when unpacking long long"):
        t.tensor([2**63])
    with pytest.raises(TypeError, match=r"'numpy.float32' object cannot be interpreted as an integer"):
        t.tensor([np.float32(1.5)], dtype=t.int32)
    with pytest.raises(
        TypeError, match="only integer tensors of a single element can be converted to an index"
    ):
        t.tensor([t.tensor(1.5)], dtype=t.int32)
    with pytest.raises(RuntimeError, match="type int32 without overflow"):
        t.IntTensor([2**40])
    assert t.tensor([1.5, -1.5], dtype=t.int32).tolist() == [1, -1]
    assert t.tensor([1e40]).tolist() == [math.inf]
    assert t.tensor(np.array([2**40 + 5]), dtype=t.int32).tolist() == [5]  # arrays are converted


def test_numbers_in_a_list_count_with_their_own_dtype(torch: ModuleType) -> None:
    one = torch.tensor(1.0, dtype=torch.float64)
    for data in ([one, 1.0], [1.0, one], [[one], [2]], (one, 2), [np.float64(1), 2.0], [np.array(1.0), 2.0]):
        assert torch.tensor(data).dtype is torch.float64
    assert torch.tensor([torch.tensor(1, dtype=torch.int32)]).dtype is torch.int32
    assert torch.tensor([torch.tensor(1, dtype=torch.int32), 2]).dtype is torch.int64
    assert torch.tensor([torch.tensor(True), 2]).tolist() == [1, 2]
    assert torch.tensor([torch.tensor(1), 2.5]).dtype is torch.float32
    assert torch.tensor([torch.tensor([1]), torch.tensor([3])]).tolist() == [1, 3]
    with pytest.raises(TypeError, match="only integer tensors of a single element"):
        torch.tensor([torch.tensor([1, 2]), torch.tensor([3, 4])])


def test_a_number_that_must_be_one() -> None:
    for wrong in ("a", None, t.tensor([1, 2]), t.tensor([1])):
        text = rf"argument 'fill_value' \(position 2\) must be Number, not {type(wrong).__name__}"
        with pytest.raises(TypeError, match=text):
            t.full((2,), wrong)
    assert t.full((2,), t.tensor(1.5)).tolist() == [1.5, 1.5]
    with pytest.raises(RuntimeError, match=r"Trying to create tensor with negative dimension -1: \[2, -1\]"):
        t.ones(2, -1)
