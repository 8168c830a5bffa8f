"""The errors that distgrad raises itself; where torch has a type of its own for a case, that type is used."""

from __future__ import annotations


class DistgradError(RuntimeError):
    """Something in the runtime went wrong: the base of the errors below."""


class WireError(DistgradError, ValueError):
    """A program is not well formed. The text names what is wrong; nothing of the program has run."""


class WorkerError(DistgradError):
    """An operation failed on a worker. The text names the op and the user's file and line."""


class WorkerLostError(DistgradError):
    """A worker process ended, or did not answer in time."""


class OutOfMemoryError(DistgradError, MemoryError):
    """The pending work needs more bytes than the workers have. Raised before anything is sent."""


class ConnectError(DistgradError, ConnectionError):
    """No Ray cluster answered at the address given to `init`."""


class LinAlgError(RuntimeError):
    """A matrix that an algorithm cannot take: singular, or not positive definite."""
