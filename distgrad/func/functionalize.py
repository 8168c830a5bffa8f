"""`functionalize`: programs without changes in place. Here no program has any."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

__all__ = ["functionalize"]

WAYS = ("mutations", "mutations_and_views")


def functionalize(func: Callable[..., Any], *, remove: str = "mutations") -> Callable[..., Any]:
    """A function with the results of `func`, as `torch.func.functionalize`.

    What an op writes in place is a new value, here as everywhere: workers and plans see none but those. So there is
    nothing to take out, and arguments that `func` changes are changed, as with torch.

    Args:
        func: takes and gives tensors.
        remove: "mutations", or "mutations_and_views": views are values of their own too.
    """
    if remove not in WAYS:
        raise RuntimeError(
            f"functionalize(f, remove='mutations'): received invalid argument for remove={remove}. Valid options are:\n"
            "     remove='mutations': all inplace and out= operators will be removed from the program, and replaced "
            "with their out-of-place equivalents.\n"
            "     remove='mutations_and_views': In addition to the above, all aliasing operators {view} will be "
            "replaced with their non-aliasing counterparts, {view}_copy.\n"
        )

    @functools.wraps(func)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return func(*args, **kwargs)

    return wrapped
