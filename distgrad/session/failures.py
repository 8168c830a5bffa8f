"""What went wrong on a worker, as one exception that names the op and the user's own line."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

from distgrad.callsites import Origin
from distgrad.errors import LinAlgError, WorkerError
from distgrad.exchange import Failure

E = TypeVar("E", bound=BaseException)

# From an op to how torch words what its kernel says: type and text to type and text.
WORDED: dict[str, Callable[[str, str], tuple[str, str]]] = {}


def worker_error(
    failure: Failure, origin: Origin | None, member: Callable[[], str] | None = None
) -> WorkerError:
    """The exception for a failure; it is also of the type that the kernel raised, such as IndexError.

    Where that depends on the machine, as with files, `member` says which worker it was, and where.
    """
    kind_name, message = failure.kind, failure.message
    if origin is not None and origin.op in WORDED:
        kind_name, message = WORDED[origin.op](kind_name, message)
    builtin = _KINDS.get(kind_name)
    where = f" in {origin}" if origin is not None else ""
    if member is not None and builtin is not None and issubclass(builtin, OSError):
        where += f", on {member()}"
    kind = WorkerError if builtin is None else _error_type(builtin)
    prefix = "" if builtin is not None else f"{kind_name}: "
    return kind(f"{prefix}{message}{where}")


def fresh(error: E) -> E:
    """The error, to be raised: a copy, since the traceback of one that is kept would keep the user's tensors alive."""
    return copy.copy(error)


_KINDS: dict[str, type[Exception]] = {
    e.__name__: e
    for e in (
        *(IndexError, ValueError, ZeroDivisionError, MemoryError, TypeError, OSError, FileNotFoundError),
        *(PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError, LinAlgError),
    )
}
_error_types: dict[type[Exception], type[WorkerError]] = {}


def _error_type(builtin: type[Exception]) -> type[WorkerError]:
    """A WorkerError that is also caught as the builtin error that happened."""
    if builtin not in _error_types:
        _error_types[builtin] = type(
            f"Worker{builtin.__name__}", (WorkerError, builtin), {"__module__": "distgrad.errors"}
        )
    return _error_types[builtin]
