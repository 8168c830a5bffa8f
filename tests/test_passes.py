"""Passes of the planner, graph in and graph out. What comes out is verified, and has the same bits where it is run.

A node is written `result = primitive operand attribute=value`. Operands that nothing makes are those of `GIVEN`;
the last result is wanted. Attributes are not written of what comes out, and values that a rule adds are `_0`, `_1` ...
"""

from __future__ import annotations

import ast
from collections.abc import Callable

import numpy as np
import pytest

from distgrad.compiler import switch
from distgrad.plan.ir import FEED, Graph, NodeInfo, ValueInfo
from distgrad.plan.pipeline import PIPELINE, dead_code
from distgrad.plan.verify import verify
from distgrad.primitives import TABLE, Aval, Place
from distgrad.primitives.rules import layout
from distgrad.sharding import Cut, Sharding

RNG = np.random.default_rng(0)
GIVEN: dict[str, np.ndarray] = {
    "s": np.array(1.5, np.float32),
    "x": RNG.standard_normal((8, 6), np.float32),
    "y": RNG.standard_normal((8, 6), np.float32),
    "column": RNG.standard_normal((8, 1), np.float32),
    "vector": RNG.standard_normal(8, np.float32),
    "i": RNG.integers(0, 9, (8, 6)),
    "class": RNG.integers(0, 6, (8, 1)),
    "table": RNG.standard_normal((5, 6), np.float32),
    "source": RNG.integers(0, 5, 8),
    "target": RNG.integers(0, 3, 8),
}
PASSES = {one.name: one.run for one in PIPELINE}
TAKE = "t = take table source dim=0 size=5 wrap=False"
SPREAD = "e = expand s shape=(8,6) cuts=None"
PAD = "slices=((1,8,1),(0,6,1)) cuts=(9,6)"
SOFTMAX = "_0 = amax x; _1 = subtract x _0; _2 = exp _1; _3 = sum _2"


@pytest.fixture(autouse=True)
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rules are those of sessions that do not compile."""
    monkeypatch.setattr(switch, "_on", False)


def sharding(shape: tuple[int, ...]) -> Sharding:
    """Pieces of four rows."""
    return Sharding(tuple(Cut.even(n, 4) if d == 0 and n == 8 else Cut(n) for d, n in enumerate(shape)))


def graph_of(text: str) -> tuple[Graph, list[str]]:
    """The graph, and the names of its values."""
    values, nodes, names = [], [], []
    for name, array in GIVEN.items():
        names.append(name)
        values.append(
            ValueInfo(Aval(array.shape, array.dtype), sharding(array.shape), wanted=True, external=FEED)
        )
    for number, line in enumerate(text.split("; ")):
        out, _, name, *rest = line.split(" ")
        ins = tuple(names.index(word) for word in rest if "=" not in word)
        attrs = {k: ast.literal_eval(v) for k, v in (word.split("=") for word in rest if "=" in word)}
        if attrs.get("cuts"):
            attrs["cuts"] = sharding(attrs["cuts"])
        primitive, avals = TABLE[name], [values[v].aval for v in ins]
        results = primitive.shape(avals, attrs)
        made = layout(primitive, avals, results, [values[v].sharding for v in ins], attrs, 1 << 20)
        nodes.append(NodeInfo(primitive, attrs, made, ins, (len(values),), number))
        names.append(out)
        values.append(ValueInfo(results[0], made.outs[0]))
    values[-1] = values[-1]._replace(wanted=True)
    return Graph(values, nodes), names


def text_of(graph: Graph, names: list[str]) -> str:
    names = [*names, *(f"_{n}" for n in range(len(graph.values) - len(names)))]
    return "; ".join(
        " ".join([names[node.outs[0]], "=", node.name, *(names[v] for v in node.ins)]) for node in graph.nodes
    )


def bits(graph: Graph, wanted: int) -> bytes:
    """The result of the kernels, without cuts."""
    arrays = dict(enumerate(GIVEN.values()))
    for node in graph.nodes:
        ins = [arrays[v] for v in node.ins]
        (aval,) = node.primitive.shape([Aval(a.shape, a.dtype) for a in ins], node.attrs)
        cells = [tuple((0, n) for n in shape) for shape in (*(a.shape for a in ins), aval.shape)]
        placed = (
            {"at": Place(tuple(cells[:-1]), tuple(cells[-1:]))} if "placed" in node.primitive.traits else {}
        )
        arrays[node.outs[0]] = np.asarray(node.primitive.kernel(*ins, **node.attrs, **placed), aval.dtype)
    return arrays[wanted].tobytes()


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("signs", "m = multiply x s; r = negative m", "_0 = negative s; r = multiply x _0"),
        ("signs", "m = multiply s x; r = negative m", "_0 = negative s; r = multiply x _0"),
        ("signs", "n = negative x; r = multiply s n", "_0 = negative s; r = multiply x _0"),
        ("signs", "n = negative y; r = add x n", "r = subtract x y"),
        ("signs", "n = negative y; r = add n x", "r = subtract x y"),
        ("signs", "n = negative y; r = subtract x n", "r = add x y"),
        (
            "signs",
            "n = negative x; p = multiply n s; m = multiply y s; q = negative m; r = divide p q",
            "_0 = negative s; p = multiply x _0; q = multiply y _0; r = divide p q",
        ),
        ("constant folding", f"{SPREAD}; r = multiply x e", "r = multiply x s"),
        (
            "constant folding",
            f"{SPREAD}; r = square e",
            "_0 = square s; r = expand _0",
        ),
        (
            "constant folding",
            "e = expand_dims vector dims=(1,); q = squeeze_dims e dims=(1,); r = exp q",
            "r = exp vector",
        ),
        (
            "constant folding",
            f"p = pad x {PAD}; q = pad y {PAD}; r = add p q",
            "_0 = add x y; r = pad _0",
        ),
        ("common subexpressions", "a = exp x; b = exp x; r = add a b", "a = exp x; r = add a a"),
        (
            "common subexpressions",
            "a = exp x; b = exp x; c = square a; d = square b; r = add c d",
            "a = exp x; c = square a; r = add c c",
        ),
        ("dead code", "a = exp x; b = square a; r = negative x", "r = negative x"),
        (
            "softmax in steps",
            "p = softmax x dim=1; q = log_softmax x dim=1; r = add p q",
            f"{SOFTMAX}; p = divide _2 _3; _4 = log _3; q = subtract _1 _4; r = add p q",
        ),
        (
            "softmax in steps",
            "g = scatter_zeros y class column dim=1 size=6; p = log_softmax x dim=1; "
            "q = log_softmax_backward x g dim=1; r = add p q",
            f"{SOFTMAX}; _4 = log _3; p = subtract _1 _4; _5 = divide column _3; "
            "q = scatter_subtract _2 _5 class column; r = add p q",
        ),
        (
            "gathers before differences",
            "d = subtract x column; r = gather d class dim=1 size=6",
            "_0 = gather x class; r = subtract _0 column",
        ),
        (
            "sparse products",
            f"{TAKE}; r = index_add target t dim=0 size=3",
            "r = add_taken target source table",
        ),
        (
            "sparse products",
            f"{TAKE}; m = multiply column t; r = index_add target m dim=0 size=3",
            "r = add_taken target source table column",
        ),
    ],
)
def test_a_pass(name: str, before: str, after: str) -> None:
    graph, names = graph_of(before)
    wanted = len(names) - 1
    first = bits(graph, wanted)
    changed(graph, PASSES[name], wanted)
    assert text_of(graph, names) == after
    assert bits(graph, wanted) == first


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("r = softmax x dim=1", f"{SOFTMAX}; r = divide _2 _3"),
        ("r = log_softmax x dim=1", f"{SOFTMAX}; _4 = log _3; r = subtract _1 _4"),
        (
            "r = softmax_backward x y dim=1",
            "_0 = multiply y x; _1 = sum _0; _2 = multiply x _1; r = subtract _0 _2",
        ),
    ],
)
def test_a_softmax_is_taken_apart_to_be_compiled(
    before: str, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switch, "_on", True)
    test_a_pass("softmax in steps", before, after)


def changed(graph: Graph, run: Callable[[Graph], None], wanted: int) -> None:
    for one in (run, dead_code):
        one(graph)
        verify(graph, "this", {wanted})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("signs", "m = multiply x s; n = negative m; r = divide m n"),  # the product is read elsewhere
        ("signs", "n = negative i; r = add i n"),  # no floats
        ("signs", "m = multiply x y; r = negative m"),  # no scalar
        ("signs", "n = negative y; r = divide x n"),
        ("constant folding", f"{SPREAD}; r = exp e"),  # another result for one than for many
        (
            "constant folding",
            "e = expand_dims vector dims=(1,); r = squeeze_dims e dims=(1,)",
        ),  # wanted itself
        (
            "constant folding",
            f"p = pad x {PAD}; q = pad y slices=((0,8,1),(0,6,1)) cuts=(9,6); r = add p q",
        ),  # at another place
        ("common subexpressions", "a = exp x; b = exp y; r = add a b"),
        ("softmax in steps", "p = softmax x dim=1; q = softmax y dim=1; r = add p q"),  # not of the same
        ("softmax in steps", "p = softmax x dim=1; q = softmax x dim=0; r = add p q"),
        (
            "gathers before differences",
            "d = subtract x y; r = gather d class dim=1 size=6",
        ),  # not the same along rows
        ("gathers before differences", "d = subtract x column; g = gather d class dim=1 size=6; r = add d g"),
        ("sparse products", f"{TAKE}; m = multiply t x; r = index_add target m dim=0 size=3"),
    ],
)
def test_what_a_pass_leaves(name: str, text: str) -> None:
    graph, names = graph_of(text)
    before = text_of(graph, names)
    changed(graph, PASSES[name], len(names) - 1)
    assert text_of(graph, names) == before
