"""What of a machine decides on the last bits of its results."""

from __future__ import annotations

import platform
from functools import lru_cache

import numpy as np

from distgrad.primitives import blas


@lru_cache(maxsize=1)
def processor() -> str:
    """The kind of this machine's processor, as far as results depend on it: equal kinds give equal bits.

    BLAS and NumPy choose their loops by what the processor can do, and the C library its functions.
    """
    cores = [found for lib in blas.libraries() if (found := getattr(lib, "architecture", None))]
    simd = np.show_config(mode="dicts").get("SIMD Extensions", {}).get("found", [])
    parts = [platform.machine()]
    parts += [f"BLAS for {cores[0]}"] if cores else []
    parts += [f"NumPy with {' '.join(simd)}"] if simd else []
    return ", ".join([*parts, *filter(None, [" ".join(platform.libc_ver()).strip()])])


def own_process() -> None:
    """This process is a worker's alone: it need not spare anybody else's products."""
    blas.ONE_THREAD.settle()


def kinds(processors: list[str]) -> dict[str, list[int]]:
    """The workers of each kind of processor, from that of each worker."""
    found: dict[str, list[int]] = {}
    for worker, kind in enumerate(processors):
        found.setdefault(kind, []).append(worker)
    return found
