"""Rows that are added to rows by machine code: the bits of SciPy's products, in the same order."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from values import same_bits

from distgrad.compiler import switch
from distgrad.primitives.grouped import add_rows
from distgrad.primitives.sparse import add_taken

SIZES = [
    (4000, 900, 300, 32),
    (4000, 300, 900, 7),
    (500, 40, 50, 1000),
    (300, 2, 5, 1),
    (0, 4, 5, 3),
    (9, 9, 9, 33),
]


@pytest.fixture(autouse=True)
def numpy_again() -> Iterator[None]:
    """Loops are not compiled after a test."""
    yield
    switch.turn(False)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize(("n", "size", "rows", "columns"), SIZES)
def test_taken_rows(n, size, rows, columns, dtype):
    rng = np.random.default_rng(n)
    idx, source = rng.integers(0, size, n), rng.integers(-rows, rows, n)
    table, weight = rng.normal(size=(rows, columns)).astype(dtype), rng.normal(size=(n, 1)).astype(dtype)
    made = []
    for on in (False, True):
        switch.turn(on)
        made.append(add_taken(idx, source, table, weight, size=size, wrap=True))
    assert same_bits(*made)
    expected = np.zeros((size, columns))
    np.add.at(expected, idx, weight.astype("f8") * table[source])
    np.testing.assert_allclose(made[1], expected, rtol=1e-4 if dtype == "f4" else 1e-12, atol=1e-4)


@pytest.mark.parametrize("dtype", ["f4", "f8", "i8"])
@pytest.mark.parametrize(("n", "size", "rows", "columns"), SIZES)
def test_rows_by_group(n, size, rows, columns, dtype):
    rng = np.random.default_rng(n)
    idx, values = rng.integers(0, size, n), (10 * rng.normal(size=(n, columns))).astype(dtype)
    made = []
    for on in (False, True):
        switch.turn(on)
        sums = np.ones((size, columns), dtype)
        add_rows(idx, values, sums)
        made.append(sums)
    assert same_bits(*made)
