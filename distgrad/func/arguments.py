"""Which arguments of a function are differentiated: `argnums`, with torch's checks."""

from __future__ import annotations

from typing import Any

Argnums = int | tuple[int, ...]


def _index(argnum: Any, count: int) -> int:
    if not isinstance(argnum, int):
        raise RuntimeError(f"argnum must be int, got: {type(argnum)}")
    if not -count <= argnum < count:
        raise RuntimeError(f"Got argnum={argnum}, but only {count} positional inputs")
    return argnum % count


def checked(argnums: Any, count: int) -> Argnums:
    """`argnums` counted from the front."""
    if isinstance(argnums, int):
        return _index(argnums, count)
    if not isinstance(argnums, tuple):
        raise RuntimeError(f"argnums must be int or Tuple[int, ...], got: {type(argnums)}")
    found = tuple(_index(n, count) for n in argnums)
    if not found:
        raise RuntimeError("argnums must be non-empty")
    if len(set(found)) != len(found):
        raise RuntimeError(f"argnums elements must be unique, got {found}")
    return found


def chosen(args: tuple[Any, ...], argnums: Argnums) -> Any:
    """The argument, or a tuple of those, that `argnums` names."""
    return args[argnums] if isinstance(argnums, int) else tuple(args[n] for n in argnums)


def replaced(args: tuple[Any, ...], argnums: Argnums, new: Any) -> tuple[Any, ...]:
    """`args` with `new` in the places that `argnums` names."""
    made = list(args)
    if isinstance(argnums, int):
        made[argnums] = new
    else:
        for n, item in zip(argnums, new, strict=True):
            made[n] = item
    return tuple(made)
