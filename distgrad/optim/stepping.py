"""How an optimizer's step is done: for each parameter one primitive, which the workers run with what stands around it.

The step is recorded like any op and sent with the next forward and backward pass, or with what asks for a parameter
first; with the pass before, if that was light. So it is no call of its own. What changes from step to step travels as
one array of numbers for all parameters that have made as many steps.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from types import SimpleNamespace
from typing import Any, ClassVar, NamedTuple

import numpy as np

from distgrad import session
from distgrad.graph import Place, Value, place
from distgrad.ops.base import Tensor
from distgrad.ops.binary import clamp, maximum
from distgrad.ops.compare import where
from distgrad.ops.convert import clone
from distgrad.ops.inplace import write
from distgrad.ops.making import full_like, ones_like, zeros_like
from distgrad.ops.pointwise import abs, sign, sqrt
from distgrad.optim.optimizer import Group, Optimizer, differentiably, scalar_tensor
from distgrad.primitives.updates import RULES, options_of
from distgrad.record import enable_grad

TENSORS = SimpleNamespace(  # what rules are made of, on tensors
    sqrt=sqrt,
    maximum=maximum,
    abs=abs,
    sign=sign,
    where=where,
    clip=clamp,
    full_like=full_like,
    ones_like=ones_like,
    zeros_like=zeros_like,
)
FUSED_DEVICES = ["mps", "cuda", "xpu", "hpu", "cpu", "mtia", "privateuseone", "xla"]
CAPTURABLE_DEVICES = ["cuda", "xpu", "hpu", "privateuseone", "xla"]


class Step(NamedTuple):
    """What all parameters have in common that stand at the same point of time."""

    options: str
    numbers: list[Any]


class Stepper(Optimizer):
    """An optimizer that changes each parameter by a rule of `primitives/updates.py`.

    A subclass says which, what its state is at the beginning, and which numbers the rule works with.
    """

    rule: ClassVar[str]
    later: ClassVar[dict[str, Any]] = {  # options that the state dicts of older versions lack
        "foreach": None,
        "maximize": False,
        "differentiable": False,
        "capturable": False,
    }
    capturable_words: ClassVar[str] = "params and state_steps"

    def _slots(self, group: Group) -> tuple[str, ...]:
        """The names of the tensors of state that the rule works with, in its order."""
        raise NotImplementedError

    def _begin(self, p: Tensor, group: Group) -> dict[str, Any]:
        """The state before the first step."""
        return {"step": scalar_tensor(0, group.get("fused"))} | {
            name: zeros_like(p) for name in self._slots(group)
        }

    def _moment(self, state: dict[str, Any], group: Group) -> Hashable:
        """The point of time for which `_step` is asked; it begins a step of one parameter."""
        return self._count(state)

    def _step(self, group: Group, moment: Any, state: dict[str, Any]) -> Step:
        """The options and numbers of a step at this point of time."""
        raise NotImplementedError

    @differentiably
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Change every parameter that has a gradient, once.

        Args:
            closure: works the loss and the gradients out anew.

        Returns:
            What `closure` gave; None without one.
        """
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        session.current_op.name = name = f"{type(self).__name__}.step"
        here = place(name, 2)
        for group in self.param_groups:
            self._step_group(group, here)
        return loss

    def _step_group(self, group: Group, here: Place) -> None:
        differentiable = group["differentiable"]
        slots = self._slots(group)
        steps: dict[Hashable, tuple[str, Any]] = {}
        told = _told(group, differentiable)
        for p in group["params"]:
            g = p._grad if p._node is None else p.grad
            if g is None:
                continue
            state = self.state[p] if slots or self.scalars else {}
            if not state:
                self._check_kinds(group, p)
                state.update(self._begin(p, group))
            self._check_state(group, state)
            moment = self._moment(state, told)
            made = steps.get(moment)
            if made is None:
                step = self._step(told, moment, state)
                numbers: Any = step.numbers
                if not differentiable:
                    numbers = Value.known(np.array(numbers, np.float64))
                made = steps[moment] = step.options, numbers
            tensors = self._tensors(p, state, slots)
            if differentiable:
                _differentiable(self.rule, p, g, tensors, *made)
            else:
                _update(self.rule, p, g, tensors, made[0], made[1], here)

    def _tensors(self, p: Tensor, state: dict[str, Any], slots: tuple[str, ...]) -> list[Tensor]:
        """The tensors of state that the rule works with."""
        return [state[slot] for slot in slots]

    def _count(self, state: dict[str, Any]) -> float:
        """Count a step: the number of this one."""
        number = number_of(state["step"]) + 1
        put_number(state["step"], number)
        return number

    def _check_kinds(self, group: Group, p: Tensor) -> None:
        """torch's errors for options that do not go with a parameter."""
        if group.get("fused") and not p.is_floating_point():
            raise RuntimeError(
                "`fused=True` requires all the params to be floating point Tensors of "
                f"supported devices: {FUSED_DEVICES} but {p.dtype} and cpu"
            )

    def _check_state(self, group: Group, state: dict[str, Any]) -> None:
        """torch's errors for options that do not go with the state."""
        if group.get("capturable"):
            devices = CAPTURABLE_DEVICES[: 4 if group["foreach"] else 5]
            raise AssertionError(
                f"If capturable=True, {self.capturable_words} must be on supported devices: {devices}."
            )
        if group["foreach"] and group["differentiable"]:
            raise AssertionError("_foreach ops don't support autograd")

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            for name, default in self.later.items():
                group.setdefault(name, default)
            for p in group["params"]:
                mine = self.state.get(p, {})
                for name in self.scalars:
                    if mine and not isinstance(mine[name], Tensor):
                        mine[name] = scalar_tensor(mine[name], group.get("fused"))


def _told(group: Group, differentiable: bool) -> Group:
    """The options of a group: those that are tensors as numbers, or 0-d where steps are differentiated."""

    def number(x: Any) -> Any:
        if isinstance(x, Tensor):
            return x.squeeze() if differentiable else x.item()
        return x

    return {
        key: tuple(map(number, x)) if type(x) is tuple else number(x)
        for key, x in group.items()
        if key != "params"
    }


def number_of(tensor: Tensor) -> float:
    """A number of the state; the driver has it, unless it was loaded from elsewhere."""
    array = tensor._value.array
    return float(tensor.item() if array is None else array)


def put_number(tensor: Tensor, number: float) -> None:
    """Change a number of the state in place, in the driver."""
    tensor._storage.value = Value.known(np.array(number, tensor._avals.dtype))
    tensor._storage.generation += 1
    tensor._counter.number += 1


def _update(
    rule: str, p: Tensor, g: Tensor, state: list[Tensor], options: str, numbers: Value, here: Place
) -> None:
    """A step in place, by one primitive."""
    values = [t._value for t in state]
    made = session.emit_all("update", p._value, g._value, numbers, *values, rule=rule, options=options)
    for tensor, value in zip((p, *state), made, strict=True):
        write(tensor, value, here)


def _differentiable(
    rule: str, p: Tensor, g: Tensor, state: list[Tensor], options: str, numbers: list[Any]
) -> None:
    """A step whose ops are recorded. What it reads is cloned: it is changed afterwards."""
    made = RULES[rule].step(TENSORS, clone(p), g, numbers, options_of(options), *map(clone, state))
    for tensor, value in zip((p, *state), made, strict=True):
        tensor.copy_(value)


def decaying(group: Group, *more: str) -> str:
    """The options that most rules have, and those of `more` that are not empty."""
    words = ["maximize"] if group["maximize"] else []
    if not _zero(group.get("weight_decay", 0)):
        words.append("decoupled" if group.get("decoupled_weight_decay") else "decay")
    return " ".join([*words, *filter(None, more)])


def _zero(number: Any) -> bool:
    return not isinstance(number, Tensor) and number == 0


def expect(good: Any, message: str) -> None:
    """Raise ValueError where an argument is wrong."""
    if not good:
        raise ValueError(message)


def expect_lr(lr: Any) -> None:
    """torch's errors for a learning rate."""
    expect(not isinstance(lr, Tensor) or lr.numel() == 1, "Tensor lr must be 1-element")
    expect(lr >= 0.0, f"Invalid learning rate: {lr}")


def expect_fused(fused: Any, foreach: Any, differentiable: bool) -> None:
    """torch's errors for flags that exclude each other."""
    if fused and differentiable:
        raise RuntimeError("`fused` does not support `differentiable`")
    if fused and foreach:
        raise RuntimeError("`fused` and `foreach` cannot be `True` together.")
