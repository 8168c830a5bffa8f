"""Matrix products with one BLAS thread: with several, BLAS cuts a product by their number, and rounds otherwise.

The bits of a tensor must follow from the program alone, so every product whose result can reach one goes through
`matmul`. The number of threads belongs to the whole process, and the user's own products get theirs back.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import ThreadpoolController

SMALL = 2048  # multiplications up to which no BLAS takes a second thread (OpenBLAS from 2304 on, in `gemv`)


class _Threads(NamedTuple):
    """How to ask for and set the threads of a library."""

    get: Callable[[], int]
    put: Callable[[int], Any]


class _OneThread:
    """While anybody is inside, BLAS has one thread: 0.8 µs. Several threads of a program may be inside at once."""

    def __init__(self) -> None:
        self.settled = False  # for good: then there is nothing to do
        self._lock = threading.Lock()
        self._found = False
        self._shared: list[_Threads] = []  # libraries whose number is that of the process
        self._own: list[
            _Threads
        ] = []  # those where every thread of the program has a number of its own (OpenMP)
        self._inside = 0
        self._before: list[int] = []  # of each shared library, while nobody is inside
        self._local = threading.local()  # the same for each other one, in this thread

    def __enter__(self) -> None:
        with self._lock:
            if not self._found:
                self._find()
            self._inside += 1
            if self._inside == 1:
                self._before = _put(self._shared, [1] * len(self._shared))
        if self._own:
            self._local.before = _put(self._own, [1] * len(self._own))

    def __exit__(self, *exc: object) -> None:
        if self._own:
            _put(self._own, self._local.before)
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                _put(self._shared, self._before)

    def _find(self) -> None:
        for library in libraries():
            own = getattr(library, "threading_layer", "") == "openmp"
            (self._own if own else self._shared).append(_threads(library))
        self._found = True

    def settle(self) -> None:
        """One thread from now on: this process is distgrad's own."""
        self.__enter__()
        self.settled = not self._own

    def forked(self) -> None:
        """In a child: its parent's threads, of which one may have been inside, are not here."""
        self._lock = threading.Lock()
        if self._inside and not self.settled:
            self._inside = 0
            _put(self._shared, self._before)


def libraries() -> list[Any]:
    """The BLAS libraries of this process, as threadpoolctl sees them; NumPy's is among them, unless it is Apple's."""
    return ThreadpoolController().select(user_api="blas").lib_controllers


def _threads(library: Any) -> _Threads:
    """threadpoolctl lets only one thread of a program set those of OpenBLAS, and ignores the others without a word."""
    if library.internal_api == "openblas" and library.threading_layer != "openmp":
        for prefix, suffix in itertools.product(("", "scipy_"), ("", "64_", "_64")):
            get = getattr(library.dynlib, f"{prefix}openblas_get_num_threads{suffix}", None)
            if get is not None:
                return _Threads(get, getattr(library.dynlib, f"{prefix}openblas_set_num_threads{suffix}"))
    return _Threads(library.get_num_threads, library.set_num_threads)


def _put(libraries: Sequence[_Threads], wanted: Sequence[int]) -> list[int]:
    """Set the threads of libraries; what they were before."""
    before = []
    for library, n in zip(libraries, wanted, strict=True):
        before.append(library.get())
        if before[-1] != n:
            library.put(n)
    return before


ONE_THREAD = _OneThread()
os.register_at_fork(after_in_child=ONE_THREAD.forked)


def matmul(a: np.ndarray, b: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """`np.matmul`, with the same bits whatever number of threads BLAS may take."""
    columns = b.shape[-1] if b.ndim > 1 else 1
    if ONE_THREAD.settled or a.size * columns <= SMALL or a.dtype.kind != "f":
        return np.matmul(a, b, out=out)
    with ONE_THREAD:
        return np.matmul(a, b, out=out)
