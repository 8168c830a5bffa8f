"""One switch for checks that users do not pay for: the tests have them on, `DISTGRAD_CHECKS=1`, in workers too.

They look at what the code promises itself: plans after each pass (`plan/verify.py`), and that a kernel gives what its
primitive declares.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

ENABLED = os.environ.get("DISTGRAD_CHECKS", "") not in ("", "0")


class CheckError(AssertionError):
    """Something in distgrad is not what it says."""


def check_results(
    name: str, made: Sequence[np.ndarray], shapes: Sequence[tuple[int, ...]], dtypes: Sequence[np.dtype]
) -> None:
    """Raise CheckError unless a kernel's results have the shapes and dtypes that its primitive declares."""
    for array, shape, dtype in zip(made, shapes, dtypes, strict=True):
        if array.shape != tuple(shape) or array.dtype != dtype:
            found = f"{array.dtype}{list(array.shape)}, declared {dtype}{list(shape)}"
            raise CheckError(f"the kernel of {name} gives {found}")
