"""How an op is declared: what its types say of its arguments, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import distgrad as torch
from distgrad.graph import Value
from distgrad.ops.base import Ints, Operand, elementwise, op
from distgrad.ops.table import UNLISTED

Matrix, Scale = Value, float  # other names of types that say something


@pytest.fixture
def declare() -> Any:
    before = set(UNLISTED)
    yield lambda body, **options: op(method=False, listed=False, **options)(body)
    for name in set(UNLISTED) - before:
        del UNLISTED[name]


def test_types_count_not_their_names(declare: Callable[..., Any]) -> None:
    def scaled(x: Matrix, by: Scale = 2.0) -> Value:
        assert type(by) is float
        return elementwise("multiply", x, by)

    made = declare(scaled, x=lambda g, by: g * by)
    assert made(torch.ones(2), np.float32(3.0)).tolist() == [3.0, 3.0]
    with pytest.raises(TypeError, match=r"scaled\(\): argument 'x' \(position 1\) must be Tensor, not int"):
        made(1)
    with pytest.raises(TypeError, match=r"scaled\(\): argument 'by' must be Number, not str"):
        made(torch.ones(2), "3")


def test_what_is_read_from_a_body(declare: Callable[..., Any]) -> None:
    def body(
        a: Operand, bs: Sequence[Value], c: Value | None = None, *, n: int = 0, more: Any = None
    ) -> Value:
        raise NotImplementedError

    def run(a: Value, dims: Ints) -> Value:
        raise NotImplementedError

    declare(body), declare(run)
    made, turned = UNLISTED["body"], UNLISTED["run"]
    assert (made.tensors, made.lists, made.slots) == (("a", "c"), ("bs",), ((0, True), (2, False)))
    assert (made.positional, made.integers, made.scalars, made.runs) == (3, (3,), (), ())
    assert (turned.runs, turned.bind((1, 2, 3), {})) == ((1,), (1, (2, 3)))


def test_what_cannot_be_is_refused(declare: Callable[..., Any]) -> None:
    def listed(parts: list[Value]) -> Value:
        raise NotImplementedError

    def plain(x: Value) -> Value:
        return x

    with pytest.raises(TypeError, match=r"listed: no parameter can be list.*Value.*, as parts is"):
        declare(listed)
    with pytest.raises(TypeError, match=r"plain: formulas for \['y'\], which are no arguments"):
        declare(plain, y=lambda g: g)
    with pytest.raises(TypeError, match=r"plain: the formula for x takes \['z'\], which are no arguments"):
        declare(plain, x=lambda g, z: g)
    with pytest.raises(ValueError, match="op 'add' is declared twice"):

        @op()
        def add(x: Value) -> Value:
            return x
