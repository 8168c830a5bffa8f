"""Batches of a dataset of tensors as rows of these, not sample by sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from distgrad import session
from distgrad.graph import Value
from distgrad.ops.advanced import _index
from distgrad.ops.making import tensor
from distgrad.ops.regrouping import dealt
from distgrad.ops.slices import _along
from distgrad.tensor import Tensor
from distgrad.utils.data.collate import default_collate
from distgrad.utils.data.dataset import Subset, TensorDataset
from distgrad.utils.data.sampler import (
    BatchSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from distgrad.utils.data.shuffle import can_deal, deal

OURS = (RandomSampler, SequentialSampler, SubsetRandomSampler, WeightedRandomSampler)


def _tensors(dataset: Any) -> tuple[tuple[Tensor, ...], list[Any]] | None:
    """The tensors of a `TensorDataset`, and the indices of the subsets on the way to it, the outer first."""
    subsets = []
    while type(dataset) is Subset:
        subsets.append(dataset.indices)
        dataset = dataset.dataset
    return (dataset.tensors, subsets) if type(dataset) is TensorDataset else None


def _rows(order: Any, subsets: list[Any]) -> np.ndarray:
    """Positions in the tensors of the samples `order`."""
    rows = np.asarray(order, np.int64)
    for indices in subsets:
        rows = np.asarray(indices, np.int64)[rows]
    return rows


def rows_of(dataset: Any) -> Callable[[Any], list[Tensor]] | None:
    """What gives a batch for a list of indices, if the dataset is one of tensors: their rows, stacked."""
    found = _tensors(dataset)
    if found is None:
        return None
    tensors, subsets = found

    def rows(indices: Any) -> list[Tensor]:
        chosen = tensor(_rows(indices, subsets))
        return [_index(x, [chosen], (0,)) for x in tensors]

    return rows


def epoch(loader: Any) -> Iterator[list[Tensor]] | None:
    """The batches of an epoch of large tensors, all brought into their order at once; None where that is not known.

    The order must be known beforehand: that of a sampler of ours. The copy in that order lasts as long as the epoch.
    """
    batches, sampler = loader.batch_sampler, loader.sampler
    found = _tensors(loader.dataset)
    known = type(batches) is BatchSampler and type(sampler) in OURS and batches.sampler is sampler
    if found is None or not known or loader.collate_fn is not default_collate:
        return None
    tensors, subsets = found
    if all(x.sharding.count == 1 for x in tensors) or any(x.requires_grad for x in tensors):
        return None
    n, size = len(sampler), batches.batch_size
    if loader.drop_last:
        n -= n % size
    plain = type(sampler) is SequentialSampler and not subsets
    order = None if plain else _rows(list(sampler)[:n], subsets)
    return _batches([_column(x._value, order, n, size) for x in tensors], n, size)


def _batches(columns: list[Callable[[int], Any]], n: int, size: int) -> Iterator[list[Tensor]]:
    for number in range(-(-n // size)):
        with session.called("DataLoader"):
            batch = [Tensor(column(number)) for column in columns]
        yield batch


def _column(x: Value, order: np.ndarray | None, n: int, size: int) -> Callable[[int], Value]:
    """What gives the rows of each batch of one tensor."""
    whole = n // size
    dealt_rows = None
    if order is not None and x.sharding.count == 1:
        x = _chosen(x, order)
    elif order is not None and can_deal(x) and whole:
        dealt_rows = deal(x, order[: whole * size], size)
        x = _chosen(x, order[whole * size :]) if n % size else x
    elif order is not None:
        x = _chosen(x, order)

    def batch(number: int) -> Value:
        if dealt_rows is None:
            start = number * size
            return dealt(session.part(x, _along(x.shape, 0, start, min(size, n - start))))
        return dealt_rows.batch(number) if number < whole else x

    return batch


def _chosen(x: Value, rows: np.ndarray) -> Value:
    return _index(Tensor(x), [tensor(rows)], (0,))._value
