"""Well-formed programs that are not meant well: nothing outside of an array is read, nothing unfilled comes back."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from messages import call, load_header, slot, works

from distgrad.errors import WireError
from distgrad.fields import truths
from distgrad.primitives import TABLE, Place
from distgrad.primitives.indexing import _add_rows
from distgrad.worker.worker import Worker

F, D = np.float32, np.float64
INDEX = np.array([0, 1, 2])
MASK = np.array([True, False, True])
SQUARE = np.ones((3, 3), F)

# A step, and what its operands, attributes and results are: each is refused before anything runs.
REFUSED: dict[str, tuple[str, list[np.ndarray], dict[str, Any], list[Any]]] = {
    "fewer rows than indices": (
        "index_add",
        [INDEX, SQUARE[:1]],
        {"dim": 0, "size": 4},
        [slot("float32", 4, 3)],
    ),
    "a row too many": (
        "index_add",
        [INDEX, np.ones((4, 3), F)],
        {"dim": 0, "size": 9},
        [slot("float32", 9, 3)],
    ),
    "indices of int32": (
        "index_add",
        [INDEX.astype("i4"), SQUARE],
        {"dim": 0, "size": 3},
        [slot("float32", 3, 3)],
    ),
    "a size of -1": ("index_add", [INDEX, SQUARE], {"dim": 0, "size": -1}, [slot("float32", 0, 3)]),
    "no such dimension": ("index_add", [INDEX, SQUARE], {"dim": 2, "size": 3}, [slot("float32", 3, 3)]),
    "a dimension from the end": (
        "take",
        [SQUARE, INDEX],
        {"dim": -1, "size": 3, "wrap": True},
        [slot("float32", 3, 3)],
    ),
    "another size": ("take", [SQUARE, INDEX], {"dim": 0, "size": 9, "wrap": True}, [slot("float32", 3, 3)]),
    "a gather with fewer indices": (
        "gather",
        [SQUARE, INDEX[None]],
        {"dim": 1, "size": 3},
        [slot("float32", 1, 3)],
    ),
    "a scatter of fewer": (
        "scatter",
        [SQUARE, INDEX[None], SQUARE[:1, :1]],
        {"dim": 0, "size": 3},
        [slot("float32", 3, 3)],
    ),
    "a scatter_add of fewer": (
        "scatter_add",
        [INDEX, SQUARE[0, :1]],
        {"dim": 0, "size": 3},
        [slot("float32", 3)],
    ),
    "an index_put of more": ("index_put", [SQUARE, INDEX[:1], SQUARE], {"size": 3}, [slot("float32", 3, 3)]),
    "positions of three": (
        "add_taken",
        [INDEX, INDEX[:2], SQUARE],
        {"size": 3, "wrap": True},
        [slot("float32", 3, 3)],
    ),
    "argmax of nothing": ("argmax", [np.ones((0, 3), F)], {"dim": 0, "keepdim": False}, [slot("int64", 3)]),
    "argmin of nothing": ("argmin", [np.ones((3, 0), D)], {"dim": 1, "keepdim": True}, [slot("int64", 3, 1)]),
    "sizes too small": ("cat", [SQUARE, SQUARE], {"dim": 0, "sizes": [1, 1]}, [slot("float32", 6, 3)]),
    "sizes too large": ("cat", [SQUARE, SQUARE], {"dim": 0, "sizes": [9, 3]}, [slot("float32", 6, 3)]),
    "a narrower part": (
        "cat",
        [SQUARE, np.ones((3, 1), F)],
        {"dim": 0, "sizes": [3, 3]},
        [slot("float32", 6, 3)],
    ),
    "a part of another dtype": (
        "cat",
        [SQUARE, SQUARE.astype(D)],
        {"dim": 0, "sizes": [3, 3]},
        [slot("float32", 6, 3)],
    ),
    "dimensions in no order": (
        "sum",
        [SQUARE],
        {"dims": [1, 0], "keepdim": False, "dtype": "float32"},
        [slot("float32")],
    ),
    "a dimension beyond the last": (
        "amax",
        [SQUARE],
        {"dims": [5], "keepdim": False},
        [slot("float32", 3, 3)],
    ),
    "a permutation of one": ("permute", [SQUARE], {"dims": [0, 0]}, [slot("float32", 3, 3)]),
    "a longer shape": ("expand", [SQUARE], {"shape": [9, 3], "cuts": None}, [slot("float32", 9, 3)]),
    "a longer reshape": ("reshape", [SQUARE], {"shape": [18]}, [slot("float32", 18)]),
    "a dimension of 3": ("squeeze_dims", [SQUARE], {"dims": [0]}, [slot("float32", 3)]),
    "more than there are": ("compress", [SQUARE[0], MASK], {"size": 4, "cuts": None}, [slot("float32", 4)]),
    "a mask of numbers": ("compress", [SQUARE[0], INDEX], {"size": 2, "cuts": None}, [slot("float32", 2)]),
    "a shorter mask": ("compress", [SQUARE[0], MASK[:2]], {"size": 1, "cuts": None}, [slot("float32", 1)]),
    "a sum of float64 as float32": ("add", [SQUARE.astype(D), SQUARE], {}, [slot("float32", 3, 3)]),
    "an exponential of integers": ("exp", [INDEX], {}, [slot("int64", 3)]),
    "a choice by numbers": ("where", [INDEX, INDEX, INDEX], {}, [slot("int64", 3)]),
    "a softmax of integers": ("softmax", [INDEX], {"dim": 0}, [slot("int64", 3)]),
    "a negative power": ("integer_power", [INDEX], {"n": -2}, [slot("int64", 3)]),
    "a product of two dtypes": (
        "contract",
        [SQUARE, SQUARE.astype(D)],
        {"subscripts": "mk,kn->mn"},
        [slot("float32", 3, 3)],
    ),
    "a key of three": (
        "random",
        [INDEX],
        {"shape": [3], "kind": "normal", "dtype": "float32", "low": 0, "high": 0, "cuts": None},
        [slot("float32", 3)],
    ),
    "an unknown kind": (
        "random",
        [INDEX[:2]],
        {"shape": [3], "kind": "x", "dtype": "float32", "low": 0, "high": 0, "cuts": None},
        [slot("float32", 3)],
    ),
    "integers from no range": (
        "random",
        [INDEX[:2]],
        {"shape": [3], "kind": "integers", "dtype": "int64", "low": 5, "high": 5, "cuts": None},
        [slot("int64", 3)],
    ),
    "positions along no dimension": ("iota", [], {"shape": [3], "dim": 1, "cuts": None}, [slot("int64", 3)]),
    "a file from before its beginning": (
        "read_npy",
        [],
        {"path": "x", "offset": -8, "dtype": "float32", "shape": [3], "fortran": False, "cuts": None},
        [slot("float32", 3)],
    ),
    "another shape than the file's": (
        "write_npy",
        [SQUARE],
        {"path": "x", "offset": 0, "shape": [9, 9]},
        [slot("int64")],
    ),
    "cuts of another shape": ("reshard", [SQUARE], {"cuts": [[9, 0], [3, 0]]}, [slot("float32", 3, 3)]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_operands_that_do_not_fit_are_refused(name: str) -> None:
    primitive, arrays, attrs, outs = REFUSED[name]
    worker = Worker(0)
    with pytest.raises(WireError, match=f"^{primitive}: "):
        call(primitive, arrays, attrs, *outs, worker=worker)
    assert worker.store == {}
    assert works(worker)


def test_compress_gives_as_many_elements_as_it_says() -> None:
    x = np.arange(3, dtype=F)
    attrs = {"size": 1, "cuts": None}
    assert call("compress", [x, MASK], attrs, slot("float32", 1)).failures == [
        ("ValueError", "2 elements are chosen, not 1")
    ]
    (one,) = call("uncompress", [x[:1], MASK], {"cuts": None}, slot("float32", 3)).results
    assert one is None  # it would be both of the two elements


@pytest.mark.parametrize("value", [3, -4, 2**62, -(2**63)])
@pytest.mark.parametrize(
    "name", ["take", "gather", "scatter", "scatter_add", "index_add", "index_put", "add_taken"]
)
def test_an_index_outside_is_a_failure(name: str, value: int) -> None:
    idx, x = np.array([0, value, 1]), np.ones((3, 1), F)
    along = {"dim": 0, "size": 3}
    arrays, attrs = {
        "take": ([x, idx], {**along, "wrap": True}),
        "gather": ([x, idx[:, None]], along),
        "scatter": ([x, idx[:, None], x], along),
        "scatter_add": ([idx[:, None], x], along),
        "index_add": ([idx, x], along),
        "index_put": ([x, idx, x], {"size": 3}),
        "add_taken": ([idx, idx, x], {"size": 3, "wrap": True}),
    }[name]
    worker = Worker(0)
    answer = call(name, arrays, attrs, slot("float32", 3, 1), worker=worker)
    assert [kind for kind, _ in answer.failures] in (["IndexError"], ["RuntimeError"])
    assert str(value) in answer.failures[0][1]
    assert works(worker)


def test_what_scipy_runs_on_is_checked_where_it_runs() -> None:
    """The compiled product checks nothing: its caller does, whoever that is."""
    made = np.zeros((4, 3), F)
    with pytest.raises(ValueError, match="cannot be added"):
        _add_rows(INDEX, SQUARE[:1], 0, made)
    with pytest.raises(ValueError, match="cannot be added"):
        _add_rows(INDEX, np.ones((3, 5), F), 0, made)
    at = Place((((0, 3),), ((0, 3), (0, 3))), (((0, 4), (0, 3)),))
    with pytest.raises(ValueError, match="in C order"):
        TABLE["index_add"].kernel(INDEX, SQUARE, 0, 4, at=at, onto=np.zeros((5, 3), F))
    with pytest.raises(ValueError, match="no 3 by 3"):
        TABLE["add_taken"].kernel(INDEX, INDEX, SQUARE, size=3, wrap=True, out=np.zeros((2, 3), F))
    with pytest.raises(ValueError, match="2 taken"):
        TABLE["add_taken"].kernel(INDEX, INDEX[:2], SQUARE, size=3, wrap=True)


# Bools are any byte, and NumPy counts on 0 and 1: a mask of 2s chose twice as many elements, half of them unfilled.
def odd(*values: int) -> np.ndarray:
    return np.array(values, np.uint8).view(bool)


def test_bools_that_are_neither_0_nor_1_are_made_1() -> None:
    assert truths(odd(0, 1, 2, 255)).view(np.uint8).tolist() == [0, 1, 1, 1]
    x = np.arange(4, dtype=F)
    (made,) = call("compress", [x, odd(0, 2, 0, 255)], {"size": 2, "cuts": None}, slot("float32", 2)).results
    assert made is not None
    assert made[0].tolist() == [1, 3]
    worker = Worker(0)
    worker.load(load_header(1, [[4, 0]]), odd(0, 2, 0, 255))
    (stored,) = worker.store[1]
    assert stored.view(np.uint8).tolist() == [0, 1, 0, 1]


def test_bools_of_a_file_are_0_or_1(tmp_path: Any) -> None:
    path = tmp_path / "odd"
    path.write_bytes(bytes([0, 2, 255]))
    attrs = {"path": str(path), "offset": 0, "dtype": "bool", "shape": [3], "fortran": False, "cuts": None}
    (made,) = call("read_npy", [], attrs, slot("bool", 3)).results
    assert made is not None
    assert made[0].view(np.uint8).tolist() == [0, 1, 1]


@pytest.mark.parametrize("name", ["read_npy", "write_npy"])
def test_a_file_that_is_not_there_in_full_is_a_failure(name: str, tmp_path: Any) -> None:
    """What is mapped beyond the end of a file kills the process that touches it; a pipe would be waited for."""

    short, pipe = tmp_path / "short", tmp_path / "pipe"
    short.write_bytes(bytes(35))
    os.mkfifo(pipe)
    for path in (short, pipe, tmp_path):
        attrs = {"path": str(path), "offset": 0, "shape": [3, 3]}
        more = {"dtype": "float32", "fortran": False, "cuts": None} if name == "read_npy" else {}
        arrays, out = ([SQUARE], slot("int64")) if name == "write_npy" else ([], slot("float32", 3, 3))
        answer = call(name, arrays, {**attrs, **more}, out)
        assert len(answer.failures) == 1
    assert short.stat().st_size == 35
