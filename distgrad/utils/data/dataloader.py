"""`DataLoader`: batches of a dataset, in this thread or by workers."""

from __future__ import annotations

import copy
import itertools
import math
import queue
import threading
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

from distgrad.ops.random import Generator, randint
from distgrad.utils.data.collate import default_collate, default_convert
from distgrad.utils.data.dataloader_checks import (
    _check_context,
    _check_cores,
    _check_numbers,
    _check_samplers,
)
from distgrad.utils.data.dataset import Dataset, IterableDataset
from distgrad.utils.data.epoch import epoch, rows_of
from distgrad.utils.data.sampler import BatchSampler, Endless, RandomSampler, Sampler, SequentialSampler
from distgrad.utils.data.worker import RESUME, End, Failed, Task, get_worker_info, work

__all__ = ["DataLoader", "default_collate", "default_convert", "get_worker_info"]

T_co = TypeVar("T_co", covariant=True)
FIXED = ("batch_size", "batch_sampler", "sampler", "drop_last", "dataset", "persistent_workers")


class DataLoader(Generic[T_co]):
    """Batches of a dataset, one after the other, for `for batch in loader`.

    Args:
        dataset: maps indices to samples, or is an `IterableDataset`.
        batch_size: samples in a batch; None: samples are given one by one, as they are.
        shuffle: another random order in each epoch.
        sampler, batch_sampler: in which order samples are taken; the second gives lists of indices.
        num_workers: threads that make batches ahead of time (torch has processes here; see `worker.py`).
        collate_fn: makes a batch of a list of samples; `default_collate` unless given.
        pin_memory: nothing is pinned, since there is no other device.
        drop_last: leave out a last batch that is shorter.
        timeout: seconds to wait for a batch of the workers; 0: for ever.
        worker_init_fn: called in each worker with its number.
        generator: of the order, and of the workers' seeds.
        prefetch_factor: batches that each worker makes ahead; 2 unless given.
        persistent_workers: keep the workers from one epoch to the next.
        in_order: False: batches of the workers come as they are ready.

    Batches of a `TensorDataset`, put together by `default_collate`, are rows taken from its tensors at once; of tensors
    on the workers a whole epoch is brought into its order by one exchange, and batches are cut from that copy.
    """

    _ready = False

    def __init__(
        self,
        dataset: Dataset[T_co],
        batch_size: int | None = 1,
        shuffle: bool | None = None,
        sampler: Sampler[Any] | Iterable[Any] | None = None,
        batch_sampler: Sampler[list[Any]] | Iterable[list[Any]] | None = None,
        num_workers: int = 0,
        collate_fn: Callable[[Any], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], Any] | None = None,
        multiprocessing_context: Any = None,
        generator: Generator | None = None,
        *,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        pin_memory_device: str = "",
        in_order: bool = True,
    ):
        _check_numbers(num_workers, timeout, prefetch_factor, persistent_workers)
        _check_context(multiprocessing_context, num_workers)
        self.dataset = dataset
        self.num_workers = num_workers
        self.prefetch_factor = 2 if num_workers and prefetch_factor is None else prefetch_factor
        self.pin_memory, self.pin_memory_device = pin_memory, pin_memory_device
        self.timeout, self.worker_init_fn = timeout, worker_init_fn
        self.multiprocessing_context = multiprocessing_context
        self.in_order, self.generator = in_order, generator
        self._iterable = isinstance(dataset, IterableDataset)
        _check_samplers(self._iterable, batch_size, shuffle, sampler, batch_sampler, drop_last)
        if batch_sampler is not None:
            batch_size = None
        if sampler is None:
            sampler = self._usual_sampler(bool(shuffle))
        if batch_size is not None and batch_sampler is None:
            batch_sampler = BatchSampler(sampler, batch_size, drop_last)
        self.batch_size, self.drop_last = batch_size, drop_last
        self.sampler: Any = sampler
        self.batch_sampler: Any = batch_sampler
        self.collate_fn: Callable[[Any], Any] = collate_fn or (
            default_convert if batch_sampler is None else default_collate
        )
        self.persistent_workers = persistent_workers
        self._kept: _Threaded | None = None
        self._told: int | None = None  # the length that an iterable dataset has said
        _check_cores(num_workers)
        self._ready = True

    def _usual_sampler(self, shuffle: bool) -> Sampler[Any]:
        if self._iterable:
            return Endless()
        kind = RandomSampler(self.dataset, generator=self.generator) if shuffle else None  # type: ignore[arg-type]
        return kind or SequentialSampler(self.dataset)  # type: ignore[arg-type]

    def __setattr__(self, name: str, value: Any) -> None:
        if self._ready and name in FIXED:
            kind = type(self).__name__
            raise ValueError(f"{name} attribute should not be set after {kind} is initialized")
        super().__setattr__(name, value)

    @property
    def _index_sampler(self) -> Any:
        return self.sampler if self.batch_sampler is None else self.batch_sampler

    def __iter__(self) -> Iterator[Any]:
        if not self.num_workers:
            return _Serial(self)
        if not self.persistent_workers:
            return _Threaded(self)
        if self._kept is None:
            self._kept = _Threaded(self)
        else:
            self._kept.again(self)
        return self._kept

    def __len__(self) -> int:
        if not self._iterable:
            return len(self._index_sampler)
        n = self._told = len(self.dataset)  # type: ignore[arg-type]
        if self.batch_size is None:
            return n
        return n // self.batch_size if self.drop_last else math.ceil(n / self.batch_size)


def fetcher(
    dataset: Any, iterable: bool, batched: bool, collate: Any, drop_last: bool
) -> Callable[[Any], Any]:
    """What gives the batch for a list of indices, or the sample for one. StopIteration: there are no more."""
    if not iterable:
        rows = rows_of(dataset) if batched and collate is default_collate else None
        if rows is not None:
            return rows
        many = callable(getattr(dataset, "__getitems__", None))

        def mapped(index: Any) -> Any:
            if not batched:
                return collate(dataset[index])
            return collate(dataset.__getitems__(index) if many else [dataset[i] for i in index])

        return mapped
    samples = iter(dataset)

    def streamed(index: Any) -> Any:
        if not batched:
            return collate(next(samples))
        some = list(itertools.islice(samples, len(index)))
        if not some or (drop_last and len(some) < len(index)):
            raise StopIteration
        return collate(some)

    return streamed


class _Batches:
    """One epoch: what both ways of loading have in common."""

    def __init__(self, loader: DataLoader[Any]):
        if loader.pin_memory:
            text = (
                "'pin_memory' argument is set as true but no accelerator is found, "
                "then device pinned memory won't be used."
            )
            warnings.warn(text, stacklevel=3)
        self.loader = copy.copy(loader)  # its settings, without the workers that it keeps: no cycle
        self.loader._kept = None
        self.begin(loader)
        self.seed = int(randint(2**62, (), generator=loader.generator).item())

    def begin(self, loader: DataLoader[Any]) -> None:
        """A new epoch."""
        self.indices = iter(loader._index_sampler)
        self.told, self.given = loader._told, 0

    def __iter__(self) -> Iterator[Any]:
        return self

    def __len__(self) -> int:
        return len(self.loader._index_sampler)

    def __next__(self) -> Any:
        data = self.following()
        self.given += 1
        if self.loader._iterable and self.told is not None and self.given > self.told:
            warnings.warn(self._too_many(), stacklevel=2)
        return data

    def _too_many(self) -> str:
        text = (
            f"Length of IterableDataset {self.loader.dataset} was reported to be {self.told}"
            f"(when accessing len(dataloader)), but {self.given} samples have been fetched. "
        )
        if self.loader.num_workers:
            text += (
                "For multiprocessing data-loading, this could be caused by not properly configuring the "
                "IterableDataset replica at each worker. Please see "
                "https://pytorch.org/docs/stable/data.html#torch.utils.data.IterableDataset for examples."
            )
        return text

    def following(self) -> Any:
        """The next batch; StopIteration at the end."""
        raise NotImplementedError

    def __getstate__(self) -> Any:
        raise NotImplementedError("{} cannot be pickled", type(self).__name__)


class _Serial(_Batches):
    """Batches made when they are asked for."""

    def __init__(self, loader: DataLoader[Any]):
        if loader.timeout:
            raise AssertionError("_SingleProcessDataLoaderIter requires timeout == 0")
        super().__init__(loader)
        self.prepared = epoch(loader)
        self.fetch = None if self.prepared is not None else _fetcher_of(loader)(loader.dataset)

    def following(self) -> Any:
        if self.prepared is not None:
            return next(self.prepared)
        assert self.fetch is not None
        return self.fetch(next(self.indices))


def _fetcher_of(loader: DataLoader[Any]) -> Callable[[Any], Callable[[Any], Any]]:
    batched, collate, drop_last = loader.batch_sampler is not None, loader.collate_fn, loader.drop_last
    iterable = loader._iterable
    return lambda dataset: fetcher(dataset, iterable, batched, collate, drop_last)


class _Threaded(_Batches):
    """Batches that workers make ahead: each has a queue of orders, all put what is done into one queue.

    Orders are numbered. `owners` says who makes which of those that are out; batches are given in the order of their
    numbers unless `in_order=False`. A worker whose dataset has ended gets no more orders.
    """

    def __init__(self, loader: DataLoader[Any]):
        super().__init__(loader)
        self.results: queue.Queue[Any] = queue.Queue()
        done = threading.Event()
        of, fetching = loader.num_workers, _fetcher_of(loader)
        self.tasks = [
            Task(
                loader.dataset, fetching, loader.worker_init_fn, loader._iterable, w, of,
                self.seed + w, self.results, done,
            )
            for w in range(of)
        ]  # fmt: skip
        for task in self.tasks:
            threading.Thread(target=work, args=(task,), daemon=True, name="distgrad_data_worker").start()
        self.leave = weakref.finalize(self, _leave, done, [task.orders for task in self.tasks])
        self._orders()

    def _orders(self) -> None:
        self.number = itertools.count()
        self.owners: dict[int, int] = {}
        self.ready: dict[int, Any] = {}
        self.turn = deque(range(len(self.tasks)))  # workers that still have samples
        self.out = True  # whether there may be more indices
        for _ in range((self.loader.prefetch_factor or 1) * len(self.tasks)):
            self._order()

    def again(self, loader: DataLoader[Any]) -> None:
        """Another epoch with the same workers."""
        while self.owners.keys() - self.ready.keys():  # what an epoch that was left has ordered
            number, data = self.results.get()
            self.ready[number] = data
        self.begin(loader)
        for task in self.tasks:
            task.orders.put((-1, RESUME))
        self._orders()

    def _order(self) -> None:
        """Have the next worker make the next batch."""
        if not self.out or not self.turn:
            return
        try:
            indices = next(self.indices)
        except StopIteration:
            self.out = False
            return
        worker, number = self.turn[0], next(self.number)
        self.turn.rotate(-1)
        self.owners[number] = worker
        self.tasks[worker].orders.put((number, indices))

    def _wait(self) -> None:
        limit = self.loader.timeout or None
        try:
            number, data = self.results.get(timeout=limit)
        except queue.Empty:
            raise RuntimeError(f"DataLoader timed out after {self.loader.timeout} seconds") from None
        if number in self.owners:
            self.ready[number] = data

    def following(self) -> Any:
        while self.owners:
            number = min(self.owners) if self.loader.in_order else next(iter(self.ready), -1)
            if number not in self.ready:
                self._wait()
                continue
            data, worker = self.ready.pop(number), self.owners.pop(number)
            if isinstance(data, End):
                if worker in self.turn:
                    self.turn.remove(worker)
                self._order()
                continue
            self._order()
            if isinstance(data, Failed):
                data.reraise()
            return data
        if not self.loader.persistent_workers:
            self.leave()
        raise StopIteration


def _leave(done: threading.Event, orders: list[queue.SimpleQueue[Any]]) -> None:
    done.set()
    for each in orders:
        each.put(None)
