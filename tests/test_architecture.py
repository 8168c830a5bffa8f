"""What ARCHITECTURE.md shows works by the letter, from an interpreter that knows nothing but what is imported there."""

from __future__ import annotations

import pathlib
import re
import textwrap
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from cases import CASES
from op_calls import workers
from references import REFERENCES

import distgrad as torch
from distgrad.ops.table import OPS
from distgrad.primitives import TABLE
from distgrad.tensor import Tensor

ROOT = pathlib.Path(__file__).parent.parent
TEXT = (ROOT / "ARCHITECTURE.md").read_text()
ADDED = {"hypot": "hypot", "cummax": "running_max"}  # the ops, and their primitives
METHODS = {"hypot": ("hypot", "hypot_"), "cummax": ("cummax",)}


@pytest.fixture(params=["in the driver", "on workers"])
def shown(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The names that the snippets make, where these ops were not declared before."""
    for op, primitive in ADDED.items():
        monkeypatch.delitem(OPS, op)
        monkeypatch.delitem(TABLE, primitive)
        monkeypatch.setitem(CASES, primitive, [])
        monkeypatch.delitem(REFERENCES, op)
        for method in METHODS[op]:
            monkeypatch.setattr(Tensor, method, getattr(Tensor, method))
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL):
        exec(compile(textwrap.dedent(block), "ARCHITECTURE.md", "exec", dont_inherit=True), names)
    with workers(0 if request.param == "on workers" else 1 << 16):
        yield names


@pytest.mark.parametrize(
    "dtypes", [("float32", "float32"), ("float64", "float64"), ("float32", "float64"), ("int64", "float32")]
)
def test_hypot(shown: dict[str, Any], dtypes: tuple[str, str]) -> None:
    a, b = np.array([[3, 0, -5]] * 2).astype(dtypes[0]), np.array([4.0, 0.0, 12.0]).astype(dtypes[1])
    x, y = (torch.from_numpy(v).requires_grad_(v.dtype.kind == "f") for v in (a, b))
    made = shown["hypot"](x, y)
    assert str(made.dtype) == f"torch.{dtypes[1]}"
    assert made.tolist() == [[5, 0, 13]] * 2
    assert x.hypot(y).tolist() == made.tolist()
    made.sum().backward()
    np.testing.assert_allclose(y.grad.tolist(), [8 / 5, 0, 24 / 13], rtol=1e-6)
    with pytest.raises(NotImplementedError, match="\"hypot_cpu\" not implemented for 'Long'"):
        shown["hypot"](torch.ones(2).long(), torch.ones(2).long())


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64", "bool"])
def test_cummax(shown: dict[str, Any], dtype: str) -> None:
    a = np.array([[1, 3, 2, 3, 0], [2, 2, 1, 4, 4]]).astype(dtype)
    x = torch.from_numpy(a).reshard({0: 1, 1: 2}).requires_grad_(a.dtype.kind == "f")
    values, indices = made = shown["cummax"](x, 1)
    assert (made._fields, str(values.dtype), str(indices.dtype)) == (
        ("values", "indices"), f"torch.{dtype}", "torch.int64",
    )  # fmt: skip
    assert values.tolist() == np.maximum.accumulate(a, 1).tolist()
    if dtype != "bool":
        assert indices.tolist() == [[0, 1, 1, 3, 3], [0, 1, 1, 3, 4]]
    if a.dtype.kind == "f":
        (values * torch.arange(1.0, 6)).sum().backward()
        assert x.grad.tolist() == [[1, 5, 0, 9, 0], [1, 5, 0, 4, 5]]
        nan = x.detach().clone()
        nan[0, 2] = float("nan")
        assert shown["cummax"](nan, 1)[1][0].tolist() == [0, 1, 2, 2, 2]


@pytest.mark.parametrize("op", sorted(ADDED))
def test_three_files_know_an_op(op: str) -> None:
    files = [
        *(f for f in (ROOT / "distgrad").rglob("*.py") if f.parent.name != "maths"),
        *(ROOT / "tests").glob("*_cases.py"),
        ROOT / "tests" / "references.py",
    ]
    word = re.compile(rf"\b({op}|{ADDED[op]})\b")
    assert len([file.name for file in files if word.search(file.read_text())]) == 3
