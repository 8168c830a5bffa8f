"""Paths of views: slices go before what arranges the elements, so that a write to any view is one to a slice."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from values import Start

import distgrad as t
from distgrad.ops.move_path import _joined
from distgrad.ops.moves import Permute, Reshape, Slice, Squeeze, Unsqueeze
from distgrad.plan.plans import Plan


def moved(array: np.ndarray, move: Any) -> np.ndarray:
    """What NumPy makes of a move."""
    if isinstance(move, Permute):
        return array.transpose(move.dims)
    if isinstance(move, Squeeze):
        return array.squeeze(move.dims)
    if isinstance(move, Unsqueeze):
        return np.expand_dims(array, move.dim)
    if isinstance(move, Reshape):
        assert array.shape == move.before
        return array.reshape(move.shape)
    assert isinstance(move, Slice)
    return array[tuple(slice(a, a + n * s, s) if n else slice(0, 0) for a, n, s in move.slices)]


def slices(draw: st.DrawFn, shape: tuple[int, ...]) -> Slice:
    found = []
    for n in shape:
        start, step = draw(st.integers(0, max(0, n - 1))), draw(st.integers(1, 3))
        full = draw(st.booleans())
        found.append((0, n, 1) if full else (start, draw(st.integers(0, -(-(n - start) // step))), step))
    return Slice(tuple(found))


@st.composite
def chains(draw: st.DrawFn) -> tuple[tuple[int, ...], list[Any]]:
    """A shape and moves from it."""
    first = tuple(draw(st.lists(st.integers(0, 4), max_size=4)))
    array = np.empty(first)
    moves: list[Any] = []
    for kind in draw(
        st.lists(
            st.sampled_from(["slice", "slice", "permute", "open", "squeeze", "flat", "merge"]), max_size=5
        )
    ):
        shape = array.shape
        if kind == "permute":
            moves.append(Permute(tuple(draw(st.permutations(range(len(shape)))))))
        elif kind == "open":
            moves.append(Unsqueeze(draw(st.integers(0, len(shape)))))
        elif kind == "squeeze":
            moves.append(Squeeze(tuple(d for d, n in enumerate(shape) if n == 1)))
        elif kind == "flat":
            moves.append(Reshape((math.prod(shape),), shape))
        elif kind == "merge" and len(shape) > 1:
            d = draw(st.integers(0, len(shape) - 2))
            moves.append(Reshape((*shape[:d], shape[d] * shape[d + 1], *shape[d + 2 :]), shape))
        else:
            moves.append(slices(draw, shape))
        array = moved(array, moves[-1])
    return first, moves


@settings(max_examples=100)
@example(((0, 0, 0, 2), [Reshape((0, 0, 2), (0, 0, 0, 2)), Slice(((0, 0, 1), (0, 0, 1), (0, 1, 1)))]))
@given(chains())
def test_joined_moves_give_the_same_elements(chain: Any) -> None:
    shape, moves = chain
    array = np.arange(math.prod(shape)).reshape(shape)
    want, joined = array, ()
    for move in moves:
        joined = _joined(joined, move, want.shape)
        want = moved(want, move)
    got = array
    for move in joined:
        got = moved(got, move)
    np.testing.assert_array_equal(got, want)


VIEWS = [
    lambda y, i: y[i],
    lambda y, i: y[i][1:3],
    lambda y, i: y[i, 2, ...],
    lambda y, i: y[:, i % 4],
    lambda y, i: y.T[i % 4],
    lambda y, i: y.T[:, i],
    lambda y, i: y.view(-1)[4 * i : 4 * i + 4],
    lambda y, i: y.view(-1)[i, ...],
    lambda y, i: y.unsqueeze(1)[i],
    lambda y, i: y.view(40, 4, 1).squeeze(2)[i],
    lambda y, i: y[i // 2 : i // 2 + 3, ::2],
]


def in_numpy(y: np.ndarray, view: Any, i: int) -> np.ndarray:
    """The same view of an array."""

    class Array(np.ndarray):
        def view(self, *shape: Any) -> Any:
            return self.reshape(*shape)

        def unsqueeze(self, dim: int) -> Any:
            return np.expand_dims(self, dim)

    return view(np.ndarray.view(y, Array), i)


@pytest.mark.parametrize("view", VIEWS)
def test_writes_to_any_view_are_one_pass(view: Any, start: Start, plans: list[Plan]) -> None:
    start(2, shard_bytes=64)
    y, want = t.zeros(40, 4), np.zeros((40, 4))
    for i in range(40):
        view(y, i).fill_(float(i + 1))
        if i % 3 == 0:
            view(y, i).add_(2)
        part = in_numpy(want, view, i)
        part[...] = i + 1 + 2 * (i % 3 == 0)
    np.testing.assert_array_equal(y.numpy(), want)
    programs = [stage.program for plan in plans for stage in plan.stages]
    steps = [s for p in programs for f in p.fragments for loop in f.loops for s in loop.steps]
    passes = [s for s in steps if s.primitive.name == "slice_put" and s.layout.shards > 1]
    assert len(passes) == 1
