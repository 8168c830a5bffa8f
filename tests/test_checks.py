"""Planted faults that the checks find: a pass that breaks the graph, a kernel that gives what was not declared."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import pytest

import distgrad
from distgrad import checks
from distgrad.checks import CheckError
from distgrad.plan import pipeline
from distgrad.plan.ir import Change, Graph, NodeInfo
from distgrad.plan.patterns import ANY, made, rule, rules
from distgrad.plan.pipeline import Pass
from distgrad.primitives import TABLE
from distgrad.session import door
from distgrad.sharding import Sharding
from distgrad.states import NEXT, State, check_contents, check_step
from distgrad.worker.inproc import InProcess
from distgrad.worker.worker import Worker


@pytest.fixture(autouse=True)
def shards() -> Iterator[None]:
    door.shutdown()
    door.attach(InProcess(2, Worker), inline_bytes=0, shard_bytes=64)
    yield
    door.shutdown()


def program() -> list[float]:
    x = distgrad.arange(40.0)
    return (x.exp() * 2 + x.square()).sum().reshape(1).tolist()


def forgotten(graph: Graph) -> None:
    """The maker of something that is read."""
    graph.replace([node for node in graph.nodes if node.name != "square"])


def unfinished(graph: Graph) -> None:
    """The maker of what was asked for."""
    graph.replace(graph.nodes[:-1])


def twice(graph: Graph) -> None:
    graph.replace([*graph.nodes, graph.nodes[-1]])


def too_late(graph: Graph) -> None:
    graph.replace([*graph.nodes[1:], graph.nodes[0]])


def recut(graph: Graph) -> None:
    """Said of the value, not of the node."""
    (out,) = graph.nodes[0].outs
    graph.values[out] = graph.values[out]._replace(sharding=Sharding.whole(graph.values[out].aval.shape))


def uneven(graph: Graph) -> None:
    """A grid that has more cells than the layout says."""
    graph.replace([node._replace(layout=node.layout._replace(shards=7)) for node in graph.nodes])


@rule(made("square"))
def other(graph: Graph, node: NodeInfo) -> Change:
    """Another primitive, whose results have another dtype."""
    return node._replace(primitive=TABLE["isnan"])


@rule(made("multiply", made("exp", ANY), ANY))
def dropped(graph: Graph, node: NodeInfo, inner: NodeInfo, value: int, factor: int) -> Change:
    """A reader is forgotten: it reads what nothing makes any more."""
    graph.values.append(graph.values[node.outs[0]])
    return node._replace(outs=(len(graph.values) - 1,))


@rule(made("multiply", made("exp", ANY), ANY))
def confused(graph: Graph, node: NodeInfo, inner: NodeInfo, value: int, factor: int) -> Change:
    """A value of another shape is said to be the same."""
    return (factor,)


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (forgotten, "nobody has made"),
        (unfinished, "nobody makes"),
        (twice, "has a maker"),
        (too_late, "nobody has made"),
        (recut, "not the cuts of its values"),
        (uneven, "not cut as a shard rule can"),
        (rules(other), "its primitive declares"),
        (rules(dropped), "nobody has made"),
        (rules(confused), "needs cuts of|its primitive declares"),
    ],
)
def test_a_pass_that_breaks_the_graph_is_named(
    fault: Callable[[Graph], None], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = program()
    passes = pipeline.PIPELINE
    monkeypatch.setattr(pipeline, "PIPELINE", (*passes[:3], Pass("a fault", fault), *passes[3:]))
    door.shutdown()
    door.attach(InProcess(2, Worker), inline_bytes=0, shard_bytes=64)  # plans anew
    with pytest.raises(CheckError, match=rf"after a fault: .*({text})"):
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
    planted = dataclasses.replace(TABLE["exp"], kernel=wrong_dtype, traits=traits, lower=None)
    monkeypatch.setitem(TABLE, "exp", planted)
    with pytest.raises(Exception, match=r"kernel of exp gives float64\[\d+\], declared float32"):
        distgrad.arange(40.0).exp().tolist()


def test_users_do_not_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the switch nothing is looked at."""
    monkeypatch.setattr(checks, "ENABLED", False)
    monkeypatch.setattr(pipeline, "verify", None)
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
