"""What a workload is: sizes, data, and a method for each way to write it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

Arrays = tuple[np.ndarray, ...]
Step = Callable[[], list[Any]]

RATE = 0.1  # learning rate, wherever one is needed


class Workload:
    """Base of all. A method prepares one peer and returns its step: a function that runs to the end and gives results.

    `eager` serves distgrad and torch, which run the same lines; `jax`, `dask` and `autograd` are there where those can
    do it. Each takes its library (libraries.py). All results of a step, loss first, must agree among the peers.
    """

    name: ClassVar[str]
    what: ClassVar[str]
    peers: ClassVar[tuple[str, ...]] = ()  # if others than those that have a method
    goal: ClassVar[float] = 0.0  # best peer's time over distgrad's; 0: none
    against: ClassVar[tuple[str, ...]] = ()  # the peers that the goal is about, if not all
    share_goal: ClassVar[float] = 0.0  # limit's time over distgrad's
    scaling_goal: ClassVar[float] = 0.0  # time of one worker over that of two; 0: it does not run
    only_reads: ClassVar[bool] = False  # then the limit is to read the bytes, else to copy as many
    # torch.compile, for that peer, around the function of the loss; None: it cannot do that
    compiled: Callable[[Any], Any] | None = staticmethod(lambda function: function)
    rtol: ClassVar[float] = 1e-3
    repeats: ClassVar[int] = 1  # in one step, whose time is divided by it
    threads: ClassVar[int] = 2
    clock: ClassVar[str] = "seconds"  # or "cpu": the process's own processor time
    init: ClassVar[dict[str, Any] | None] = {
        "workers": 2
    }  # of distgrad; None: what is small needs no workers
    small: ClassVar[dict[str, int]] = {}  # sizes for a quick run

    def shrink(self) -> None:
        """Take the sizes of a quick run."""
        for name, size in self.small.items():
            setattr(self, name, size)

    def arrays(self) -> Arrays:
        """The data, the same for all peers."""
        return ()

    def bytes_needed(self) -> int:
        """What any implementation must read and write at least; 0: no limit is shown."""
        return 0

    def flops_needed(self) -> int:
        """Floating-point operations of any implementation; if not 0, they are the limit, not the bytes."""
        return 0

    def eager(self, torch: Any) -> Step:
        """In distgrad and in torch."""
        raise NotImplementedError

    @staticmethod
    def by_hand(*arrays: Any) -> list[Any]:
        """Loss and gradients in NumPy, summed over rows: what Dask does with each block of them."""
        raise NotImplementedError

    def reference(self) -> list[Any]:
        """The results of the first step, in NumPy."""
        return self.by_hand(*self.arrays())


def normal(rng: np.random.Generator, *shape: int, scale: float = 1.0) -> np.ndarray:
    """Normally distributed float32."""
    array = rng.standard_normal(shape, np.float32)
    array *= np.float32(scale)
    return array
