"""Promotion, casting and the dtype objects, against tables that torch 2.13 gave."""

from __future__ import annotations

import itertools
from types import ModuleType

import numpy as np
import pytest

import distgrad
from distgrad.dtype import promote, scalar_dtype

NAMES = ["bool", "int32", "int64", "float32", "float64"]

# torch.result_type for each pair of dtypes, in the order of NAMES: rows the first operand, columns the second.
SAME_CATEGORY = """
bool    int32   int64   float32 float64
int32   int32   int64   float32 float64
int64   int64   int64   float32 float64
float32 float32 float32 float32 float64
float64 float64 float64 float64 float64
"""
# The first operand has dimensions, the second has none.
WITH_ZERO_DIM = """
bool    int32   int64   float32 float64
int32   int32   int32   float32 float64
int64   int64   int64   float32 float64
float32 float32 float32 float32 float32
float64 float64 float64 float64 float64
"""
# The second operand is the Python number True, 2 or 2.5.
WITH_NUMBER = """
bool    int64   float32
int32   int32   float32
int64   int64   float32
float32 float32 float32
float64 float64 float64
"""


def table(text: str) -> list[list[str]]:
    return [line.split() for line in text.split("\n") if line]


@pytest.mark.parametrize(("i", "j"), list(itertools.product(range(5), range(5))))
def test_promotion_of_tensors(i: int, j: int) -> None:
    def made(name: str, *shape: int) -> distgrad.Tensor:
        return distgrad.ones(*shape, dtype=getattr(distgrad, name))

    a, b = NAMES[i], NAMES[j]
    assert (
        distgrad.promote_types(getattr(distgrad, a), getattr(distgrad, b)).name == table(SAME_CATEGORY)[i][j]
    )
    for shape in ((2,), ()):
        assert (made(a, *shape) * made(b, *shape)).dtype.name == table(SAME_CATEGORY)[i][j]
    assert (made(a, 2) * made(b)).dtype.name == table(WITH_ZERO_DIM)[i][j]
    assert (made(b) * made(a, 2)).dtype.name == table(WITH_ZERO_DIM)[i][j]
    assert distgrad.result_type(made(a, 2), made(b)).name == table(WITH_ZERO_DIM)[i][j]


@pytest.mark.parametrize("shape", [(2,), ()])
@pytest.mark.parametrize(("i", "j"), list(itertools.product(range(5), range(3))))
def test_promotion_with_numbers(i: int, j: int, shape: tuple[int, ...]) -> None:
    x = distgrad.ones(shape, dtype=getattr(distgrad, NAMES[i]))
    number = (True, 2, 2.5)[j]
    assert (x * number).dtype.name == table(WITH_NUMBER)[i][j]
    assert (number * x).dtype.name == table(WITH_NUMBER)[i][j]
    assert (x * np.asarray(number)[()]).dtype.name == table(WITH_NUMBER)[i][j]


def test_three_categories_at_once() -> None:
    def result(dims: str, zeros: str, number: object) -> str:
        found = promote([np.dtype(dims)], [np.dtype(zeros)], [scalar_dtype(number)])
        return found.name

    assert result("int32", "int64", 1) == "int32"
    assert result("int32", "float64", 1) == "float64"
    assert result("bool", "int32", 1.5) == "float32"
    assert result("float32", "float64", 1.5) == "float32"


@pytest.mark.parametrize(("i", "j"), list(itertools.product(range(5), range(5))))
def test_casting_in_place(i: int, j: int) -> None:
    source, target = getattr(distgrad, NAMES[i]), getattr(distgrad, NAMES[j])
    kinds = "biiff"
    allowed = "bif".index(kinds[i]) <= "bif".index(kinds[j])
    assert distgrad.can_cast(source, target) is allowed
    if allowed:
        x = distgrad.ones(2, dtype=target).mul_(distgrad.ones(2, dtype=source))
        assert x.dtype is target
    else:
        with pytest.raises(RuntimeError, match=f"result type {source.title} can't be cast .* {target.title}"):
            distgrad.ones(2, dtype=target).mul_(distgrad.ones(2, dtype=source))


def test_dtype_objects(torch: ModuleType) -> None:
    assert repr(torch.float32) == "torch.float32"
    assert torch.float is torch.float32
    assert torch.double is torch.float64
    assert torch.long is torch.int64
    assert torch.int is torch.int32
    assert (torch.float64.itemsize, torch.bool.itemsize) == (8, 1)
    assert torch.float32.is_floating_point
    assert not torch.int32.is_floating_point
    assert torch.ones(2).dtype == torch.float32 != torch.float64
    assert repr(torch.finfo(torch.float32)).startswith(
        "finfo(resolution=1e-06, min=-3.40282e+38, max=3.40282e+38, eps=1.19209e-07"
    )
    assert repr(torch.iinfo(torch.int32)) == "iinfo(min=-2.14748e+09, max=2.14748e+09, dtype=int32)"
    assert torch.finfo(torch.float64).eps == 2.0**-52


def test_default_dtype(torch: ModuleType) -> None:
    assert torch.get_default_dtype() is torch.float32
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.ones(2).dtype is torch.float64
        assert torch.tensor([1.5]).dtype is torch.float64
        assert (torch.tensor([1]) / 2).dtype is torch.float64
        assert torch.arange(0.0, 1.0, 0.5).dtype is torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    with pytest.raises(TypeError, match="only floating-point types"):
        torch.set_default_dtype(torch.int64)


def test_what_a_dtype_may_be_written_as(torch: ModuleType) -> None:
    for written in (torch.float64, np.float64, "float64", np.dtype("float64")):
        assert torch.zeros(1, dtype=written).dtype is torch.float64
    assert torch.zeros(1, dtype=int).dtype is torch.int64
    with pytest.raises(TypeError, match="dtype must be one of"):
        torch.zeros(1, dtype="float16")
    with pytest.raises(TypeError, match=r"can't convert np.ndarray of type numpy.uint8"):
        torch.from_numpy(np.zeros(2, np.uint8))


def test_sizes(torch: ModuleType) -> None:
    size = torch.Size([2, 3])
    assert repr(size) == "torch.Size([2, 3])"
    assert size.numel() == 6
    assert size == (2, 3)
    assert repr(size[1:]) == "torch.Size([3])"
    assert repr(size + size[:1]) == "torch.Size([2, 3, 2])"
    assert size[0] == 2


def test_devices(torch: ModuleType) -> None:
    assert repr(torch.device("cpu")) == "device(type='cpu')"
    assert torch.ones(1).device == torch.device("cpu")
    assert torch.zeros(1, device="cpu").to("cpu").device == torch.device("cpu")
    with pytest.raises(AssertionError, match="Torch not compiled with CUDA enabled"):
        torch.zeros(1, device="cuda")
