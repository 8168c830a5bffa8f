"""What registering a hook gives back."""

from __future__ import annotations

import itertools
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any


class RemovableHandle:
    """Takes a hook out again: `handle.remove()`, or at the end of `with handle:`.

    Hooks stand in a dictionary (an OrderedDict, so that it can be known weakly) under the handle's `id`; what is said
    of a hook beside it stands in `extra_dict`, one dictionary or several, under the same number.
    """

    _numbers = itertools.count()

    def __init__(self, hooks_dict: Any, *, extra_dict: Any = None):
        self.id = next(RemovableHandle._numbers)
        more: Sequence[Any] = extra_dict if isinstance(extra_dict, list) else [extra_dict]
        self._dicts = [weakref.ref(d) for d in (hooks_dict, *more) if d is not None]

    def remove(self) -> None:
        """Take the hook out; nothing happens if it is out already."""
        for reference in self._dicts:
            hooks = reference()
            if hooks is not None:
                hooks.pop(self.id, None)

    def __getstate__(self) -> tuple[Any, ...]:
        return self.id, [reference() for reference in self._dicts]

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.id, dicts = state
        self._kept = [OrderedDict() if d is None else d for d in dicts]
        self._dicts = [weakref.ref(d) for d in self._kept]

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *exc: Any) -> None:
        self.remove()
