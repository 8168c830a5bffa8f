"""The workers of a loader: threads of this process, each with a copy of the dataset and random numbers of its own.

Threads and not processes, because tensors belong to the session of this process: a child has none (large samples
would have to be fetched, pickled and sent again), and a fork while Ray runs is not safe. What reads files, decodes or
computes in NumPy works side by side in threads. The copy is a shallow one: attributes that a worker sets are its own.
"""

from __future__ import annotations

import copy
import queue
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from distgrad.ops.random import Generator, own_generator

CHECK = 5.0  # seconds after which a worker without work looks whether it is still wanted


@dataclass(frozen=True)
class WorkerInfo:
    """Which worker this is: `id` of `num_workers`, its `seed`, and its copy of the `dataset`."""

    id: int
    num_workers: int
    seed: int
    dataset: Any
    rng: Any = None
    worker_method: str = "thread"


class _Here(threading.local):
    info: WorkerInfo | None = None


_here = _Here()


def get_worker_info() -> WorkerInfo | None:
    """In a worker of a loader: what it knows of itself. None elsewhere."""
    return _here.info


class KeyErrorMessage(str):
    """A text that a KeyError shows as it is."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


class Failed:
    """An exception of a worker, with its traceback as text."""

    def __init__(self, error: BaseException, where: str):
        self.kind, self.where = type(error), where
        self.text = "".join(traceback.format_exception(error))

    def reraise(self) -> None:
        """Raise one of the same type that tells where the first came from."""
        text: str = f"Caught {self.kind.__name__} {self.where}.\nOriginal {self.text}"
        if self.kind is KeyError:
            text = KeyErrorMessage(text)
        try:
            error = self.kind(text)
        except Exception:
            raise RuntimeError(text) from None
        raise error


class End:
    """The worker's iterable dataset has no more samples."""


@dataclass
class Task:
    """All that a worker needs, and nothing that would keep the loader's iterator alive."""

    dataset: Any
    fetcher: Callable[[Any], Callable[[Any], Any]]  # of a dataset: what gives a batch for indices
    init: Callable[[int], Any] | None
    iterable: bool
    number: int
    of: int
    seed: int
    results: queue.Queue[Any]
    done: threading.Event
    orders: queue.SimpleQueue[Any] = field(default_factory=queue.SimpleQueue)


def work(task: Task) -> None:
    """The life of a worker: orders come as (number, indices), None ends it, a seed begins another epoch."""
    dataset = copy.copy(task.dataset)
    where = f"in DataLoader worker process {task.number}"
    _here.info = WorkerInfo(task.number, task.of, task.seed, dataset)
    own_generator(Generator().manual_seed(task.seed))
    failure, fetch = None, None
    try:
        if task.init is not None:
            task.init(task.number)
        fetch = task.fetcher(dataset)
    except Exception as error:
        failure = Failed(error, where)
    while not task.done.is_set():
        try:
            order = task.orders.get(timeout=CHECK)
        except queue.Empty:
            continue
        if order is None:
            return
        number, indices = order
        if indices is RESUME:
            fetch = task.fetcher(dataset)
            continue
        try:
            data = failure or (fetch(indices) if fetch is not None else None)
            failure = None
        except StopIteration as error:
            data = End() if task.iterable else Failed(error, where)
        except Exception as error:
            data = Failed(error, where)
        task.results.put((number, data))
        del data, order, indices  # they may be large


RESUME = object()
