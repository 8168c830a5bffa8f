"""Parameters that one primitive changes together, of one dtype, that have made as many steps: all that lie whole, or
those of one shape that are cut alike.

What the driver pays for a value (to number it, to tell workers of it, to have it freed) is as much as it pays for an
op. So the state of a bucket is one value of each kind, end to end, or stacked and cut as the parameters are, in which
each parameter's `state[p]["exp_avg"]` is a view; of a parameter itself there are two values in a step, what it becomes
and its gradient. Measured on 62 parameters, this cost the driver a fifth of what a node for each of them did. Where
parameters are small, workers too save most of the calls.
"""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from distgrad import session
from distgrad.callsites import CallSite
from distgrad.dtype import NAMES
from distgrad.graph import LazyConstant, Result, Value
from distgrad.ops.base import Tensor
from distgrad.ops.convert import _reshard
from distgrad.ops.inplace import write
from distgrad.ops.joining import cat, stack
from distgrad.ops.making import full
from distgrad.record import no_grad
from distgrad.sharding import Cut, Sharding
from distgrad.storage import Storage, Version, View

State = dict[str, Any]


class Entry(NamedTuple):
    """A parameter that has a gradient, its state, and whether that was begun for this step."""

    p: Tensor
    g: Tensor
    state: State
    first: bool


class Hyperparameters(NamedTuple):
    """What a rule works with at one point of time: its options and its numbers."""

    options: str
    numbers: list[Any]

    @property
    def value(self) -> Value:
        """The numbers as an operand."""
        return Value.known(np.array(self.numbers, np.float64))

    def shared(self, known: dict[bytes, Value]) -> Value:
        """The same; parameters with the same numbers have one in common, which travels once."""
        value = self.value
        assert value.array is not None
        return known.setdefault(value.array.tobytes(), value)


def update_one(
    rule: str, entry: Entry, state: list[Tensor], options: str, numbers: Value, here: CallSite
) -> None:
    """A step of one parameter, which may be cut."""
    values = [entry.p._value, entry.g._value, numbers, *[t._value for t in state]]
    made = session.dispatch("update", values, {"rule": rule, "options": options})
    for tensor, value in zip((entry.p, *state), made, strict=True):
        write(tensor, value, here)


class Bucket:
    """Parameters with their state in common storages. `tensors` are what stands in the state for each slot."""

    def __init__(self, entries: Sequence[Entry], slots: Sequence[str], scalars: Sequence[str]):
        self.params = [e.p for e in entries]
        self.specs = [e.p._avals.result.spec for e in entries]
        self.homes = [weakref.ref(e.p._storage) for e in entries]
        self.tensors = [[e.state[slot] for e in entries] for slot in slots]
        cut = self.specs[0].sharding.count > 1
        self.primitive = "update_alike" if cut else "update_all"
        self.storages = [(_stacked if cut else _joined)(tensors) for tensors in self.tensors]
        self.slots, self.scalars = slots, scalars
        self.told: list[Value | None] = [None] * len(scalars)  # of the last step; the same for all

    def holds(self, states: Sequence[State]) -> bool:
        """Whether all is as this bucket has left it: else what was put in is to be looked at anew."""
        for p, spec, home in zip(self.params, self.specs, self.homes, strict=True):
            if p._storage is not home() or p._avals.result.spec is not spec:
                return False
        for slot, tensors, storage in zip(self.slots, self.tensors, self.storages, strict=True):
            for state, tensor in zip(states, tensors, strict=True):
                if state[slot] is not tensor or tensor._storage is not storage:
                    return False
        for name, value in zip(self.scalars, self.told, strict=True):
            if value is not None:
                for state in states:
                    if state[name]._storage.value is not value:
                        return False
        return True

    def share(self, states: Sequence[State]) -> None:
        """Give all the numbers that the first has for this step."""
        first, *others = states
        for n, name in enumerate(self.scalars):
            self.told[n] = value = first[name]._value
            for state in others:
                tensor = state[name]
                tensor._storage.value = value
                tensor._storage.generation += 1
                tensor._counter.number += 1

    def update(self, rule: str, step: Hyperparameters, gradients: Sequence[Tensor], here: CallSite) -> None:
        """The step itself."""
        storages = self.storages
        tensors = [*self.params, *gradients]
        inputs = [step.value, *[s.value for s in storages]]
        inputs += [t._storage.value if t._view is None else t._value for t in tensors]
        made = session.dispatch(self.primitive, inputs, {"rule": rule, "options": step.options})
        for storage, tensors, value in zip(storages, self.tensors, made, strict=False):
            _forget(tensors, storage)
            storage.replace(value)
            version = tensors[0]._counter
            version.number += 1
            version.changed = here
        for p, value in zip(self.params, made[len(storages) :], strict=True):
            write(p, value, here)


class _Part(View):
    """A parameter's part of what is joined. It is cut as the parameter is, also where a small slice would not be."""

    __slots__ = ()

    def refresh(self, storage: Storage) -> Value:
        """The contents now."""
        cuts = self.value.sharding
        if super().refresh(storage).sharding != cuts:
            self.value = session.emit("reshard", self.value, cuts=cuts)
        return self.value


def _joined(tensors: Sequence[Tensor]) -> Storage:
    """One storage in which the contents of these tensors lie end to end; the tensors become views of it."""
    with no_grad():
        whole = Sharding.whole((sum(t.numel() for t in tensors),))
        flat = _together(tensors, whole, lambda: cat([t.detach().reshape(-1) for t in tensors]))
        ends = itertools.accumulate(t.numel() for t in tensors)
        parts = [
            flat.narrow(0, end - t.numel(), t.numel()).view(t.shape)
            for t, end in zip(tensors, ends, strict=True)
        ]
    return _shared(tensors, flat, parts)


def _stacked(tensors: Sequence[Tensor]) -> Storage:
    """The same for tensors that are cut alike: they lie one after the other along a new dimension, cut as they are."""
    with no_grad():
        cuts = Sharding((Cut(len(tensors)), *tensors[0].sharding.cuts))
        stacked = _together(tensors, cuts, lambda: stack([t.detach() for t in tensors]))
        return _shared(tensors, stacked, stacked.unbind())


def _together(tensors: Sequence[Tensor], cuts: Sharding, join: Callable[[], Tensor]) -> Tensor:
    """The elements of all in one tensor, cut so."""
    numbers = {_filled_with(t) for t in tensors}
    if len(numbers) == 1 and None not in numbers:
        return full(cuts.shape, numbers.pop(), dtype=tensors[0].dtype, sharding=cuts)
    return _reshard(join(), cuts)


def _shared(tensors: Sequence[Tensor], joined: Tensor, parts: Sequence[Tensor]) -> Storage:
    """Tensors become views of what holds the contents of all, as these parts of it are."""
    version = Version()
    version.number = max(t._version for t in tensors)
    for tensor, part in zip(tensors, parts, strict=True):
        assert part._view is not None
        view = _Part(part._view.chain, _hollow(tensor._avals), -1, None, 0)
        tensor._storage, tensor._view, tensor._versions = joined._storage, view, version
    return joined._storage


def _filled_with(tensor: Tensor) -> Any:
    """The number of which a large new tensor, still lazy, is filled; else None."""
    lazy = tensor._value.result.lazy
    if isinstance(lazy, LazyConstant) and lazy.primitive.name == "expand":
        array = lazy.inputs[0].array
        return None if array is None or array.shape else array.item()
    return None


def alone(tensor: Tensor) -> None:
    """Take a tensor of state out of a bucket's storage."""
    if tensor._view is not None and tensor._view.base is None:
        tensor._storage, tensor._view, tensor._versions = Storage(tensor._value), None, None


def _hollow(value: Value) -> Value:
    """A value of this form without contents, for a view that is to look for them once it is asked."""
    return Value(Result(value.result.spec))


def _forget(tensors: Sequence[Tensor], storage: Storage) -> None:
    """What was read of the state is out of date now: its memory need not wait until somebody reads it again."""
    generation = storage.generation
    for tensor in tensors:
        view = tensor._view
        if view is not None and view.generation == generation:
            view.value, view.generation = _hollow(view.value), -1


class Buckets:
    """The buckets of one group: parameters that have always had gradients at the same steps.

    When only some of a bucket come, they become one of their own, and so do the others: what comes together stays
    together, and there is an end to that.
    """

    def __init__(self) -> None:
        self.present: list[int] = []  # the parameters of the last step
        self.buckets: list[Bucket] = []  # of that step
        self.single: list[int] = []  # which of its entries are in none
        self.members: list[list[int]] = []
        self._labels: dict[int, int] = {}  # of each parameter: the number of its bucket
        self._known: dict[int, Bucket] = {}
        self._count = itertools.count()

    def fit(self, entries: Sequence[Entry], slots: Sequence[str], scalars: Sequence[str], limit: int) -> None:
        """Put these entries into buckets; those of the last step, if nothing has changed."""
        present = [id(e.p) for e in entries]
        if present == self.present and all(
            bucket.holds([entries[i].state for i in members])
            for bucket, members in zip(self.buckets, self.members, strict=True)
        ):
            return
        self.present = []
        groups: dict[Any, list[int]] = {}
        self.single = []
        overlapping = _overlapping([e.p for e in entries])
        for i, entry in enumerate(entries):
            key = None if i in overlapping else self._key(entry, slots, scalars)
            if key is None:
                self.single.append(i)
            else:
                groups.setdefault(key, []).append(i)
        self.buckets, self.members = [], []
        for key, found in groups.items():
            for members in _cut(found, entries, limit if key.near else None):
                if len(members) == 1:
                    self.single += members
                    continue
                self.buckets.append(self._bucket([entries[i] for i in members], slots, scalars))
                self.members.append(members)
        for i in self.single:
            for slot in slots:
                alone(entries[i].state[slot])
        self.present = present

    def _bucket(self, chosen: Sequence[Entry], slots: Sequence[str], scalars: Sequence[str]) -> Bucket:
        """The bucket of these, which may be there from an earlier step."""
        params = [e.p for e in chosen]
        known = self._known.get(self._labels.get(id(params[0]), -1))
        if (
            known is not None
            and list(map(id, known.params)) == list(map(id, params))
            and known.holds([e.state for e in chosen])
        ):
            return known
        label = next(self._count)
        self._labels.update({id(p): label for p in params})
        self._known = {n: bucket for n, bucket in self._known.items() if n in self._labels.values()}
        self._known[label] = bucket = Bucket(chosen, slots, scalars)
        return bucket

    def _key(self, entry: Entry, slots: Sequence[str], scalars: Sequence[str]) -> Any:
        """Entries with the same key go together; None: it goes alone."""
        p, g, state, _ = entry
        value, gradient = p._value, g._value
        tensors = [state[slot] for slot in slots]
        cut = value.sharding.count > 1
        if gradient.sharding != value.sharding or gradient.dtype != value.dtype:
            return None
        if any(t.shape != value.shape or t.dtype != p.dtype for t in tensors):
            return None
        if cut and any(t.sharding != value.sharding for t in tensors):
            return None
        near = not value.result.lost and not gradient.result.lost
        moment = (float(entry.first), *[number_of(state[name]) for name in scalars])
        return _Key(
            self._labels.get(id(p)), NAMES[value.dtype], value.sharding if cut else None, near, moment
        )


def _overlapping(params: Sequence[Tensor]) -> set[int]:
    """Which have elements in common with others: each of those starts from what the one before it has left."""
    sharing: dict[int, list[int]] = {}
    for i, p in enumerate(params):
        sharing.setdefault(id(p._storage), []).append(i)
    found: set[int] = set()
    for several in sharing.values():
        if len(several) > 1:
            spans = sorted((params[i]._layout.span or (0, math.inf), i) for i in several if params[i].numel())
            reach, farthest = -1.0, -1
            for (low, high), i in spans:
                if low < reach:
                    found |= {i, farthest}
                if high > reach:
                    reach, farthest = high, i
    return found


class _Key(NamedTuple):
    label: int | None
    dtype: str
    cuts: Sharding | None  # where there are any; shape included
    near: bool  # in the driver
    moment: tuple[float, ...]


def _cut(found: list[int], entries: Sequence[Entry], limit: int | None) -> list[list[int]]:
    """Runs of entries whose results take at most `limit` bytes: the driver computes what it would one by one."""
    if limit is None:
        return [found]
    runs: list[list[int]] = []
    room = 0
    for i in found:
        p, _, state, _ = entries[i]
        nbytes = p.nbytes * (1 + len(state))
        if not runs or nbytes > room:
            runs.append([])
            room = limit
        runs[-1].append(i)
        room -= nbytes
    return runs


def number_of(tensor: Tensor) -> float:
    """A number of the state; the driver has it, unless it was loaded from elsewhere."""
    array = tensor._value.array
    return float(tensor.item() if array is None else array)


def put_number(tensor: Tensor, number: float) -> None:
    """Change a number of the state in place, in the driver."""
    tensor._storage.value = Value.known(np.array(number, tensor._avals.dtype))
    tensor._storage.generation += 1
    tensor._counter.number += 1
