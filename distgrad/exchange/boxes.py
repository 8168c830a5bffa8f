"""What a worker answers and puts into its box, and how whoever receives that reads it.

The reply and the channel "small" are msgpack. In "large" and "each" arrays stay objects: who reads them checks them.
"""

from __future__ import annotations

from typing import Any

import msgpack

from distgrad.errors import WireError
from distgrad.exchange.base import Failure
from distgrad.fields import pack_array, read_list, unpack_array


def pack_small(item: Any) -> Any:
    """Arrays, or the Failure in their place, as the reply carries them."""
    return item.wire() if isinstance(item, Failure) else [pack_array(array) for array in item]


def pack_large(item: Any) -> Any:
    """The same for the channels where arrays are objects."""
    return item.wire() if isinstance(item, Failure) else item


def unpack_small(reply: bytes) -> list[Any]:
    """The arrays (or the Failure) of each send in the channel "small". Raises WireError."""
    try:
        items = msgpack.unpackb(reply, raw=False)["small"]
    except Exception as error:
        raise WireError(f"reply: damaged: {str(error) or type(error).__name__}") from None
    items = [read_list(item, "reply") for item in read_list(items, "reply")]
    return [_failure(item) or [unpack_array(a) for a in item] for item in items]


def unpack_large(items: list[Any]) -> list[Any]:
    """The same for the channels "large" and "each"."""
    items = [read_list(item, "box") for item in read_list(items, "box")]
    return [_failure(item) or item for item in items]


def _failure(item: list[Any]) -> Failure | None:
    return Failure(*item) if [type(part) for part in item] == [str, str, int, int] else None
