"""Writing in place: the checks, the new value in the storage, and the new history."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from distgrad import session
from distgrad.dtype import castable
from distgrad.graph import Place, Value
from distgrad.ops.helpers import cast, title
from distgrad.ops.kind import Kind
from distgrad.ops.moves import Path
from distgrad.ops.node import Like, OpNode
from distgrad.ops.table import call
from distgrad.record import AsStridedBackward0, Edge, Node, grad_mode, retain, title_of
from distgrad.tensor import Tensor

LEAF = "a leaf Variable that requires grad is being used in an in-place operation."
VIEW_OF_LEAF = "a view of a leaf Variable that requires grad is being used in an in-place operation."
OVERLAP = (
    "unsupported operation: more than one element of the written-to tensor refers to a single "
    "memory location. "
    "Please clone() the tensor before performing the operation."
)
PARTIAL = (
    "unsupported operation: some elements of the input tensor and the written-to tensor refer to a single memory "
    "location. Please clone() the tensor before performing the operation."
)
READ_FIRST = {
    "fill",
    "masked_fill",
    "masked_scatter",
    "index_copy",
    "index_add",
}  # in torch, before anything is written
NO_GRAD_VIEW = (
    "created in no_grad mode and is being modified inplace with grad mode enabled. "
    "Given that this use case is "
    "ambiguous and error-prone, it is forbidden. You can clarify your code by moving both the "
    "view and the inplace either "
    "both inside the no_grad block (if you don't want the inplace to be tracked) or both "
    "outside (if you want the inplace "
    "to be tracked)."
)


def _output_of(tensor: Tensor) -> str | None:
    node = tensor._node
    return None if node is None else f"Output {tensor._output} of {title_of(node)} is a view"


def no_grad_view(tensor: Tensor) -> str:
    """The error for a view that was made while nothing was recorded, or for a view of that."""
    output = _output_of(tensor)
    return f"A view was {NO_GRAD_VIEW}" if output is None else f"{output} of a view which was {NO_GRAD_VIEW}"


def multi_view(tensor: Tensor, op: str) -> str:
    """The error for a view that came together with others from `op`, or for a view of that."""
    output = _output_of(tensor) or f"Output 0 of {op} is a view"
    return (
        f"{output} and is being modified inplace. This view is the output of a function that returns multiple views. "
        "Such functions do not allow the output views to be modified inplace. You should replace the inplace operation "
        "by an out-of-place one."
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


def alike(tensor: Tensor, kind: Kind, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments of an op that is to write into a view whose elements overlap; torch's error if it may not.

    They are such that it writes the same wherever an element is seen.
    """
    others = None if kind.alike is None else kind.alike(tensor, *args[1:])
    if others is None:
        raise RuntimeError(OVERLAP)
    return (tensor, *others)


def warn_expanded(name: str) -> None:
    """torch's warning."""
    warnings.warn(
        f"Use of {name} on expanded tensors is deprecated. Please clone() the tensor before performing this operation. "
        "This also applies to advanced indexing e.g. tensor[mask] = scalar",
        stacklevel=5,
    )


def check_operands(tensor: Tensor, kind: Kind, args: tuple[Any, ...]) -> None:
    """Raise where an operand is another part of the tensor's own storage, some of which is to be written."""
    for i, _ in kind.slots:
        item = args[i]
        if (
            isinstance(item, Tensor)
            and item._storage is tensor._storage
            and item is not tensor
            and kind.name not in READ_FIRST
            and tensor._layout.meets(item._layout)
        ):
            raise RuntimeError(PARTIAL)


def check_view(tensor: Tensor) -> None:
    """Raise where the history of a changed view could not be told."""
    creation = tensor._view.creation if tensor._view is not None else None
    if creation is not None:
        raise RuntimeError(no_grad_view(tensor) if creation == "no_grad" else multi_view(tensor, creation))


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
