"""Writing in place: the checks, the new value in the storage, and the new history."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from distgrad import session, vmaps
from distgrad.callsites import CallSite, call_site
from distgrad.dtype import BOOL, castable
from distgrad.graph import Value
from distgrad.ops.declaration import Op
from distgrad.ops.helpers import cast, constant, title
from distgrad.ops.move_path import Path
from distgrad.ops.node import Like
from distgrad.ops.table import call
from distgrad.record import AsStridedBackward0, BackwardNode, Edge, grad_mode, retain
from distgrad.session import batching
from distgrad.sharding import Sharding
from distgrad.storage import Untracked
from distgrad.tensor import Tensor
from distgrad.viewing import view_refused

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
    "index_fill",
    "masked_fill",
    "masked_scatter",
    "index_copy",
    "index_add",
}  # in torch, before anything is written
# What changes nothing a second time: so it does not matter how often an element is seen.
ONCE = {
    "abs",
    "ceil",
    "clamp",
    "clamp_max",
    "clamp_min",
    "floor",
    "frac",
    "nan_to_num",
    "relu",
    "round",
    "sgn",
    "sign",
    "trunc",
}
INFERENCE = (
    "Inplace update to inference tensor outside InferenceMode is not allowed.You can make a clone to get a normal "
    "tensor before doing inplace update.See https://github.com/pytorch/rfcs/pull/17 for more details."
)


class CopySlices(BackwardNode):
    """History of a tensor of which a view was changed in place by the op of node `inner`.

    The gradient of the changed elements goes through `inner`, that of all others straight to the tensor before.
    `place` says which of inner's edges leads to the view before the change, if one does.
    """

    __slots__ = ("cuts", "inner", "path", "place")

    def __init__(self, base: Edge, inner: BackwardNode, path: Path, place: int | None, cuts: Sharding):
        self.inner = inner
        self.path = path  # from the tensor to the view
        self.place = place
        self.cuts = cuts  # of the view
        edges = inner.next_functions
        super().__init__((base, *(edges if place is None else edges[:place] + edges[place + 1 :])))

    def name(self) -> str:
        """torch's name, which is that of a class in C++."""
        return "torch::autograd::CopySlices"

    def apply(self, grads: list[Any], wanted: Sequence[bool] | None) -> Sequence[Any]:
        """Split the gradient, run `inner`, and put the parts together."""
        if wanted is None:
            wanted = [node is not None for node, _ in self.next_functions]
        whole, path, place = grads[0], self.path, self.place
        g = call("_follow", whole, path.narrow())
        if path.repeated:  # what was written is read where it stands first
            g = call("slice_pad", g, path.first, self.cuts)
        rest = list(wanted[1:])
        if place is not None:
            rest.insert(place, wanted[0])
        results = list(self.inner.apply([g], rest))
        before = results.pop(place) if place is not None else None
        if not wanted[0]:
            return [None, *results]
        if before is None:
            before = Like(g.shape, g._avals.dtype, g.sharding).zeros()
        if path.repeated:
            before = call("sum", before, path.repeated, True)
        return [call("_put_along", whole, before, path.narrow()), *results]

    def _release(self) -> None:
        """Drop what `inner` saved."""
        self.inner._release()


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
    if type(tensor._versions) is Untracked and not grad_mode.inference:
        raise RuntimeError(INFERENCE)


def repeated(tensor: Tensor) -> tuple[int, ...]:
    """The dimensions along which an element is seen again and again: those with a stride of 0."""
    return () if tensor._view is None else tensor._view.chain.found.path.repeated


def overlapping(tensor: Tensor, op: Op, args: tuple[Any, ...]) -> Tensor:
    """An in-place op on a view whose elements overlap; torch's error if it depends on how often one is seen.

    An element is written if it is so in one of the places where it is seen. Of repeated dimensions the first place
    stands for all; what windows see is written in the base, so that each element counts once in the gradient, too.
    """
    check(tensor)
    if op.name in ONCE and not repeated(tensor) and not any(isinstance(a, Tensor) for a in args[1:]):
        return _applied_once(tensor, op, args)
    written = None if op.fills is None else op.fills(tensor, *args[1:])
    if written is None:
        raise RuntimeError(OVERLAP)
    core, (mask, value) = first_places(tensor), written
    view = tensor._view
    assert view is not None
    path = view.chain.found.path
    if core is not tensor and not core._layout.overlaps:
        if mask is None:
            core.fill_(value)
        else:
            core.masked_fill_(call("any", mask.expand(tensor.shape), path.repeated, True), value)
        return tensor
    mask = (Tensor(constant(True, BOOL)) if mask is None else mask).expand(tensor.shape).long()
    if view.base is not None:
        view.base.masked_fill_(call("_pad_along", mask, view.route, view.base.sharding) != 0, value)
        return tensor
    seen = call("_pad_along", mask, path, tensor._storage.value.sharding)
    new = call("masked_fill", tensor, call("_follow", seen, path) != 0, value)
    write(tensor, new._value, call_site(f"{op.name}_"))
    if new._node is not None:
        move(tensor, new._node, new._output)
    return tensor


def _applied_once(tensor: Tensor, op: Op, args: tuple[Any, ...]) -> Tensor:
    """An op of `ONCE` on windows: on the elements of the base that these see."""
    view = tensor._view
    assert view is not None
    if view.base is None:
        new = op.bound((tensor.clone(), *args[1:]))
        write(tensor, suits(tensor, new._value), call_site(f"{op.name}_"))
        if new._node is not None:
            move(tensor, new._node, new._output)
        return tensor
    base = view.base
    new = op.bound((base.clone(), *args[1:]))  # what it saves is not what changes
    suits(base, new._value)
    every = Tensor(constant(True, BOOL)).expand(tensor.shape).long()
    base.copy_(call("where", call("_pad_along", every, view.route, base.sharding) != 0, new, base))
    return tensor


def first_places(tensor: Tensor) -> Tensor:
    """The view in which no dimension is repeated."""
    dims = repeated(tensor)
    if not dims:
        return tensor
    return tensor[tuple(slice(0, 1) if d in dims else slice(None) for d in range(tensor.dim()))]


def warn_expanded(tensor: Tensor, name: str, form: str = "tensor[mask] = scalar") -> None:
    """torch's warning."""
    if not repeated(tensor):
        return
    warnings.warn(
        f"Use of {name} on expanded tensors is deprecated. Please clone() the tensor before performing this operation. "
        f"This also applies to advanced indexing e.g. {form}",
        stacklevel=5,
    )


def check_operands(tensor: Tensor, op: Op, args: tuple[Any, ...]) -> None:
    """Raise where an operand is another part of the tensor's own storage, some of which is to be written."""
    for i, _ in op.slots:
        item = args[i]
        if (
            item is not tensor
            and isinstance(item, Tensor)
            and item._storage is tensor._storage
            and op.name not in READ_FIRST
            and tensor._layout.meets(item._layout)
        ):
            raise RuntimeError(PARTIAL)


def check_view(tensor: Tensor) -> None:
    """Raise where the history of a changed view could not be told."""
    creation = tensor._view.creation if tensor._view is not None else None
    if creation is not None:
        raise view_refused(tensor)


def suits(tensor: Tensor, value: Value) -> Value:
    """The result of an in-place op with the tensor's dtype; torch's errors where dtype or shape do not fit."""
    target = tensor._avals
    if value.result.spec is target.result.spec:
        return value
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


def write(tensor: Tensor, value: Value, where: CallSite) -> Value:
    """Put a value of the right shape and dtype into the tensor's storage; the storage keeps its sharding."""
    storage, view = tensor._storage, tensor._view
    target = storage.value if view is None else view.value
    if batching.used:
        value = _of_samples(value, target)
    spec = target.result.spec
    if value.result.spec is not spec and value.sharding != spec.sharding:
        value = session.emit("reshard", value, cuts=spec.sharding)
    if view is None:
        storage.replace(value)
    else:
        view.write(storage, value)
    counter = tensor._versions or tensor._counter
    counter.number += 1
    counter.changed = where
    return value


def _of_samples(value: Value, target: Value) -> Value:
    """A value that belongs to the samples of `target`; torch's error if it belongs to others: there is room for one."""
    mine, theirs = batching.levels(target), batching.levels(value)
    if set(theirs) - set(mine):
        raise RuntimeError(
            f"vmap: {session.current_op.name}(self, *extra_args) is not possible because there exists a Tensor `other` "
            "in extra_args that has more elements than `self`. This happened due to `other` being vmapped over but "
            "`self` not being vmapped over in a vmap. Please try to use out-of-place operators instead of "
            f"{session.current_op.name}. If said operator is being called inside the PyTorch framework, please file a "
            "bug report instead."
        )
    return vmaps.mark_all(value, mine)


def rebase(tensor: Tensor, node: BackwardNode, output: int = 0, place: int | None = None) -> None:
    """Make `node` the history of a tensor that was changed in place.

    `place` says which edge of the node leads to the tensor before the change, if one does.
    """
    view = tensor._view
    if view is None or view.base is None:
        move(tensor, node, output)
    else:
        base = view.base
        changed: BackwardNode = CopySlices(base._edge, node, view.route, place, tensor.sharding)
        if base._view is not None and base._view.layout.overlaps:
            changed = AsStridedBackward0((changed, 0), base._view.chain.found.path.again(), base.sharding)
        move(base, changed, 0)


def move(tensor: Tensor, node: BackwardNode, output: int) -> None:
    """Make an output of `node` the history of a tensor; its retained gradient comes along."""
    before = tensor._node
    if before is not None and before._hooks is not None and tensor.retains_grad:
        del before._hooks.retained[tensor._output]
        retain(node, output, tensor)
    tensor._node, tensor._output, tensor._requires_grad = node, output, True
