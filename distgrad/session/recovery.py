"""The recovering layer of a session: workers that are lost are replaced, and what they had is made again.

`lives.py` says what is to be done, `lineage.py` how a value came to be there, `history.py` when copies are worth their
time; here it is done. Nothing of this is in the way of a program: whoever meets a loss (a flush, an upload, a read)
waits until the workers have again what they had, and goes on with the same bits.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple, TypeVar

import msgpack
import numpy as np

from distgrad.compiler import switch
from distgrad.dtype import NAMES
from distgrad.errors import DistgradError, WorkerLostError
from distgrad.exchange.base import taken
from distgrad.graph import NO_COPIES, Node, RemoteRef, Result, spec
from distgrad.primitives import Aval
from distgrad.program import Slot
from distgrad.session.failures import fresh
from distgrad.session.history import SHORT, maker
from distgrad.session.lineage import Copy, Maker, Order, Read, Run, Upload, depths, order
from distgrad.session.lives import TRIES, GiveUp, Redo, Reset, Start, Todo
from distgrad.session.sending import Sending
from distgrad.session.transfer import send
from distgrad.sharding import Sharding

T = TypeVar("T")
Key = tuple[Maker, int]


class Event(NamedTuple):
    """Something that happened to the workers."""

    when: float  # seconds since 1970
    workers: tuple[int, ...]  # those that were lost
    text: str  # who, why, and what was done


class Recovering(Sending):
    """A session as far as it survives the loss of workers."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.events: list[Event] = []
        self._recovers_now = False

    def survive(self, act: Callable[[], T]) -> T:
        """What `act` gives; if workers are lost meanwhile, it is done again once they are replaced."""
        for _ in range(TRIES):
            if self.calls.lost is None:
                try:
                    return act()
                except WorkerLostError as error:
                    self.calls.lost = fresh(error)
            if self._recovers_now:
                break
            self._recover(self.calls.lost)
        return act()  # what is asked for is lost though all workers live

    def flush(self, remat: bool = False, asked: Result | None = None) -> Exception | None:
        """The same, on workers that are there."""
        with self.lock:
            return self.survive(lambda: super(Recovering, self).flush(remat, asked))

    def _upload(self, result: Result, array: np.ndarray, sharding: Sharding, own: bool = True) -> None:
        self.survive(lambda: super(Recovering, self)._upload(result, array, sharding, own))

    def _send(self, nodes: list[Node], early: AbstractSet[Node] = frozenset()) -> Exception | None:
        if self.history.due():
            self._copy()
        return super()._send(
            nodes, early
        )  # its error is named nowhere: with the frame it would be in a circle

    def _recover(self, lost: WorkerLostError) -> None:
        """Have the workers as they were before a loss. Broken off, it begins anew with whoever needs them next."""
        lives, self._recovers_now = self.calls.lives, True
        try:
            self._lost(lost)
            while (todo := lives.todo()) is not None:
                if isinstance(todo, GiveUp):
                    lives.gave_up()
                    raise fresh(lost)
                try:
                    self._do(todo, lost)
                except WorkerLostError as again:
                    lost = fresh(again)
                    self._lost(lost)
        except BaseException:
            self.calls.lost = lost
            raise
        finally:
            self._recovers_now = False

    def _lost(self, error: WorkerLostError) -> None:
        self.calls.drain()  # what was done before the loss is good
        dead = [number for number, alive in enumerate(self.transport.alive()) if not alive]
        self.calls.lives.lost(dead)
        self.calls.restart()
        self.history.lost()
        self.events.append(Event(time.time(), tuple(dead), str(error)))

    def _do(self, todo: Todo, lost: WorkerLostError) -> None:
        lives = self.calls.lives
        if isinstance(todo, Start):
            lives.starts(todo.worker)
            self.transport.replace(todo.worker)
            lives.started(todo.worker)
        elif isinstance(todo, Reset):
            calls = [
                self.transport.call(w, "reset", (todo.epoch, switch.on()), 1)[0]
                for w in range(self.transport.workers)
            ]
            if not all(self.transport.get(calls, self.calls.timeout)) and switch.on():
                raise DistgradError(
                    "a worker that takes the place of another cannot compile loops as that did"
                )
            lives.reset(todo.epoch)
        elif isinstance(todo, Redo):
            self._redo(lost)
            lives.recovered()

    def _counts(self, box: Any) -> bool:
        return self.calls.lives.counts(box[0].serial)

    def _redo(self, lost: WorkerLostError) -> None:
        """Make again what somebody holds."""
        wanted = [result for result in self.history.alive.results() if self._is_gone(result)]
        arrays = [result.array for result in wanted]
        todo = order([r.ref.made for r in wanted if r.ref is not None], self._counts)
        text = f"{lost}. It is replaced, and done again: {_counted(todo)}"
        self.events.append(Event(time.time(), (), text))
        print(f"distgrad: {text}", file=sys.stderr)
        again = Again(self, todo, wanted)
        again.all()
        self.calls.drain()
        self.calls.hush(again.told)
        if self.calls.lost is not None:
            raise self.calls.lost
        for result, array in zip(wanted, arrays, strict=True):
            if array is not None:
                result.becomes_known(array)
        self._tell_gone(todo, wanted, lost)

    def _is_gone(self, result: Result) -> bool:
        """Whether it was on the workers when they were lost."""
        if result.error is not None or result.ref is None or result.ref.session is not self:
            return False
        if result.ref.made is None:
            return False
        return result.id is not None or (result.box is not None and not self._counts(result.box))

    def _tell_gone(self, todo: Order, wanted: Sequence[Result], lost: WorkerLostError) -> None:
        """What cannot be made again has failed, with all that was to be made of it."""
        failed: dict[Result, WorkerLostError] = {}
        for result in wanted:
            source = todo.gone.get(maker(result))  # type: ignore[arg-type]
            if source is not None and result.array is not None:
                result.becomes_local()
            elif source is not None:
                text = f"a tensor ({result.aval.dtype} of shape {result.aval.shape}) cannot be made again: {lost}, "
                failed[result] = WorkerLostError(f"{text}and with it {source.text}, which was not kept")
                result.becomes_failed(failed[result])
        if failed:
            self._lose(set(failed), next(iter(failed.values())))

    def _copy(self) -> None:
        """Copy what many runs have made, one after the other, if that is worth its time. Waits for nothing."""
        results = [r for r in self.history.alive.results() if r.id is not None and isinstance(maker(r), Run)]
        made = [r.ref.made for r in results if r.ref is not None]
        deep = [n for n, depth in enumerate(depths(made, self._counts)) if depth >= SHORT]
        if not self.history.worth([results[n] for n in deep]):
            return
        deep.sort(key=lambda n: results[n].sharding.count > 1)
        specs = [results[n].spec for n in deep]
        ids = [results[n].id for n in deep]
        count = sum(s.sharding.count == 1 for s in specs)
        whole = self.transport.call(0, "copy", (ids[:count],), 1)[0] if count else None
        workers = range(self.transport.workers) if deep[count:] else ()
        shards = [self.transport.call(w, "copy", (ids[count:],), 1)[0] for w in workers]
        copy = Copy(self.history.order(), whole, shards, specs)
        self.history.copying(self.calls.lives.last + 1, [made[n] for n in deep], copy)


class Again:
    """What is done again, in its order. Values that nobody holds any more are there until their last reader has run."""

    def __init__(self, session: Recovering, todo: Order, wanted: Sequence[Result]):
        self.session = session
        self.calls = session.calls
        self.makers = todo.makers
        lives = session.calls.lives
        self.heard = {m for m in self.makers if isinstance(m, Run) and lives.counts(m.serial)}
        self.told: set[int] = set()  # calls whose failures were told when they ran before
        self.held: dict[Key, Result] = {}
        for result in wanted:
            if result.ref is not None and result.ref.made is not None:
                self.held[result.ref.made.maker, result.ref.made.number] = result
                result.copies = NO_COPIES
        self.there = dict(self.held)
        self.last: dict[Key, Maker] = {}  # of each value: who reads it last
        for one in self.makers:
            if isinstance(one, Run):
                needs = one.needs(session._counts)
                self.last.update(dict.fromkeys([(m.maker, m.number) for m in needs], one))

    def all(self) -> None:
        """Do all of it."""
        for one in self.makers:
            if isinstance(one, Upload):
                self._upload(one)
            elif isinstance(one, Copy):
                self._copy(one)
            else:
                self._run(one)
                for made in one.needs(self.session._counts):
                    key = made.maker, made.number
                    if self.last[key] is one and key not in self.held:
                        self.there.pop(key, None)

    def _upload(self, upload: Upload) -> None:
        array, sharding = upload.array, upload.sharding
        assert array is not None
        result = self.there.get((upload, 0)) or Result(spec(Aval(array.shape, array.dtype), sharding))
        number = send(self.calls, array, sharding)
        made = None if result.ref is None else result.ref.made
        result.becomes_stored(number, RemoteRef(self.session, [number], made))
        self.there[upload, 0] = result

    def _copy(self, copy: Copy) -> None:
        """Have the workers store what they have copied."""
        transport, header = self.calls.transport, []
        count = sum(s.sharding.count == 1 for s in copy.specs)
        for number, s in enumerate(copy.specs):
            key = copy, number
            result = self.there.get(key)
            if result is None and key not in self.last:
                continue
            result = result or Result(s)
            stored = self.calls.new_ids([taken(Slot(s.dtype, s.sharding), transport.workers)])[0]
            part = (0, number) if number < count else (1, number - count)
            header.append([stored, *part, NAMES[s.dtype], s.sharding.wire()])
            made = None if result.ref is None else result.ref.made
            result.becomes_stored(stored, RemoteRef(self.session, [stored], made))
            self.there[key] = result
        data = msgpack.packb([transport.workers, header])
        calls = [
            transport.call(w, "restore", (data, copy.whole, copy.shards[w] if copy.shards else None), 1)[0]
            for w in range(transport.workers)
        ]
        self.calls.get(calls)

    def _run(self, run: Run) -> None:
        results: list[Result] = []
        boxes: list[Any] = []
        for read, s in zip(run.reads, run.specs, strict=False):
            if isinstance(read, Read) and read.box is not None and self.session._counts(read.box):
                result = Result(s)
                result.becomes_boxed(read.box, RemoteRef(self.session, []))
            else:
                result = (
                    self.there[read.made.maker, read.made.number]
                    if isinstance(read, Read)
                    else Result(s, read)
                )
            results.append(result)
            if isinstance(read, Read) and read.box is not None and not any(result.box[0] is b for b in boxes):
                boxes.append(result.box[0])
        kept = {*run.plan.stored, *run.plan.boxed}
        for value in range(len(run.reads), len(run.specs)):
            results.append(self.there.get((run, value)) or Result(run.specs[value]))
            if value in kept:
                self.there[run, value] = results[-1]
        first = self.calls.lives.last + 1
        self.session._stages(results, boxes, run.plan, run.sites, {}, run)
        if run in self.heard:
            self.told.update(range(first, run.serial + 1))


def _counted(todo: Order) -> str:
    """What is done again, in words."""
    kinds = ((Upload, "upload", "uploads"), (Copy, "copy", "copies"), (Run, "run of a plan", "runs of plans"))
    counts = [(sum(isinstance(m, kind) for m in todo.makers), names) for kind, *names in kinds]
    return ", ".join(f"{n} {names[n > 1]}" for n, names in counts if n) or "nothing"
