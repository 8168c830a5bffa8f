"""Planted faults that the checks find: a pass that breaks the graph, a kernel that gives what was not declared."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import pytest

import distgrad
from distgrad import checks
from distgrad.checks import CheckError
from distgrad.plan import rewrite
from distgrad.plan.capture import Numbered, ValueInfo
from distgrad.primitives import TABLE
from distgrad.session import door
from distgrad.sharding import Sharding
from distgrad.states import NEXT, State, check_contents, check_step
from distgrad.worker.inproc import InProcess
from distgrad.worker.worker import Worker

Values = list[ValueInfo]


@pytest.fixture(autouse=True)
def shards() -> None:
    door.shutdown()
    door.attach(InProcess(2, Worker), inline_bytes=0, shard_bytes=64)


def program() -> list[float]:
    x = distgrad.arange(40.0)
    return (x.exp() * 2 + x.square()).sum().reshape(1).tolist()


def forgotten(values: Values, nodes: Sequence[Numbered], _: int) -> list[Numbered]:
    """The maker of something that is read."""
    return [(n, node) for n, node in nodes if node.primitive.name != "square"]


def unfinished(values: Values, nodes: Sequence[Numbered], _: int) -> list[Numbered]:
    """The maker of what was asked for."""
    return list(nodes[:-1])


def twice(values: Values, nodes: Sequence[Numbered], _: int) -> list[Numbered]:
    return [*nodes, nodes[-1]]


def too_late(values: Values, nodes: Sequence[Numbered], _: int) -> list[Numbered]:
    return [*nodes[1:], nodes[0]]


def recut(values: Values, nodes: Sequence[Numbered], _: int) -> list[Numbered]:
    """Said of the value, not of the node."""
    out = nodes[0][1].outs[0]
    values[out] = values[out]._replace(sharding=Sharding.whole(values[out].aval.shape))
    return list(nodes)


def uneven(values: Values, nodes: Sequence[Numbered], _: int) -> list[Numbered]:
    """A grid that has more cells than the layout says."""
    return [(n, node._replace(layout=node.layout._replace(shards=7))) for n, node in nodes]


def other(values: Values, nodes: Sequence[Numbered], _: int) -> list[Numbered]:
    """Another primitive, whose results have another dtype."""
    bools = TABLE["isnan"]
    return [
        (n, node._replace(primitive=bools) if node.primitive.name == "square" else node) for n, node in nodes
    ]


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (forgotten, "nobody has made"),
        (unfinished, "nobody makes"),
        (twice, "has a maker"),
        (too_late, "nobody has made"),
        (recut, "not the cuts of its values"),
        (uneven, "not cut as a shard rule can"),
        (other, "its primitive declares"),
    ],
)
def test_a_pass_that_breaks_the_graph_is_named(
    fault: rewrite.Pass, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = program()
    monkeypatch.setattr(rewrite, "PASSES", (*rewrite.PASSES[:3], fault, *rewrite.PASSES[3:]))
    door.shutdown()
    door.attach(InProcess(2, Worker), inline_bytes=0, shard_bytes=64)  # plans anew
    with pytest.raises(CheckError, match=rf"after {fault.__name__}: .*{text}"):
        program()
    monkeypatch.undo()
    assert program() == good


def wrong_dtype(x: np.ndarray) -> np.ndarray:
    return np.exp(x).astype(np.float64)


def wrong_shape(x: np.ndarray) -> np.ndarray:
    return np.exp(x)[None]


@pytest.mark.parametrize(
    ("kernel", "found"),
    [(wrong_dtype, r"float64\[40\], declared float32\[40\]"), (wrong_shape, r"float32\[1, 40\], declared")],
)
def test_a_kernel_that_gives_what_was_not_declared_is_found_in_the_driver(
    kernel: Callable[..., np.ndarray], found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    door.shutdown()
    planted = dataclasses.replace(TABLE["exp"], kernel=kernel, traits=frozenset())
    monkeypatch.setitem(TABLE, "exp", planted)
    with pytest.raises(CheckError, match=f"kernel of exp gives {found}"):
        distgrad.arange(40.0).exp().tolist()


@pytest.mark.parametrize("rows", [False, True])  # on whole shards, and tile by tile
def test_a_kernel_that_gives_another_dtype_is_found_on_a_worker(
    rows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    traits = frozenset() if rows else frozenset({"whole"})
    planted = dataclasses.replace(TABLE["exp"], kernel=wrong_dtype, traits=traits)
    monkeypatch.setitem(TABLE, "exp", planted)
    with pytest.raises(Exception, match=r"kernel of exp gives float64\[\d+\], declared float32"):
        distgrad.arange(40.0).exp().tolist()


def test_users_do_not_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the switch nothing is looked at."""
    monkeypatch.setattr(checks, "ENABLED", False)
    monkeypatch.setattr(rewrite, "verify", None)
    monkeypatch.setattr(checks, "check_results", None)
    assert program()[0] > 0


# States of results.
def test_a_step_that_no_result_takes_is_found() -> None:
    x = distgrad.arange(40.0)
    total = (x * 2).sum()
    result = total._value.result
    assert result.state is State.PENDING
    total.item()
    assert result.state in (State.KNOWN, State.STORED)
    with pytest.raises(CheckError, match=r"becomes lazy"):
        result._to(State.LAZY)
    with pytest.raises(CheckError, match="becomes boxed with"):
        check_contents(State.BOXED, result)


def test_every_state_is_left_for_one_that_is_known() -> None:
    assert set(NEXT) == set(State)
    assert all(step <= set(State) for step in NEXT.values())
    reached = {after for before, step in NEXT.items() for after in step if after is not before}
    assert reached == set(State)


def test_what_failed_stays_so() -> None:
    for state in State:
        if state is not State.FAILED:
            with pytest.raises(CheckError, match="failed becomes"):
                check_step(State.FAILED, state)
