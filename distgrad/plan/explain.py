"""What a plan will compute, hold and move, in bytes and operations, told before it runs (promise P6)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from distgrad.plan.capture import Capture
from distgrad.plan.ir import Instance
from distgrad.plan.memory import footprints, peak
from distgrad.plan.plans import Plan, Stage
from distgrad.plan.rematerialise import Offer
from distgrad.program import Fragment, Program, Send, Step


@dataclass(frozen=True)
class StageCost:
    """One stage: what its steps do, and what leaves at its end."""

    lines: tuple[str, ...]
    flops: float
    computed: int  # bytes of all results, stored or not
    held: int  # bytes stored, on all workers together
    moved: int  # bytes that go from one worker to another


@dataclass(frozen=True)
class Choice:
    """What a budget (bytes for each worker) asked for, and what came of it."""

    budget: int
    before: int  # the most bytes that a worker would hold without it
    after: int  # with it
    remade: tuple[Offer, ...]  # what is made again instead of kept
    freed: int = 0  # bytes that earlier work has kept, and that are freed and made again
    names: tuple[str, ...] = ()  # of the primitives that do so

    @property
    def flops(self) -> float:
        """Operations that are done again."""
        return sum(offer.flops for offer in self.remade)

    @property
    def nbytes(self) -> int:
        """Bytes that are not kept, on all workers together."""
        return sum(offer.nbytes for offer in self.remade)

    @property
    def text(self) -> str:
        """What `explain` says of it."""
        lines = [
            f"budget of {nbytes_text(self.budget)} for each worker: without it {nbytes_text(self.before)} at most"
        ]
        if self.names:
            lines.append(
                f"  freed and made again, since earlier work has kept it: {nbytes_text(self.freed)}, "
                f"by {counted(self.names)}"
            )
        if self.remade:
            what = counted(name for offer in self.remade for name in offer.names)
            lines.append(
                f"  made again instead of kept: {what}; {nbytes_text(self.nbytes)} less to keep, "
                f"{number_text(self.flops)}flop more"
            )
        if self.after > self.budget:
            lines.append(f"  it cannot be kept to: {nbytes_text(self.after)} is the least that was found")
        return "\n".join(lines)


@dataclass(frozen=True)
class Explanation:
    """The plan that is pending for some tensors: as `text`, as totals, and stage by stage."""

    workers: int
    stages: tuple[StageCost, ...]
    peak_bytes: tuple[int, ...] = ()  # most bytes that each worker will hold, with what it holds already
    choice: Choice | None = None  # what came of a budget, if there is one

    def __repr__(self) -> str:  # not the text: that was printed when this was made
        if not self.stages:
            return "<distgrad.Explanation: nothing is pending>"
        count = len(self.stages)
        return (
            f"<distgrad.Explanation: {count} stage{'s' * (count > 1)}, {number_text(self.flops)}flop, "
            f"holds {nbytes_text(self.bytes_held)}, moves {nbytes_text(self.bytes_moved)}, "
            f"at most {nbytes_text(max(self.peak_bytes))} on a worker>"
        )

    @property
    def flops(self) -> float:
        """Operations, all stages together."""
        return sum(s.flops for s in self.stages)

    @property
    def bytes_computed(self) -> int:
        """Bytes of all intermediate and final results; most of them live only in a core's cache."""
        return sum(s.computed for s in self.stages)

    @property
    def bytes_held(self) -> int:
        """Bytes that will be stored on the workers, all together."""
        return sum(s.held for s in self.stages)

    @property
    def bytes_moved(self) -> int:
        """Bytes that go between workers."""
        return sum(s.moved for s in self.stages)

    @property
    def text(self) -> str:
        """What `explain` prints."""
        if not self.stages:
            return "nothing is pending: all values are there"
        lines = []
        for n, stage in enumerate(self.stages):
            lines.append(
                f"stage {n}: {number_text(stage.flops)}flop, computes {nbytes_text(stage.computed)}, "
                f"holds {nbytes_text(stage.held)}, moves {nbytes_text(stage.moved)}"
            )
            lines += [f"  {line}" for line in stage.lines]
        lines.append(
            f"in all, on {self.workers} workers: {number_text(self.flops)}flop, "
            f"computes {nbytes_text(self.bytes_computed)}, holds {nbytes_text(self.bytes_held)}, "
            f"moves {nbytes_text(self.bytes_moved)}"
        )
        peaks = ", ".join(nbytes_text(n) for n in self.peak_bytes)
        lines.append(f"at most on each worker, with what is there already: {peaks}")
        if self.choice is not None:
            lines.append(self.choice.text)
        return "\n".join(lines)


class Held(NamedTuple):
    """Bytes that a worker holds, and what of them the next call frees."""

    stored: int
    freed: int


class Predicted(NamedTuple):
    """What is predicted of a stage: for each step operations and bytes of results, then bytes moved."""

    steps: tuple[tuple[float, int], ...]
    moved: int


def predicted(stage: Stage, workers: int) -> Predicted:
    """Work out what a stage costs, all workers together."""
    program = stage.program
    steps = []
    for fragment, _, step in program.steps():
        copies = workers if fragment.count == 1 else 1
        nbytes = sum(program.slots[i].aval.nbytes for i in step.outs)
        steps.append((copies * _flops(program, step), copies * nbytes))
    return Predicted(tuple(steps), sum(_moved(program, send, workers) for send in program.sends))


def peaks(plan: Plan, now: Sequence[Held]) -> tuple[int, ...]:
    """The most bytes that each worker will hold while the plan runs, from what it holds before."""
    if plan.footprints is None:
        plan.footprints = [footprints(stage.program, stage.holders, len(now)) for stage in plan.stages]
    found = []
    for worker, before in enumerate(now):
        needs = []
        kept: dict[Instance, int] = {}
        for stage, every in zip(plan.stages, plan.footprints, strict=True):
            kept.update(zip(stage.keep, every[worker].kept, strict=True))
            needs.append((every[worker], sum(kept[instance] for instance in stage.last_use)))
        found.append(peak(before.stored, before.freed, needs))
    return tuple(found)


def explanation(
    plan: Plan, captured: Capture, now: Sequence[Held], choice: Choice | None = None
) -> Explanation:
    """Work out the costs of a plan, for workers that hold something already."""
    workers = len(now)
    costs = [predicted(stage, workers) for stage in plan.stages]
    stages = []
    for stage, cost in zip(plan.stages, costs, strict=True):
        program = stage.program
        numbers = iter(stage.nodes)
        lines: list[str] = []
        for fragment in program.fragments:
            for loop in fragment.loops:
                steps = [(step, next(numbers)) for step in loop.steps]
                lines.append(_line(fragment, loop.rows, steps, captured))
        stored = 0
        for slot in stage.holders:
            if slot is not None:
                stored += slot.aval.nbytes * (workers if slot.sharding.count == 1 else 1)
        for send in program.sends:
            lines.append(_send_line(program, send, workers))
        flops = sum(flops for flops, _ in cost.steps)
        computed = sum(nbytes for _, nbytes in cost.steps)
        stages.append(StageCost(tuple(lines), flops, computed, stored, cost.moved))
    return Explanation(workers, tuple(stages), peaks(plan, now), choice)


def _flops(program: Program, step: Step) -> float:
    ins, outs = ([program.slots[i].aval for i in group] for group in (step.ins, step.outs))
    return step.primitive.operations(ins, outs, step.attrs)


def _line(fragment: Fragment, rows: int, steps: list[tuple[Step, int]], captured: Capture) -> str:
    text = counted(step.primitive.name for step, _ in steps)
    places: dict[tuple[str, int], None] = {}
    for _, number in steps:
        origin = captured.nodes[number].origin if number >= 0 else None
        if origin is not None:
            places[origin.file, origin.line] = None
    where = f"  [{_places(list(places))}]" if places else ""
    tiles = f" in tiles of {rows} rows" if rows else ""
    return f"{fragment.count} shard{'s' * (fragment.count > 1)}{tiles}: {text}{where}"


def counted(names: Iterable[str]) -> str:
    """Names, each with how often it stands there."""
    return ", ".join(f"{n} {name}" if n > 1 else name for name, n in Counter(names).items())


def _places(places: list[tuple[str, int]]) -> str:
    file = places[0][0]
    lines = sorted({str(line) for f, line in places if f == file}, key=int)
    return f"{file.rsplit('/', 1)[-1]}:{','.join(lines[:6])}{',...' if len(lines) > 6 else ''}"


def _send_line(program: Program, send: Send, workers: int) -> str:
    slot = program.slots[send.slot]
    moved = nbytes_text(_moved(program, send, workers))
    return f"exchange: {send.what.title()} {slot.dtype.name}{list(slot.aval.shape)}, {moved} moved"


def _moved(program: Program, send: Send, workers: int) -> int:
    """Bytes that leave for other workers."""
    return send.what.moved(program.slots[send.slot], workers, send.channel)


def nbytes_text(n: float) -> str:
    """With three digits and a unit."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if n < 1024 or unit == "TiB":
            return f"{n:.0f} {unit}" if unit == "B" or n >= 100 else f"{n:.1f} {unit}"
        n /= 1024
    raise AssertionError


def number_text(n: float) -> str:
    """With three digits and the letter of its thousands."""
    for unit in ("", "k", "M", "G", "T"):
        if n < 1000:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:.3g} P"
