"""Handles of hooks."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import MutableMapping
from typing import Any

_numbers = itertools.count()


class RemovableHandle:
    """What registering a hook gives: `remove()` takes the hook away; leaving a `with` block does too."""

    def __init__(self, hooks_dict: MutableMapping[int, Any]):
        self.hooks_dict_ref = weakref.ref(hooks_dict)
        self.id = next(_numbers)

    def remove(self) -> None:
        """Take the hook away."""
        hooks = self.hooks_dict_ref()
        if hooks is not None:
            hooks.pop(self.id, None)

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()
