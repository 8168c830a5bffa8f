"""`memory_budget`: a block whose work keeps to so many bytes on each worker."""

from __future__ import annotations

from distgrad.arguments import nbytes
from distgrad.session import door
from distgrad.session.budget import budgets


class memory_budget:
    """In this block backward makes values again instead of keeping them, where a worker would hold more than this.

    What costs least for each byte is made again first, products by BLAS last, and nothing while there is room. The
    results have the same bits. `explain` tells what is made again, how many bytes that saves, how many operations it
    adds, and whether the budget can be kept to; it is no limit, and work that needs more runs all the same, after a
    warning. Where that is an error, the work waits, and whoever asks for its results gets the error.

    Args:
        size: the most bytes that one worker should hold, as a number or a text such as "2GiB" or "500MB".
    """

    def __init__(self, size: int | str):
        self.nbytes = nbytes("memory_budget()", size)

    def __enter__(self) -> memory_budget:
        budgets.stack.append(self.nbytes)
        return self

    def __exit__(self, *exc: object) -> None:
        budgets.stack.pop()
        if not budgets.stack and door.is_initialized() and door.current().pending:
            door.current().left_budget = self.nbytes
