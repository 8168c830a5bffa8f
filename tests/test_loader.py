"""Datasets, samplers and loaders: what torch gives, and in torch's words where it refuses."""

from __future__ import annotations

import collections
import gc
import threading
import time
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import distgrad
from distgrad.utils.data import (
    BatchSampler,
    ChainDataset,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    StackDataset,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
    default_convert,
    get_worker_info,
    random_split,
)


class Squares(Dataset[Any]):
    def __init__(self, n: int = 7):
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> Any:
        return {"x": np.full(2, i, np.float32), "y": i * i, "name": str(i), "half": i / 2}


class Stream(IterableDataset[int]):
    """0 to n - 1, dealt out among workers."""

    def __init__(self, n: int):
        self.n = n

    def __iter__(self) -> Iterator[int]:
        info = get_worker_info()
        return iter(range(info.id, self.n, info.num_workers) if info else range(self.n))


# Batches of tensors.
def test_batches_of_tensors_are_rows(torch: ModuleType) -> None:
    x, y = torch.arange(22.0).reshape(11, 2), torch.arange(11)
    batches = list(DataLoader(TensorDataset(x, y), batch_size=4))
    assert [type(b) for b in batches] == [list] * 3
    assert [tuple(b[0].shape) for b in batches] == [(4, 2), (4, 2), (3, 2)]
    np.testing.assert_array_equal(torch.cat([b[0] for b in batches]).numpy(), x.numpy())
    np.testing.assert_array_equal(torch.cat([b[1] for b in batches]).numpy(), np.arange(11))
    assert len(list(DataLoader(TensorDataset(x, y), 4, drop_last=True))) == 2


def test_a_shuffled_epoch_gives_each_row_once_and_another_order_each_time(torch: ModuleType) -> None:
    torch.manual_seed(3)
    x = torch.arange(60.0).reshape(30, 2)
    loader = DataLoader(TensorDataset(x, torch.arange(30)), batch_size=8, shuffle=True)
    orders = []
    for _ in range(2):
        batches = list(loader)
        assert [len(b[1]) for b in batches] == [8, 8, 8, 6]
        order = np.concatenate([b[1].numpy() for b in batches])
        rows = np.concatenate([b[0].numpy() for b in batches])
        np.testing.assert_array_equal(rows, x.numpy()[order])
        np.testing.assert_array_equal(np.sort(order), np.arange(30))
        orders.append(order.tolist())
    assert orders[0] != orders[1] != list(range(30))


def test_an_order_depends_on_the_seed_alone(torch: ModuleType) -> None:
    def order(**options: Any) -> list[int]:
        loader = DataLoader(TensorDataset(torch.arange(20)), batch_size=5, shuffle=True, **options)
        return [int(i) for (b,) in loader for i in b.tolist()]

    def seeded() -> Any:
        return torch.Generator().manual_seed(5)

    assert order(generator=seeded()) == order(generator=seeded()) == order(generator=seeded(), num_workers=2)
    torch.manual_seed(1)
    first = order()
    torch.manual_seed(1)
    assert order() == first


def test_batches_of_a_subset_are_rows_of_what_it_is_of(torch: ModuleType) -> None:
    x = torch.arange(40.0).reshape(20, 2)
    outer = Subset(Subset(TensorDataset(x), list(range(19, -1, -2))), [0, 2, 3])
    np.testing.assert_array_equal(next(iter(DataLoader(outer, 3)))[0].numpy(), x.numpy()[[19, 15, 13]])
    shuffled = DataLoader(outer, 2, shuffle=True)
    rows = sorted(row for (b,) in shuffled for row in b[:, 0].tolist())
    assert rows == [26.0, 30.0, 38.0]


def test_a_gradient_comes_back_through_a_loader(torch: ModuleType) -> None:
    x = torch.arange(12.0).reshape(6, 2).requires_grad_()
    for (b,) in DataLoader(TensorDataset(x), 4, shuffle=True):
        (b * b).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), 2 * x.detach().numpy())


# Datasets.
def test_samples_of_containers_are_put_together_field_by_field() -> None:
    first = next(iter(DataLoader(Squares(), 3)))
    assert first["name"] == ["0", "1", "2"]
    assert first["y"].tolist() == [0, 1, 4]
    assert first["y"].dtype is distgrad.int64
    assert (first["half"].dtype, first["x"].dtype) == (distgrad.float64, distgrad.float32)
    assert tuple(first["x"].shape) == (3, 2)


def test_collate_keeps_kinds_of_containers() -> None:
    Point = collections.namedtuple("Point", "x y")
    made = default_collate([Point(0, 1.5), Point(2, 3.5)])
    assert type(made) is Point
    assert made.x.tolist() == [0, 2]
    ordered = default_collate([collections.OrderedDict(a=1), collections.OrderedDict(a=2)])
    assert type(ordered) is collections.OrderedDict
    assert [t.tolist() for t in default_collate([(0, 1), (2, 3)])] == [[0, 2], [1, 3]]
    assert [t.tolist() for t in default_collate([[0, 1], [2, 3]])] == [[0, 2], [1, 3]]
    assert default_collate([np.float32(1), np.float32(2)]).dtype is distgrad.float32
    assert default_collate([True, False]).dtype is distgrad.bool
    assert default_collate([b"a", b"b"]) == [b"a", b"b"]


def test_collate_refuses_what_it_cannot_put_together() -> None:
    with pytest.raises(RuntimeError, match="each element in list of batch should be of equal size"):
        default_collate([[1], [1, 2]])
    words = "default_collate: batch must contain tensors, numpy arrays, numbers, dicts or lists; found "
    with pytest.raises(TypeError, match=words + "<class 'object'>"):
        default_collate([object()])
    with pytest.raises(TypeError, match=words + "<U1"):
        default_collate([np.array(["a"])])
    with pytest.raises(RuntimeError, match="stack expects each tensor to be equal size"):
        default_collate([distgrad.zeros(2), distgrad.zeros(3)])


def test_convert_makes_tensors_of_arrays_inside() -> None:
    made = default_convert({"a": np.arange(2), "b": [np.float64(1)], "c": "s", "d": (1,)})
    assert made["a"].tolist() == [0, 1]
    assert made["b"][0].item() == 1
    assert (made["c"], made["d"]) == ("s", [1])


def test_datasets_of_datasets() -> None:
    both = ConcatDataset([range(3), range(10, 14)]) + Squares(1)
    assert [both[i] for i in range(7)] == [0, 1, 2, 10, 11, 12, 13]
    assert (both[-2], both[7]["name"]) == (13, "0")
    with pytest.raises(ValueError, match="absolute value of index should not exceed dataset length"):
        both[-9]
    assert StackDataset(range(3), [5, 6, 7])[1] == (1, 6)
    named = StackDataset(a=range(3), b=Subset(range(9), [4, 5, 6]))
    assert named.__getitems__([0, 2]) == [{"a": 0, "b": 4}, {"a": 2, "b": 6}]
    chained = ChainDataset([Stream(2), Stream(3)])
    assert (list(chained), list(Stream(1) + Stream(1))) == ([0, 1, 0, 1, 2], [0, 0])


def test_datasets_refuse() -> None:
    with pytest.raises(AssertionError, match="Size mismatch between tensors"):
        TensorDataset(distgrad.zeros(2), distgrad.zeros(3))
    with pytest.raises(ValueError, match="Size mismatch between datasets"):
        StackDataset(range(2), range(3))
    with pytest.raises(AssertionError, match="ConcatDataset does not support IterableDataset"):
        ConcatDataset([Stream(2)])
    with pytest.raises(NotImplementedError, match=r"Subclasses of Dataset should implement __getitem__\."):
        Dataset()[0]

    class Doubled(Subset[int]):
        def __getitem__(self, i: int) -> int:
            return 2 * i

    with pytest.raises(NotImplementedError, match="Doubled overrides __getitem__ but not __getitems__"):
        Doubled(range(2), [0])


def test_a_random_split_shares_nothing_and_leaves_nothing() -> None:
    def generator() -> Any:
        return distgrad.Generator().manual_seed(42)

    parts = random_split(range(10), [0.25, 0.25, 0.5], generator=generator())
    assert [len(p) for p in parts] == [3, 2, 5]
    assert sorted(i for p in parts for i in p) == list(range(10))
    again = random_split(range(10), [3, 2, 5], generator=generator())
    assert [p.indices for p in again] == [p.indices for p in parts]
    with pytest.raises(ValueError, match="Sum of input lengths does not equal the length of the input data"):
        random_split(range(10), [3, 3])
    with pytest.warns(UserWarning, match="Length of split at index 1 is 0"):
        random_split(range(1), [0.9, 0.1])


# Samplers.
def test_samplers() -> None:
    assert list(SequentialSampler("abc")) == [0, 1, 2]
    assert sorted(RandomSampler(range(6))) == list(range(6))
    assert len(list(RandomSampler(range(4), num_samples=10))) == 10
    drawn = list(RandomSampler(range(3), replacement=True, num_samples=50))
    assert (len(drawn), set(drawn)) == (50, {0, 1, 2})
    assert sorted(SubsetRandomSampler([4, 7, 9])) == [4, 7, 9]
    assert list(BatchSampler(range(7), 3, False)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(BatchSampler(range(7), 3, True)) == [[0, 1, 2], [3, 4, 5]]
    assert (len(BatchSampler(range(7), 3, False)), len(BatchSampler(range(7), 3, True))) == (3, 2)


def test_a_weighted_sampler_follows_its_weights() -> None:
    generator = distgrad.Generator().manual_seed(0)
    drawn = list(WeightedRandomSampler([1, 0, 3], 4000, generator=generator))
    counts = np.bincount(drawn, minlength=3)
    assert counts[1] == 0
    assert abs(counts[2] / 4000 - 0.75) < 0.03  # more than four standard deviations
    firsts = [next(iter(WeightedRandomSampler([1, 0, 3], 2, False, generator))) for _ in range(400)]
    assert abs(firsts.count(2) / 400 - 0.75) < 0.1
    assert sorted(WeightedRandomSampler([1, 2, 3], 3, False)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: RandomSampler([]), "num_samples should be a positive integer value, but got num_samples=0"),
        (lambda: WeightedRandomSampler([1], 0), "num_samples should be a positive integer value"),
        (lambda: WeightedRandomSampler([[1.0]], 1), r"weights have shape \(1, 1\)"),
        (
            lambda: BatchSampler([1], 0, False),
            "batch_size should be a positive integer value, but got batch_s",
        ),
        (lambda: DataLoader([1], num_workers=-1), "num_workers option should be non-negative"),
        (lambda: DataLoader([1], timeout=-1), "timeout option should be non-negative"),
        (
            lambda: DataLoader([1], prefetch_factor=2),
            "prefetch_factor option could only be specified in mult",
        ),
        (lambda: DataLoader([1], persistent_workers=True), "persistent_workers option needs num_workers > 0"),
        (
            lambda: DataLoader([1], shuffle=True, sampler=[0]),
            "sampler option is mutually exclusive with shuf",
        ),
        (
            lambda: DataLoader([1], 2, batch_sampler=[[0]]),
            "batch_sampler option is mutually exclusive with ba",
        ),
        (
            lambda: DataLoader([1], None, drop_last=True),
            "batch_size=None option disables auto-batching and is",
        ),
        (
            lambda: DataLoader(Stream(1), shuffle=True),
            "expected unspecified shuffle option, but got shuffle=T",
        ),
        (lambda: DataLoader(Stream(1), sampler=[1]), "expected unspecified sampler option, but got sampler="),
        (lambda: DataLoader([1], multiprocessing_context="fork"), "only be used with multi-process loading"),
    ],
)
def test_what_is_refused(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_a_loader_keeps_its_settings() -> None:
    loader = DataLoader([1, 2, 3], 2)
    with pytest.raises(ValueError, match="batch_size attribute should not be set after DataLoader is initi"):
        loader.batch_size = 3
    assert (len(loader), loader.batch_size, loader.drop_last) == (2, 2, False)
    with pytest.raises(NotImplementedError, match="threads"):
        DataLoader([1], num_workers=1, multiprocessing_context="spawn")
    with pytest.warns(UserWarning, match="'pin_memory' argument is set as true but no accelerator is found"):
        iter(DataLoader([1], pin_memory=True))


# Workers.
def test_workers_give_batches_in_order() -> None:
    def slow_first(i: list[int]) -> list[int]:
        time.sleep(0.02 if i[0] == 0 else 0)
        return i

    loader = DataLoader(range(9), 2, num_workers=2, collate_fn=slow_first)
    assert list(loader) == [[0, 1], [2, 3], [4, 5], [6, 7], [8]]
    quick = DataLoader(range(9), 2, num_workers=2, collate_fn=slow_first, in_order=False)
    assert sorted(quick) == [[0, 1], [2, 3], [4, 5], [6, 7], [8]]


def test_workers_share_a_stream_that_looks_at_their_numbers() -> None:
    loader = DataLoader(Stream(7), 2, num_workers=2)
    assert [b.tolist() for b in loader] == [[0, 2], [1, 3], [4, 6], [5]]
    assert len(loader.dataset.__class__(3).__dict__) == 1
    assert get_worker_info() is None


def test_each_worker_has_a_copy_of_the_dataset_and_its_own_random_numbers() -> None:
    class Range(IterableDataset[Any]):
        start, end = 0, 6

        def __iter__(self) -> Iterator[Any]:
            return ((i, distgrad.rand(()).item()) for i in range(self.start, self.end))

    def halve(worker: int) -> None:
        info = get_worker_info()
        assert info is not None
        info.dataset.start, info.dataset.end = 3 * worker, 3 * worker + 3

    def run() -> list[Any]:
        generator = distgrad.Generator().manual_seed(1)
        return list(DataLoader(Range(), None, num_workers=2, worker_init_fn=halve, generator=generator))

    first = run()
    assert [i for i, _ in first] == [0, 3, 1, 4, 2, 5]
    assert len({u for _, u in first}) == 6
    assert run() == first


def test_what_a_worker_raises_is_raised_by_the_loader() -> None:
    class Broken(Dataset[int]):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, i: int) -> int:
            if i == 2:
                raise KeyError("no such sample")
            return i

    batches = iter(DataLoader(Broken(), num_workers=1))
    assert [next(batches).tolist() for _ in range(2)] == [[0], [1]]
    words = "^Caught KeyError in DataLoader worker process 0.\nOriginal Traceback (.|\n)*no such sample"
    with pytest.raises(KeyError, match=words):
        next(batches)
    assert next(batches).tolist() == [3]  # the others go on

    def no_start(worker: int) -> None:
        raise OSError("no disk")

    with pytest.raises(OSError, match="Caught OSError in DataLoader worker process 0"):
        list(DataLoader(range(2), num_workers=1, worker_init_fn=no_start))


def test_a_batch_that_does_not_come_in_time() -> None:
    free = threading.Event()
    loader = DataLoader([free], num_workers=1, timeout=0.05, collate_fn=lambda x: x[0].wait())
    with pytest.raises(RuntimeError, match=r"DataLoader timed out after 0\.05 seconds"):
        next(iter(loader))
    free.set()


def test_workers_leave_with_the_epoch_unless_they_are_to_stay() -> None:
    def living() -> int:
        return sum(t.name == "distgrad_data_worker" and t.is_alive() for t in threading.enumerate())

    def wait_for(n: int) -> None:
        until = time.monotonic() + 10
        while living() != n and time.monotonic() < until:
            time.sleep(0.005)
        assert living() == n

    gc.collect()  # iterators that errors of other tests still hold
    wait_for(0)
    loader = DataLoader(range(4), 2, num_workers=2)
    list(loader)
    wait_for(0)
    batches = iter(loader)
    next(batches)
    del batches  # left in the middle
    wait_for(0)
    kept = DataLoader(range(6), 1, num_workers=2, persistent_workers=True)
    first = iter(kept)
    next(first)  # an epoch that is left
    assert [b.tolist() for b in kept] == [[0], [1], [2], [3], [4], [5]]
    assert [b.tolist() for b in kept] == [[0], [1], [2], [3], [4], [5]]
    assert living() == 2
    del kept, first
    wait_for(0)


def test_a_stream_that_is_longer_than_it_says() -> None:
    class Short(Stream):
        def __len__(self) -> int:
            return 2

    loader = DataLoader(Short(3))
    assert len(loader) == 2
    with pytest.warns(UserWarning, match="was reported to be 2.*but 3 samples have been fetched"):
        list(loader)
    assert len(DataLoader(Short(3), None)) == 2
    assert [b.tolist() for b in DataLoader(Stream(5), 2, drop_last=True)] == [[0, 1], [2, 3]]


def test_own_samplers_and_batches_without_collating() -> None:
    class Backwards(Sampler[int]):
        def __iter__(self) -> Iterator[int]:
            return iter([2, 1, 0])

    assert [int(i) for i in DataLoader([5, 6, 7], None, sampler=Backwards())] == [7, 6, 5]
    assert [b.tolist() for b in DataLoader([5, 6, 7], batch_sampler=[[0, 2], [1]])] == [[5, 7], [6]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(DataLoader([5, 6], 2, collate_fn=list)) == [[5, 6]]
