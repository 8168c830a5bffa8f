"""Joining, splitting, moving and repeating: what torch prints, and that cuts do not change results."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import golden_cases
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import distgrad
from distgrad import session
from distgrad.ops.regrouping import compact, part, reshaped, to_back, to_front
from distgrad.session import door
from distgrad.sharding import Cut, Sharding
from distgrad.worker.inproc import InProcess
from distgrad.worker.worker import Worker


@pytest.mark.parametrize("case", golden_cases.cases("shape"), ids=lambda case: f"line{case.line}")
def test_as_torch_prints(torch: ModuleType, case: golden_cases.Case) -> None:
    assert golden_cases.run(case.program, torch) == case.printed


@pytest.fixture(scope="module", autouse=True)
def _no_session() -> Iterator[None]:
    yield
    door.shutdown()


def start() -> None:
    door.shutdown()
    door.attach(InProcess(2, Worker), inline_bytes=0, shard_bytes=64)


def counted(*shape: int) -> np.ndarray:
    return np.arange(math.prod(shape), dtype=np.float64).reshape(shape)


# Regrouping of values.
@st.composite
def reshapes(draw: Any) -> tuple[tuple[int, ...], tuple[int, ...], Sharding]:
    """A shape, another with as many elements, and cuts for the first, some of which make empty shards."""
    factors = draw(st.lists(st.sampled_from([1, 2, 3, 5, 7]), max_size=5))

    def grouped() -> tuple[int, ...]:
        ends = sorted(draw(st.lists(st.integers(0, len(factors)), max_size=3)))
        return tuple(math.prod(factors[a:b]) for a, b in zip([0, *ends], [*ends, len(factors)], strict=True))

    shape, other = grouped(), grouped()
    cuts = []
    for n in shape:
        points = draw(st.lists(st.integers(0, n), max_size=3))
        cuts.append(Cut.at(n, [0, *sorted(points), n]))
    return shape, other, Sharding(tuple(cuts))


@given(reshapes())
def test_reshape_of_any_cut(case: tuple[tuple[int, ...], tuple[int, ...], Sharding]) -> None:
    shape, other, cuts = case
    if not session.is_initialized():
        start()
    x = session.emit("reshard", session.current().upload(counted(*shape)), cuts=cuts)
    made = reshaped(x, other)
    assert made.shape == other
    np.testing.assert_array_equal(session.fetch(made), counted(*other))


def test_reshape_leaves_whole_rows_where_they_are() -> None:
    start()
    x = session.emit(
        "reshard", session.current().upload(counted(6, 4)), cuts=Sharding((Cut.even(6, 2), Cut(4)))
    )
    assert reshaped(x, (24,)).sharding.cuts[0] == Cut.even(24, 8)
    assert reshaped(x, (3, 2, 4)).sharding.cuts[0] == Cut.even(3, 1)
    assert reshaped(x, (1, 6, 1, 4)).sharding.cuts[1] == Cut.even(6, 2)


def test_small_parts_do_not_keep_the_shards_of_a_large_tensor() -> None:
    start()
    x = session.current().upload(counted(400, 4))
    assert x.sharding.count == 200
    few = session.emit("slice", x, slices=((10, 2, 1), (0, 4, 1)))
    assert few.sharding.count == 200
    assert compact(few).sharding.count == 1
    some = session.emit("slice", x, slices=((0, 10, 1), (0, 4, 1)))
    assert compact(some).sharding.count == 5
    most = session.emit("slice", x, slices=((0, 390, 1), (0, 4, 1)))
    assert compact(most) is most
    np.testing.assert_array_equal(session.fetch(compact(some)), counted(400, 4)[:10])


def test_dimensions_to_the_front_and_back() -> None:
    start()
    x = session.current().upload(counted(2, 3, 4, 5))
    front = to_front(x, (1, 3))
    assert front.shape == (3, 5, 2, 4)
    np.testing.assert_array_equal(session.fetch(to_back(front, (1, 3))), counted(2, 3, 4, 5))
    np.testing.assert_array_equal(session.fetch(part(x, (2, 3, 1, 2))), counted(2, 3, 4, 5)[:, :, :1, :2])


# Ops on cut tensors.
CUTS = [{0: 2}, {1: 3}, {0: 1, 1: 2}, {0: [0, 0, 3, 3]}]
CALLS: dict[str, Callable[[Any], Any]] = {
    "cat": lambda x: (x.cat([x.a, x.b, x.a]), np.concatenate([x.u, x.v, x.u])),
    "cat 1": lambda x: (x.cat([x.a, x.a], 1), np.concatenate([x.u, x.u], 1)),
    "stack": lambda x: (x.stack([x.a, x.a], 1), np.stack([x.u, x.u], 1)),
    "split": lambda x: (x.cat(x.a.split([1, 0, 3])[::-1]), np.concatenate([x.u[1:], x.u[1:1], x.u[:1]])),
    "flip": lambda x: (x.a.flip(0, 1), x.u[::-1, ::-1]),
    "roll": lambda x: (x.a.roll((1, -2), (0, 1)), np.roll(x.u, (1, -2), (0, 1))),
    "repeat": lambda x: (x.a.repeat(2, 1, 3), np.tile(x.u, (2, 1, 3))),
    "tril": lambda x: (x.a.tril(1), np.tril(x.u, 1)),
    "diagonal": lambda x: (x.a.diagonal(1), np.diagonal(x.u, 1)),
    "diag_embed": lambda x: (x.diag_embed(x.a).sum(1), x.u),
    "flatten": lambda x: (x.a.flatten() * x.a.t().flatten(), x.u.reshape(-1) * x.u.T.reshape(-1)),
    "movedim": lambda x: (x.a.reshape(2, 2, 6).movedim(0, 2), np.moveaxis(x.u.reshape(2, 2, 6), 0, 2)),
}


@pytest.mark.parametrize("cuts", CUTS, ids=str)
@pytest.mark.parametrize("call", CALLS)
def test_cut_operands(call: str, cuts: dict[int, Any]) -> None:
    start()

    class Operands:
        u, v = counted(4, 6), counted(2, 6) + 100
        a, b = distgrad.tensor(u, sharding=cuts, requires_grad=True), distgrad.tensor(v, requires_grad=True)
        cat, stack, diag_embed = map(staticmethod, (distgrad.cat, distgrad.stack, distgrad.diag_embed))

    got, want = CALLS[call](Operands)
    np.testing.assert_array_equal(got.detach().numpy(), want)
    got.sum().backward()
    assert Operands.a.grad.sharding == Operands.a.sharding


def test_views_write_through(torch: ModuleType) -> None:
    x = torch.zeros(4, 4)
    x.diagonal()[1:].fill_(2.0)
    x.flatten()[:2].add_(1.0)
    x.movedim(0, 1)[3].sub_(1.0)
    assert x.tolist() == [[1, 1, 0, -1], [0, 2, 0, -1], [0, 0, 2, -1], [0, 0, 0, 1]]


def test_parts_of_a_split_may_not_be_changed_in_place(torch: ModuleType) -> None:
    x = torch.ones(4, requires_grad=True) * 1
    with pytest.raises(RuntimeError, match="is a view and is being modified inplace"):
        x.split(2)[0].mul_(2)
    torch.ones(4).split(2)[0].mul_(2)


def test_transposes_of_what_is_no_matrix(torch: ModuleType) -> None:
    number, vector, batch = torch.tensor(2.0), torch.ones(3), torch.ones(2, 3, 4)
    assert (number.mT.item(), number.H.item(), batch.mT.shape) == (2.0, 2.0, (2, 4, 3))
    with pytest.raises(RuntimeError, match="mT is only supported on matrices or batches of matrices"):
        _ = vector.mT
    with pytest.raises(
        RuntimeError, match=r"H is only supported on matrices \(2-D tensors\). Got 3-D tensor."
    ):
        _ = batch.H


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("start out of range (expected to be in range of [-4, 4], but got 5)", lambda y: y.narrow(1, 5, 1)),
        ("narrow() cannot be applied to a 0-dim tensor.", lambda y: y[0, 0].narrow(0, 0, 1)),
        ("expand(torch.DoubleTensor{[3, 4]}, size=[4])", lambda y: y.double().expand(4)),
        ("expand(torch.LongTensor{[3, 4]}, size=[4])", lambda y: y.long().broadcast_to(4)),
        (
            "self and source expected to have the same dtype, but got (self) Float and (source) Double",
            lambda y: y.index_copy(0, y[:1, 0].long(), y[:1].double()),
        ),
    ],
)
def test_errors_as_torch_words_them(torch: ModuleType, text: str, wrong: Any) -> None:
    with pytest.raises((RuntimeError, IndexError), match=re.escape(text)):
        wrong(torch.zeros(3, 4))
