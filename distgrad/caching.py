"""What was worked out once and may be asked for again, kept up to a number of bytes."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
Function = TypeVar("Function", bound=Callable[..., Any])

_shared: weakref.WeakSet[Cache[Any, Any]] = weakref.WeakSet()


class Cache(dict[K, V], Generic[K, V]):
    """A dict of at most `limit` bytes, as `weigh(key, value)` counts them: what was not used the longest goes first.

    Entries are in two generations. The dict itself is the recent one, so `get` costs what a dict's does, and keeps no
    book; when that has half of the bytes, it becomes the older one, and what was that is dropped. What `get` does not
    find is looked for among the older by `again`, which makes it recent. What is `shared` counts in `shared_bytes`.
    """

    __slots__ = ("__weakref__", "_older", "_older_bytes", "_recent_bytes", "limit", "weigh")

    def __init__(self, limit: int, weigh: Callable[[K, V], int], shared: bool = False):
        super().__init__()
        self.limit = limit
        self.weigh = weigh
        self._older: dict[K, V] = {}
        self._older_bytes = self._recent_bytes = 0
        if shared:
            _shared.add(self)

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other

    @property
    def nbytes(self) -> int:
        """Bytes of all entries."""
        return self._recent_bytes + self._older_bytes

    def again(self, key: K) -> V | None:
        """An older entry, which is recent from now on."""
        value = self._older.pop(key, None)
        if value is not None:
            self._older_bytes -= self.weigh(key, value)
            self.keep(key, value)
        return value

    def keep(self, key: K, value: V) -> V:
        """Remember a value, and return it."""
        size = self.weigh(key, value)
        if self._recent_bytes + size > self.limit // 2 and self:
            self._older, self._older_bytes = dict(self), self._recent_bytes
            super().clear()
            self._recent_bytes = 0
        self[key] = value
        self.grew(size)
        return value

    def grew(self, nbytes: int) -> None:
        """A recent entry has become larger."""
        self._recent_bytes += nbytes
        if self.nbytes > self.limit:
            self._older, self._older_bytes = {}, 0

    def clear(self) -> None:
        """Forget everything."""
        super().clear()
        self._older = {}
        self._older_bytes = self._recent_bytes = 0


def remembered(limit: int, weigh: Callable[[Any, Any], int]) -> Callable[[Function], Function]:
    """A function whose results are kept, up to a number of bytes; `weigh` is given its arguments and a result."""

    def decorate(function: Function) -> Function:
        cache: Cache[Any, Any] = Cache(limit, weigh, shared=True)

        @functools.wraps(function)
        def call(*args: Any) -> Any:
            found = cache.get(args)
            if found is None:
                found = cache.again(args)
                if found is None:
                    found = cache.keep(args, function(*args))
            return found

        call.cache = cache  # type: ignore[attr-defined]
        return call  # type: ignore[return-value]

    return decorate


def shared_bytes() -> int:
    """Bytes of what this process remembers for all sessions."""
    return sum(cache.nbytes for cache in list(_shared))
