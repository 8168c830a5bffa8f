"""Tensors as Python objects: operators, conversions, copies, and NumPy on either side, as torch's tensors have them."""

from __future__ import annotations

import copy
import math
import operator
import pickle
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import distgrad as t

# The special methods of torch 2.13's Tensor, but for those of its own dispatch and of CUDA.
SPECIAL = """
abs add and array array_priority array_wrap bool complex contains deepcopy delitem div dlpack
dlpack_device float floordiv getitem iadd iand idiv ifloordiv ilshift imod imul index int invert ior
ipow irshift isub iter itruediv ixor len long lshift matmul mod mul neg nonzero or pos pow radd rand
rdiv reversed rfloordiv rlshift rmatmul rmod rmul ror rpow rrshift rshift rsub rtruediv rxor setitem
setstate sub truediv xor
"""


@pytest.mark.parametrize("name", SPECIAL.split())
def test_every_special_method_of_torch_is_there(name: str) -> None:
    assert hasattr(t.Tensor, f"__{name}__")


def test_absolute_values(torch: ModuleType) -> None:
    assert abs(torch.tensor([-1.0, 2.0])).tolist() == [1, 2]
    assert abs(torch.tensor([-(2**31)], dtype=torch.int32)).tolist() == [-(2**31)]
    x = torch.tensor([-3.0, 2.0], requires_grad=True)
    abs(x).sum().backward()
    assert x.grad.tolist() == [-1, 1]
    with pytest.raises(NotImplementedError, match="\"abs_cpu\" not implemented for 'Bool'"):
        abs(torch.tensor([True]))


def test_shifts(torch: ModuleType) -> None:
    x = torch.tensor([1, -3, 5])
    assert (x << 2).tolist() == [4, -12, 20]
    assert (x >> 1).tolist() == [0, -2, 2]
    assert (x << torch.tensor([62, 1, 0])).tolist() == [2**62, -6, 5]
    assert (2 << torch.tensor([1, 2])).tolist() == [4, 8]
    assert (-16 >> torch.tensor([1, 2])).tolist() == [-8, -4]
    assert (np.array([1, 2]) << torch.tensor([1, 2])).tolist() == [2, 8]
    for beyond in (64, 70, -1):  # all bits leave; what comes in is the sign
        assert (x << beyond).tolist() == [0, 0, 0]
        assert (x >> beyond).tolist() == [0, -1, 0]
    assert (torch.tensor([1], dtype=torch.int32) << 31).tolist() == [-(2**31)]
    assert (torch.tensor([True]) << 1).dtype is torch.int64
    y = x
    y <<= 3
    y >>= 1
    assert y is x
    assert x.tolist() == [4, -12, 20]
    assert x.bitwise_left_shift_(1).bitwise_right_shift(2).tolist() == [2, -6, 10]


@pytest.mark.parametrize(("left", "right", "title"), [
    ([1.5], 1, "Float"), ([1], 1.5, "Float"), ([True], True, "Bool"),
])  # fmt: skip
def test_only_integers_are_shifted(left: Any, right: Any, title: str) -> None:
    with pytest.raises(NotImplementedError, match=f"\"lshift_cpu\" not implemented for '{title}'"):
        t.tensor(left) << right
    with pytest.raises(NotImplementedError, match=f"\"rshift_cpu\" not implemented for '{title}'"):
        t.tensor(left) >> right


def test_the_sign_of_bools() -> None:
    assert (+t.tensor([1, -2])).tolist() == [1, -2]
    with pytest.raises(RuntimeError, match=r"The `\+` operator, on a bool tensor is not supported"):
        _ = +t.tensor([True])


def test_membership(torch: ModuleType) -> None:
    x = torch.tensor([1, 2, 3])
    for there in (3, 3.0, True, np.int64(3), np.float32(2), torch.tensor(2), torch.tensor([2])):
        assert there in x
    for missing in (5, 2.5, 1j, np.int64(7), math.nan):
        assert missing not in x
    with pytest.raises(
        RuntimeError, match="only supports Tensor or scalar, but you passed in a <class 'str'>"
    ):
        _ = "a" in x
    with pytest.raises(
        RuntimeError, match=r"The size of tensor a \(2\) must match the size of tensor b \(3\)"
    ):
        _ = torch.tensor([1, 2]) in x
    with pytest.raises(TypeError, match="Tensor does not support deleting items"):
        del x[0]


def test_backwards_through_the_first_dimension(torch: ModuleType) -> None:
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    back = reversed(x)
    assert back.tolist() == [[3, 4], [1, 2]]
    (back * torch.tensor([[1.0], [10.0]])).sum().backward()
    assert x.grad.tolist() == [[10, 10], [1, 1]]
    assert [row.tolist() for row in reversed(torch.tensor([1, 2, 3]))] == [3, 2, 1]
    assert reversed(torch.tensor(5)).item() == 5


def test_a_copy_shares_elements_and_a_deep_one_does_not(torch: ModuleType) -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    x.note = {"a": [1]}
    near, far = copy.copy(x), copy.deepcopy(x)
    again = pickle.loads(pickle.dumps(x))
    with torch.no_grad():
        x.mul_(10)
    assert near.tolist() == [10, 20]
    assert far.tolist() == again.tolist() == [1, 2]
    for made in (near, far, again):
        assert made is not x
        assert made.is_leaf
        assert made.requires_grad
        assert made.note == {"a": [1]}
    assert near.note is x.note
    assert far.note is not x.note
    assert copy.copy(x * 2).is_leaf


def test_numpy_on_the_left(torch: ModuleType) -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    for number in (np.float64(2), np.float32(2), np.int64(2)):
        assert (number * x).dtype is torch.float32
        assert (number - x).tolist() == [1, 0]
        assert (number / x).tolist() == [2, 1]
        assert (number**x).tolist() == [2, 4]
        assert (number < x).tolist() == [False, False]
    ones = np.ones(2)
    assert (ones + x).dtype is torch.float64
    assert (ones - x).tolist() == [0, -1]
    assert (ones @ x.double()).item() == 3
    (ones - x).sum().backward()
    assert x.grad.tolist() == [-1, -1]
    with pytest.raises(RuntimeError, match="Can't call numpy"):
        np.asarray(x)
    assert np.from_dlpack(x.detach()).tolist() == [1, 2]
    with pytest.raises(BufferError, match="Can't export tensors that require gradient"):
        np.from_dlpack(x)


def test_numbers_out_of_tensors() -> None:
    one = t.tensor([3])
    assert (int(one), float(one), complex(one), operator.index(one), bool(one)) == (3, 3.0, 3 + 0j, 3, True)
    assert [10, 20, 30][t.tensor(1)] == 20
    assert (math.floor(t.tensor(2.5)), math.sqrt(t.tensor([4.0]))) == (2, 2)
    with pytest.raises(TypeError, match="only integer tensors of a single element"):
        operator.index(t.tensor(3.0))
    for two in (int, float, bool):
        with pytest.raises((RuntimeError, ValueError)):
            two(t.tensor([1, 2]))


def test_old_types_have_instances() -> None:
    assert isinstance(t.ones(2), t.FloatTensor)
    assert isinstance(t.tensor([1]), t.LongTensor)
    assert not isinstance(t.tensor([1]), t.FloatTensor)
    assert not isinstance([1.0], t.FloatTensor)
    assert t.IntTensor(2, 3).shape == (2, 3)
    assert t.LongTensor([1, 2]).tolist() == [1, 2]
    assert t.BoolTensor.dtype is t.bool


def test_what_a_tensor_tells_of_itself() -> None:
    x = t.ones(2, requires_grad=True)
    assert x.real is x.conj() is x.resolve_conj() is x
    assert x.is_cpu
    assert not any((x.is_cuda, x.is_sparse, x.is_meta, x.is_conj(), x.is_pinned()))
    assert x.is_signed()
    assert not (x > 0).is_signed()
    assert x.is_same_size(t.zeros(2))
    assert x.get_device() == -1
    with pytest.raises(RuntimeError, match="imag is not implemented for tensors with non-complex dtypes"):
        _ = x.imag
    assert t.tensor([2]).is_nonzero()
    with pytest.raises(RuntimeError, match="Boolean value of Tensor with more than one value is ambiguous"):
        x.is_nonzero()
