"""How an optimizer's step is done: by few primitives, which the workers run with what stands around them.

The step is recorded like any op and sent with the next forward and backward pass, or with what asks for a parameter
first; with the pass before, if that was light. So it is no call of its own. What changes from step to step travels as
one array of numbers for all parameters that have made as many steps.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, ClassVar

from distgrad import session
from distgrad.callsites import CallSite, call_site
from distgrad.graph import Value
from distgrad.ops.base import Tensor
from distgrad.ops.binary import clamp, maximum
from distgrad.ops.compare import where
from distgrad.ops.convert import clone
from distgrad.ops.making import full_like, ones_like, zeros_like
from distgrad.ops.pointwise import abs, sign, sqrt
from distgrad.optim.buckets import Buckets, Entry, Hyperparameters, number_of, put_number, update_one
from distgrad.optim.optimizer import Group, Optimizer, differentiably, scalar_tensor
from distgrad.primitives.optimizer_rules import RULES, options_of
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


class Stepper(Optimizer):
    """An optimizer that changes each parameter by a rule of `primitives/optimizer_rules.py`.

    A subclass says which, what its state is at the beginning, and which numbers the rule works with.
    """

    rule: ClassVar[str]
    unmade: ClassVar[str | None] = None  # a name under which None in the state is as good as no state
    later: ClassVar[dict[str, Any]] = {  # options that the state dicts of older versions lack
        "foreach": None,
        "maximize": False,
        "differentiable": False,
        "capturable": False,
    }
    capturable_words: ClassVar[str] = "params and state_steps"

    def __init__(self, params: Any, defaults: dict[str, Any]):
        super().__init__(params, defaults)
        self._buckets: dict[int, Buckets] = {}  # by the number of the group

    def _slots(self, group: Group) -> tuple[str, ...]:
        """The names of the tensors of state that the rule works with, in its order."""
        raise NotImplementedError

    def _begin(self, p: Tensor, group: Group) -> dict[str, Any]:
        """The state before the first step."""
        return {"step": scalar_tensor(0, group.get("fused"))} | {
            name: zeros_like(p) for name in self._slots(group)
        }

    def _moment(self, entry: Entry, group: Group) -> Any:
        """The point of time for which `_step` is asked; it begins a step of one parameter."""
        return self._count(entry.state)

    def _step(self, group: Group, moment: Any, state: dict[str, Any]) -> Hyperparameters:
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
        name = f"{type(self).__name__}.step"
        here = call_site(name, 2)
        with session.called(name):
            for number, group in enumerate(self.param_groups):
                self._step_group(number, group, here)
        return loss

    def _step_group(self, number: int, group: Group, here: CallSite) -> None:
        slots, told = self._slots(group), _told(group, group["differentiable"])
        entries = self._entries(group, slots)
        if group["differentiable"]:
            for entry in entries:
                step = self._step(told, self._moment(entry, told), entry.state)
                _differentiable(self.rule, entry, [entry.state[slot] for slot in slots], step)
            return
        buckets = self._buckets.setdefault(number, Buckets())
        buckets.fit(entries, slots, self.scalars, session.inline_bytes())
        for bucket, members in zip(buckets.buckets, buckets.members, strict=True):
            states = [entries[i].state for i in members]
            step = self._step(told, self._moment(entries[members[0]], told), states[0])
            bucket.share(states)
            bucket.update(self.rule, step, [entries[i].g for i in members], here)
        known: dict[bytes, Value] = {}
        for i in buckets.single:
            entry = entries[i]
            step = self._step(told, self._moment(entry, told), entry.state)
            state, numbers = [entry.state[slot] for slot in slots], step.shared(known)
            update_one(self.rule, entry, state, step.options, numbers, here)

    def _entries(self, group: Group, slots: tuple[str, ...]) -> list[Entry]:
        """The parameters that have gradients, with their state, which is begun where there is none."""
        stateful, unmade = bool(slots or self.scalars), self.unmade
        each = group["differentiable"]  # else what is checked is the same for all
        entries: list[Entry] = []
        begun: set[int] = set()  # in this step: a parameter may stand in the group twice
        for p in group["params"]:
            g = p._grad if p._node is None else p.grad
            if g is not None:
                state = self.state[p] if stateful else {}
                if first := not state or (unmade is not None and state.get(unmade, state) is None):
                    self._check_kinds(group, p)
                    state.update(self._begin(p, group))
                    begun.add(id(p))
                elif begun:
                    first = id(p) in begun
                if each or not entries:
                    self._check_state(group, state)
                entries.append(Entry(p, g, state, first))
        return entries

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
        self._buckets = {}
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


def _differentiable(rule: str, entry: Entry, state: list[Tensor], step: Hyperparameters) -> None:
    """A step whose ops are recorded. What it reads is cloned: it is changed afterwards."""
    p, g = entry.p, entry.g
    made = RULES[rule].step(TENSORS, clone(p), g, step.numbers, options_of(step.options), *map(clone, state))
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
