"""Writing in place: the checks, the new value in the storage, and the new history."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distgrad import session
from distgrad.dtype import castable
from distgrad.graph import Place, Value
from distgrad.ops.helpers import cast, title
from distgrad.ops.moves import Path
from distgrad.ops.node import Like, OpNode
from distgrad.ops.table import call
from distgrad.record import AsStridedBackward0, Edge, Node, grad_mode, retain
from distgrad.tensor import Tensor

LEAF = "a leaf Variable that requires grad is being used in an in-place operation."
VIEW_OF_LEAF = "a view of a leaf Variable that requires grad is being used in an in-place operation."
OVERLAP = (
    "unsupported operation: more than one element of the written-to tensor refers to a single "
    "memory location. "
    "Please clone() the tensor before performing the operation."
)
NO_GRAD_VIEW = (
    "A view was created in no_grad mode and is being modified inplace with grad mode enabled. "
    "Given that this use case is "
    "ambiguous and error-prone, it is forbidden. You can clarify your code by moving both the "
    "view and the inplace either "
    "both inside the no_grad block (if you don't want the inplace to be tracked) or both "
    "outside (if you want the inplace "
    "to be tracked)."
)


def multi_view(op: str) -> str:
    """The error for a view that came together with others from `op`."""
    return (
        f"Output 0 of {op} is a view and is being modified inplace. This view is the output of a "
        "function that returns "
        "multiple views. Such functions do not allow the output views to be modified inplace. "
        "You should replace the "
        "inplace operation by an out-of-place one."
    )


class CopySlices(Node):
    """History of a tensor of which a view was changed in place by the op of node `inner`.

    The gradient of the changed elements goes through `inner`, that of all others straight to the tensor before.
    """

    __slots__ = ("first", "inner", "path")

    def __init__(self, base: Edge, inner: OpNode, path: Path):
        self.inner = inner
        self.path = path  # from the tensor to the view
        self.first = int(
            inner.kind.formulas[0].place == 0
        )  # whether inner's first edge is the view before the change
        super().__init__((base, *inner.next_functions[self.first :]))

    def apply(self, grads: list[Any], wanted: Sequence[bool] | None) -> Sequence[Any]:
        """Split the gradient, run `inner`, and put the parts together."""
        if wanted is None:
            wanted = [node is not None for node, _ in self.next_functions]
        whole, path = grads[0], self.path
        g = call("_follow", whole, path.narrow())
        if path.repeated:  # what was written is read where it stands first
            g = call("slice_pad", g, path.first, self.inner.likes[0].sharding)
        results = list(self.inner.apply([g], wanted if self.first else wanted[1:]))
        before = results.pop(0) if self.first else None
        if not wanted[0]:
            return [None, *results]
        if before is None:
            before = Like(g.shape, g._avals.dtype, g.sharding).zeros()
        if path.repeated:
            before = call("sum", before, path.repeated, True)
        return [call("_put_along", whole, before, path.narrow()), *results]

    def release(self) -> None:
        """Drop what `inner` saved."""
        self.inner.release()


def check(tensor: Tensor) -> None:
    """Raise where torch does not let a tensor be changed in place."""
    view = tensor._view
    if grad_mode.enabled:
        requires_grad = tensor.requires_grad
        if view is None or view.base is None:
            if requires_grad and tensor._node is None:
                raise RuntimeError(LEAF)
        elif requires_grad or view.base.requires_grad:
            check_view(tensor)
            if view.base._node is None:
                raise RuntimeError(VIEW_OF_LEAF if view.base._requires_grad else LEAF)
    if view is not None and view.layout.overlaps:
        raise RuntimeError(OVERLAP)


def check_view(tensor: Tensor) -> None:
    """Raise where the history of a changed view could not be told."""
    creation = tensor._view.creation if tensor._view is not None else None
    if creation is not None:
        raise RuntimeError(NO_GRAD_VIEW if creation == "no_grad" else multi_view(creation))


def suits(tensor: Tensor, value: Value) -> Value:
    """The result of an in-place op with the tensor's dtype; torch's errors where dtype or shape do not fit."""
    target = tensor._avals
    if value.dtype != target.dtype:
        if not castable(value.dtype, target.dtype):
            raise RuntimeError(
                f"result type {title(value.dtype)} can't be cast to the desired output type "
                f"{title(target.dtype)}"
            )
        value = cast(value, target.dtype)
    if value.shape != target.shape:
        raise RuntimeError(
            f"output with shape {list(target.shape)} doesn't match the broadcast shape {list(value.shape)}"
        )
    return value


def write(tensor: Tensor, value: Value, where: Place) -> Value:
    """Put a value of the right shape and dtype into the tensor's storage; the storage keeps its sharding."""
    target = tensor._avals
    if value.sharding is not target.sharding and value.sharding != target.sharding:
        value = session.emit("reshard", value, cuts=target.sharding)
    if tensor._view is None:
        tensor._storage.replace(value)
    else:
        tensor._view.write(tensor._storage, value)
    tensor._counter.number += 1
    tensor._counter.changed = where
    return value


def rebase(tensor: Tensor, node: OpNode) -> None:
    """Make `node` the history of a tensor that was changed in place."""
    view = tensor._view
    if view is None or view.base is None:
        _move(tensor, node)
    else:
        base = view.base
        changed: Node = CopySlices(base._edge, node, view.chain.found.route)
        if base._view is not None and base._view.layout.overlaps:
            changed = AsStridedBackward0((changed, 0), base._view.chain.found.path.again(), base.sharding)
        _move(base, changed)


def _move(tensor: Tensor, node: Node) -> None:
    before = tensor._node
    if before is not None and before.retained is not None and tensor.retains_grad:
        del before.retained[tensor._output]
        retain(node, 0, tensor)
    tensor._node, tensor._output, tensor._requires_grad = node, 0, True
