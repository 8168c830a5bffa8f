"""Tests of the tests: faults planted in formulas, shard rules and the order of additions must be found, each one."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import op_checks
import pytest
from op_calls import CUTS, calls, workers
from op_checks import CUT, check_alike, check_first, check_results, check_second, outcomes
from test_training import check_same_bits, run_on, sums, train

from distgrad.autograd import engine
from distgrad.exchange import Reduce, Tree, reduce
from distgrad.ops.table import OPS
from distgrad.primitives import TABLE, Labels
from distgrad.session import signature
from distgrad.tensor import Tensor
from distgrad.worker.inproc import InProcess
from distgrad.worker.worker import Worker


@pytest.fixture(autouse=True)
def small_work_in_the_driver() -> Any:
    with workers(inline_bytes=1 << 16):
        yield


# Formulas.
def plant(patch: pytest.MonkeyPatch, name: str, argument: str, formula: Callable[..., Any] | None) -> None:
    """Put another formula in place of the one for an argument; None: leave it out."""
    op = OPS[name]
    made = [op.formula(argument, formula) if formula and f.argument == argument else f for f in op.formulas]
    patch.setattr(op, "formulas", tuple(f for f in made if formula or f.argument != argument))
    patch.setattr(op, "plans", {})


def check_all(name: str, second: bool = True) -> None:
    """What test_ops.py does in the driver."""
    batch = calls(name)
    for call, outcome in zip(batch, outcomes(batch, second=second), strict=True):
        check_results(call, outcome.outs)
        check_first(call, outcome)
        if second:
            check_second(call, outcome)


def slightly_off(formula: Callable[..., Any]) -> Callable[..., Any]:
    """A formula that gives 1.001 times the gradient; or 0.001 where that is 0."""

    def off(g: Any) -> Any:
        return None if g is None else (g * 1.001 if g.abs().sum() > 0 else g + 0.001)

    def wrong(*args: Any) -> Any:
        result = formula(*args)
        return [off(g) for g in result] if isinstance(result, (list, tuple)) else off(result)

    wrong.__signature__ = inspect.signature(formula)  # type: ignore[attr-defined]
    return wrong


# floor_divide refuses to be differentiated; the results of the others are never real numbers.
UNREACHED = {"floor_divide"} | {f"logical_{name}" for name in ("and", "or", "xor", "not")}
UNREACHED |= {"eq", "ne", "lt", "le", "gt", "ge"}
REFUSED = {("gammainc", "input"), ("gammaincc", "input"), ("zeta", "input")}  # to be differentiated
REFUSED |= {("heaviside", "input"), ("heaviside", "values")}


@pytest.mark.sweep
@pytest.mark.parametrize(
    "name", sorted(name for name, op in OPS.items() if op.formulas and name not in UNREACHED)
)
def test_every_formula_is_under_test(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A factor of 1.001 in the formula of any argument of any op."""
    for argument, formula in [(f.argument, f.function) for f in OPS[name].formulas]:
        if (name, argument) in REFUSED:
            continue
        with monkeypatch.context() as patch:
            plant(patch, name, argument, slightly_off(formula))
            with pytest.raises(AssertionError, match="gradient of"):
                check_all(name, second=False)
    check_all(name, second=False)


DROPPED_TERMS: dict[str, tuple[str, Callable[..., Any]]] = {
    "softmax": ("input", lambda g, out: g * out),
    "log_softmax": ("input", lambda g: g),
    "_log_softmax_backward": ("grad", lambda g: g),
    "tanh": ("input", lambda g, out: g),
    "sigmoid": ("input", lambda g, out: g * out),
    "pow": ("input", lambda g, input, exponent: g * input ** (exponent - 1)),
    "mse_loss": ("input", lambda g, input, target: 2 * g * (input - target)),
    "silu": ("input", lambda g, input: g * input.sigmoid()),
}


@pytest.mark.parametrize("name", DROPPED_TERMS)
def test_a_dropped_term(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, name, *DROPPED_TERMS[name])
    with pytest.raises(AssertionError, match="gradient of"):
        check_all(name)


@pytest.mark.parametrize(
    ("name", "argument"), [("mul", "other"), ("exp", "input"), ("where", "input"), ("mm", "mat2")]
)
def test_a_dropped_formula(name: str, argument: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, "_where" if name == "where" else name, argument, None)
    with pytest.raises(AssertionError, match=r"gradient of|does not require grad"):
        check_all(name)


WRONG_AT_SECOND: dict[str, tuple[str, Callable[..., Any]]] = {
    "exp": ("input", lambda g, out: g * out.detach()),
    "mul": ("input", lambda g, other: g * (other.detach() if isinstance(other, Tensor) else other)),
    "mm": ("input", lambda g, mat2: g.detach() @ mat2.t()),
    "sum": (
        "input",
        lambda g, dim, keepdim, like: op_checks.Tensor(g.detach().sum()._value) * 0 + like.zeros() + 1,
    ),
}


@pytest.mark.parametrize("name", ["exp", "mul", "mm"])
def test_a_formula_right_at_first_order_only(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, name, *WRONG_AT_SECOND[name])
    check_all(name, second=False)
    with pytest.raises(AssertionError, match="second derivative"):
        check_all(name)


def test_a_wrong_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = TABLE["sqrt"].kernel
    monkeypatch.setitem(
        TABLE, "sqrt", dataclasses.replace(TABLE["sqrt"], kernel=lambda x: kernel(x) * (1 + 1e-9))
    )
    with pytest.raises(AssertionError, match="sqrt, sample 0"):
        check_all("sqrt")


# Shard rules.
def cut_everywhere(labels: Labels) -> Labels:
    """Every dimension of the first operand may be cut."""
    every = tuple(range(len(labels.ins[0])))
    return Labels(
        (every, *labels.ins[1:]),
        tuple(every if len(o) == len(every) else o for o in labels.outs),
        labels.merge,
    )


def merged_by(how: str | None) -> Callable[[Labels], Labels]:
    return lambda labels: labels._replace(merge=how)


def turned(labels: Labels) -> Labels:
    """The results' dimensions follow the operands' in the wrong order."""
    return labels._replace(outs=tuple(names[::-1] for names in labels.outs))


def kept_apart(labels: Labels) -> Labels:
    """Where the operands share a label, only the first of them may be cut along it."""
    first = set(labels.ins[0])
    rest = [tuple(None if x in first else x for x in names) for names in labels.ins[1:]]
    return labels._replace(ins=(labels.ins[0], *rest))


RULES: dict[str, tuple[str, str, Callable[[Labels], Labels]]] = {
    "a sum that is not merged": ("sum", "sum", merged_by(None)),
    "a sum merged as a maximum": ("sum", "sum", merged_by("maximum")),
    "a maximum merged as a sum": ("amax", "amax", merged_by("add")),
    "a product of matrices that is not merged": ("mm", "contract", merged_by(None)),
    "a contraction with other cuts for each operand": ("mm", "contract", kept_apart),
    "softmax along a cut": ("softmax", "softmax", cut_everywhere),
    "cumsum along a cut": ("cumsum", "cumsum", cut_everywhere),
    "sort along a cut": ("sort", "sort", cut_everywhere),
    "a product of elements with other cuts for each operand": ("mul", "multiply", kept_apart),
    "a transpose that keeps the cuts": ("t", "permute", turned),
    "a gather from one part": ("gather", "gather", cut_everywhere),
}


@pytest.mark.parametrize("fault", RULES)
def test_a_wrong_shard_rule(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, primitive, change = RULES[fault]
    if primitive == "softmax":  # compiled, it is taken apart into steps, and its own rule does nothing
        monkeypatch.setenv("DISTGRAD_COMPILE", "0")
    batch = calls(name)
    expected = outcomes(batch, second=False)

    def check() -> None:
        signature._known.clear()
        for cut in CUTS.values():
            with workers():
                found = outcomes(batch, cut, second=False)
            for call, got, want in zip(batch, found, expected, strict=True):
                check_alike(call, got, want, **CUT)

    check()
    right = TABLE[primitive]
    assert right.labels is not None
    rule = right.labels
    changed = dataclasses.replace(right, labels=lambda avals, attrs: change(rule(avals, attrs)))
    monkeypatch.setitem(TABLE, primitive, changed)
    with pytest.raises((AssertionError, RuntimeError, ValueError, LookupError)):
        check()


def test_a_gradient_that_is_cut_otherwise_than_its_leaf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_reshard", lambda g, cuts: g)
    with pytest.raises(AssertionError, match="its gradient is cut otherwise"), workers():
        outcomes(calls("mm"), CUTS["mixed"])


# Bits.
HERE = {n: InProcess(n, Worker) for n in (1, 2, 3)}


def check_bits(program: Callable[[], Any]) -> None:
    check_same_bits({n: run_on(transport, program) for n, transport in HERE.items()})


def one_after_the_other(self: Tree, level: int, i: int, array: Any, own: bool = False) -> None:
    """Each worker adds up what it has, and sends that: the natural way, whose order depends on who has what."""
    if self.stack:
        left = self.stack.pop()
        array, own = self._join(left[2], left[3], array), True
    self.stack.append((0, 0, array, own))


@pytest.mark.sweep
@pytest.mark.parametrize("program", [sums, train])
def test_an_altered_order_of_additions(program: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reduce, "_subtrees", Reduce.work_out)  # none are remembered from before
    monkeypatch.setattr(Tree, "push", one_after_the_other)
    with pytest.raises(AssertionError, match="elements differ between"):
        check_bits(program)


def test_a_flipped_bit() -> None:
    right = np.linspace(0, 1, 100, dtype=np.float32)
    wrong = right.copy()
    wrong.view(np.int32)[50] ^= 1
    check_same_bits({1: {"x": right}, 2: {"x": right.copy()}})
    with pytest.raises(AssertionError, match="x: 1 of 100 elements differ between 2 and 1"):
        check_same_bits({1: {"x": right}, 2: {"x": wrong}})
    with pytest.raises(AssertionError, match="signs of zero or nan"):
        check_same_bits({1: {"x": np.zeros(2)}, 2: {"x": -np.zeros(2)}})


def test_other_dtypes_are_told_apart() -> None:
    call = calls("exp")[0]
    outcome = outcomes([call])[0]
    with pytest.raises(AssertionError, match="float64"):
        op_checks.check_float32(op_checks.as_float32(call), outcome, outcome)
