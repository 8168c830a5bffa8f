"""The safetensors format: eight bytes for the length of a JSON header, the header, then the elements.

The header says of each tensor dtype, shape and where it lies behind the header; under `__metadata__` it has texts. See
https://github.com/huggingface/safetensors for the format, of which other libraries read and write the files.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from distgrad.dtype import BOOL, FLOAT32, FLOAT64, INT32, INT64
from distgrad.graph import Value

TAGS = {BOOL: "BOOL", INT32: "I32", INT64: "I64", FLOAT32: "F32", FLOAT64: "F64"}
DTYPES = {tag: dtype for dtype, tag in TAGS.items()}
LENGTH = struct.Struct("<Q")
LONGEST_HEADER = 100_000_000  # as in the format's own library
METADATA = "__metadata__"
MANY_DIMENSIONS = 64  # NumPy has no more


class Entry(NamedTuple):
    """Where a tensor lies in the file."""

    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int


def header(tensors: Mapping[str, Value], metadata: Mapping[str, str]) -> tuple[bytes, list[str]]:
    """The bytes before the elements, and the tensors' names in the order in which their elements follow.

    The widest elements come first, so that all of them are aligned.
    """
    order = sorted(tensors, key=lambda name: -tensors[name].dtype.itemsize)
    entries: dict[str, Any] = {METADATA: dict(metadata)} if metadata else {}
    end = 0
    for name in order:
        value = tensors[name]
        start, end = end, end + value.result.aval.nbytes
        entries[name] = {
            "dtype": TAGS[value.dtype],
            "shape": list(value.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > LONGEST_HEADER:
        raise ValueError(f"a header of {len(text):,} bytes is longer than the format allows")
    return LENGTH.pack(len(text)) + text, order


def read_header(file: BinaryIO, size: int, name: str) -> tuple[dict[str, Entry], dict[str, str]]:
    """The tensors and the texts of a file of `size` bytes, all of it checked.

    Raises ValueError, which names the file as `name`, where it is damaged or of another kind, and TypeError for
    elements that no tensor here can have.
    """
    start = file.read(LENGTH.size)
    _refuse_others(start, name)
    if len(start) < LENGTH.size:
        raise ValueError(
            f"{name} is cut short: it has {size} bytes, and no file of tensors has fewer than 10"
        )
    (length,) = LENGTH.unpack(start)
    if length > min(LONGEST_HEADER, size - LENGTH.size):
        raise ValueError(
            f"{name} is cut short, or no file of tensors: its header should have {length:,} bytes"
        )
    text = file.read(length)
    try:
        entries = json.loads(text.decode(), object_pairs_hook=_unique)
        if type(entries) is not dict:
            raise ValueError("it is no JSON object")
        metadata = entries.pop(METADATA, {})
        if type(metadata) is not dict or not all(type(text) is str for text in metadata.values()):
            raise ValueError(f"{METADATA} holds other things than texts")
        found = {key: _entry(key, entry, LENGTH.size + length) for key, entry in entries.items()}
        _check_cover(found, LENGTH.size + length, size)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} has a damaged header: {error}") from None
    except _UnknownType as error:
        raise TypeError(f"{name} holds {error}") from None
    return found, metadata


class _UnknownType(Exception):
    """Elements of a type that is not supported."""


def _refuse_others(start: bytes, name: str) -> None:
    if start[:2] in (b"PK", b"\x80\x02", b"\x80\x04"):
        raise ValueError(
            f"{name} is a pickle, such as PyTorch's torch.save writes it. distgrad never runs one: in torch, write the "
            "tensors with safetensors.torch.save_file(state_dict, path), and load that"
        )
    if start[:6] == b"\x93NUMPY":
        raise ValueError(f"{name} is a .npy file: read it with from_npy")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands in it twice")
    return found


def _entry(key: str, entry: Any, base: int) -> Entry:
    if type(entry) is not dict or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{key!r} is not described by dtype, shape and data_offsets")
    tag, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    for numbers in (shape, offsets):
        if type(numbers) is not list or not all(type(n) is int and 0 <= n < 2**63 for n in numbers):
            raise ValueError(f"{key!r} has a size or an offset that is none")
    if type(tag) is not str or len(offsets) != 2 or len(shape) > MANY_DIMENSIONS:
        raise ValueError(f"{key!r} is described by other things than it should be")
    if tag not in DTYPES:
        raise _UnknownType(
            f"elements of type {tag} ({key!r}). The supported types are {', '.join(DTYPES)}: convert them before they "
            "are saved"
        )
    nbytes = math.prod(shape) * DTYPES[tag].itemsize
    if offsets[1] - offsets[0] != nbytes:
        raise ValueError(f"{key!r} of {nbytes:,} bytes lies in {offsets[1] - offsets[0]:,}")
    return Entry(DTYPES[tag], tuple(shape), base + offsets[0])


def _check_cover(entries: Mapping[str, Entry], base: int, size: int) -> None:
    """The tensors must lie one behind the other, from the header to the end of the file."""
    end = base
    for entry in sorted(entries.values(), key=lambda e: (e.offset, math.prod(e.shape))):
        if entry.offset != end:
            raise ValueError("the tensors do not lie one behind the other")
        end += math.prod(entry.shape) * entry.dtype.itemsize
    if end != size:
        raise ValueError(f"the file has {size:,} bytes, and the header promises {end:,}")
