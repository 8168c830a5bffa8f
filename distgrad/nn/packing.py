"""Sequences of several lengths as one tensor: padded, or packed step by step without padding.

The lengths are known to the driver (they say how many rows each step has); the elements may lie anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from distgrad.ops.base import Tensor, call
from distgrad.ops.joining import cat, stack
from distgrad.ops.making import tensor

__all__ = [
    "PackedSequence",
    "invert_permutation",
    "pack_padded_sequence",
    "pack_sequence",
    "pad_packed_sequence",
    "pad_sequence",
    "unpack_sequence",
    "unpad_sequence",
]


class _Packed(NamedTuple):
    data: Tensor
    batch_sizes: Tensor
    sorted_indices: Tensor | None
    unsorted_indices: Tensor | None


class PackedSequence(_Packed):
    """The rows of step 0 of all sequences, then those of step 1 of all that are longer than 1, and so on.

    Attributes:
        data: (sum of the lengths, ...).
        batch_sizes: int64, how many rows each step has.
        sorted_indices: the sequences' order by falling length; `unsorted_indices` the way back. None: as they came.
    """

    __slots__ = ()

    def __new__(
        cls,
        data: Any,
        batch_sizes: Tensor | None = None,
        sorted_indices: Tensor | None = None,
        unsorted_indices: Tensor | None = None,
    ) -> PackedSequence:
        """As torch: the four parts, or a pair of the first two."""
        if batch_sizes is None:
            data, batch_sizes = data
        if unsorted_indices is None:
            unsorted_indices = invert_permutation(sorted_indices)
        return super().__new__(cls, data, batch_sizes, sorted_indices, unsorted_indices)

    def to(self, *args: Any, **kwargs: Any) -> PackedSequence:
        """The same with `data` converted by `Tensor.to`."""
        data = self.data.to(*args, **kwargs)
        return self if data is self.data else self._replace(data=data)

    def double(self) -> PackedSequence:
        """As float64."""
        return self._replace(data=self.data.double())

    def float(self) -> PackedSequence:
        """As float32."""
        return self._replace(data=self.data.float())

    def cpu(self) -> PackedSequence:
        """The same: there is no other device."""
        return self

    @property
    def is_cuda(self) -> bool:
        """False."""
        return False

    def _replace(self, **parts: Any) -> PackedSequence:
        return PackedSequence(*{**self._asdict(), **parts}.values())


def invert_permutation(permutation: Tensor | None) -> Tensor | None:
    """The order that undoes another."""
    if permutation is None:
        return None
    return tensor(np.argsort(_numbers(permutation)))


def _numbers(x: Any) -> np.ndarray:
    return np.asarray(x.detach().numpy() if isinstance(x, Tensor) else x, np.int64)


def _steps(lengths: np.ndarray) -> np.ndarray:
    """How many sequences are longer than 0, 1, 2, ..."""
    return (lengths[:, None] > np.arange(lengths.max())).sum(0)


def pack_padded_sequence(
    input: Tensor, lengths: Any, batch_first: bool = False, enforce_sorted: bool = True
) -> PackedSequence:
    """Pack (T, N, ...), or (N, T, ...) with `batch_first`, of which sequence n has `lengths[n]` steps.

    `enforce_sorted` asks for falling lengths; else the sequences are sorted first, and back when they are unpacked.
    """
    counts = _numbers(lengths)
    batch = input.transpose(0, 1) if not batch_first else input
    if counts.size != batch.shape[0]:
        raise RuntimeError(
            f"Expected `len(lengths)` to be equal to batch_size, but got {counts.size} (batch_size={batch.shape[0]})"
        )
    order = None
    if not enforce_sorted:
        order = np.argsort(-counts, kind="stable")
        counts = counts[order]
    if counts.size and (np.diff(counts) > 0).any():
        raise RuntimeError(
            "`lengths` array must be sorted in decreasing order when `enforce_sorted` is True. You can pass "
            "`enforce_sorted=False` to pack_padded_sequence and/or pack_sequence to sidestep this requirement if you "
            "do not need ONNX exportability."
        )
    if (counts <= 0).any():
        raise RuntimeError(
            "Length of all samples has to be greater than 0, but found an element in 'lengths' that is <= 0"
        )
    sizes = _steps(counts)
    rows = np.concatenate([np.arange(n) for n in sizes])
    if order is not None:
        rows = order[rows]
    steps = np.repeat(np.arange(len(sizes)), sizes)
    data = batch[tensor(rows), tensor(steps)]
    return PackedSequence(data, tensor(sizes), None if order is None else tensor(order), None)


def pad_packed_sequence(
    sequence: PackedSequence,
    batch_first: bool = False,
    padding_value: float = 0.0,
    total_length: int | None = None,
) -> tuple[Tensor, Tensor]:
    """(T, N, ...), or (N, T, ...) with `batch_first`, and the lengths; T is `total_length` or the greatest length."""
    sizes = _numbers(sequence.batch_sizes)
    longest = len(sizes)
    if total_length is not None and total_length < longest:
        raise ValueError(
            "Expected total_length to be at least the length of the longest sequence in input, but got "
            f"total_length={total_length} and max sequence length being {longest}"
        )
    count = int(sizes[0])
    lengths = (sizes > np.arange(count)[:, None]).sum(1)
    first = np.concatenate([[0], np.cumsum(sizes)[:-1]])  # row of each step's first sequence
    order = np.arange(count) if sequence.unsorted_indices is None else _numbers(sequence.unsorted_indices)
    length = longest if total_length is None else total_length
    steps = np.arange(length)
    there = steps < lengths[order][:, None]
    places = np.where(there, np.append(first, np.zeros(length - longest, int)) + order[:, None], 0)
    data = sequence.data
    padded = call("index_select", data, 0, tensor(places.reshape(-1))).reshape(count, length, *data.shape[1:])
    mask = tensor(there.reshape(count, length, *(1,) * (data.dim() - 1)))
    padded = call("where", mask, padded, padding_value)
    return (padded if batch_first else padded.transpose(0, 1)), tensor(lengths[order])


def pad_sequence(
    sequences: Any, batch_first: bool = False, padding_value: float = 0.0, padding_side: str = "right"
) -> Tensor:
    """Sequences (T_n, ...) as one tensor (T, N, ...), or (N, T, ...) with `batch_first`, T the greatest length."""
    if not isinstance(sequences, Iterable):
        raise RuntimeError(
            f"pad_sequence: Expected iterable for input sequences, but got arg of type: {type(sequences)}"
        )
    sequences = tuple(sequences)
    if padding_side not in ("left", "right"):
        raise RuntimeError(f"Expected padding_side to be one of left or right, but got {padding_side}.")
    if not sequences:
        raise RuntimeError("received an empty list of sequences")
    longest = max(x.shape[0] for x in sequences)
    padded = []
    for x in sequences:
        missing = longest - x.shape[0]
        if missing:
            rest = x.new_full((missing, *x.shape[1:]), padding_value)
            x = cat((x, rest) if padding_side == "right" else (rest, x))
        padded.append(x)
    return stack(padded, 0 if batch_first else 1)


def unpad_sequence(padded_sequences: Tensor, lengths: Tensor, batch_first: bool = False) -> list[Tensor]:
    """The sequences that `pad_sequence` padded on the right."""
    rows = call("unbind", padded_sequences, 0 if batch_first else 1)
    return [row[:length] for row, length in zip(rows, _numbers(lengths).tolist(), strict=True)]


def pack_sequence(sequences: list[Tensor], enforce_sorted: bool = True) -> PackedSequence:
    """Pack sequences (T_n, ...)."""
    lengths = [x.shape[0] for x in sequences]
    return pack_padded_sequence(pad_sequence(sequences), lengths, enforce_sorted=enforce_sorted)


def unpack_sequence(packed_sequences: PackedSequence) -> list[Tensor]:
    """The sequences that `pack_sequence` packed."""
    padded, lengths = pad_packed_sequence(packed_sequences, batch_first=True)
    return unpad_sequence(padded, lengths, batch_first=True)
