"""Rows of a table by index, and indices as rows of zeros and a one."""

from __future__ import annotations

import math

from distgrad import session
from distgrad.dtype import INT32, INT64, OF_NUMPY
from distgrad.ops.base import (
    Like,
    Tensor,
    Value,
    call,
    cast,
    constant,
    op,
    reduce,
)
from distgrad.ops.compare import where
from distgrad.ops.regrouping import dealt, reshaped
from distgrad.ops.samples import real, whole


# Rows by index.
def _flat(indices: Value) -> Value:
    return cast(reshaped(indices, (math.prod(indices.shape),)), INT64)


def _embedding_weight(
    g: Tensor, indices: Tensor, padding_idx: int, scale_grad_by_freq: bool, like: Like
) -> Tensor:
    if scale_grad_by_freq:
        flat = call("reshape", indices, -1)
        counts = _embedding_dense_backward(
            flat.new_ones((*flat.shape, 1), dtype=g.dtype), flat, like.shape[0], -1
        )
        g = g / call("reshape", embedding(counts, flat), (*indices.shape, 1))
    return _embedding_dense_backward(g, indices, like.shape[0], padding_idx)


@op(
    weight=_embedding_weight,
    method=False,
    samples=lambda: [
        (real(4, 3), whole(5, high=4)),
        (real(4, 3), whole(2, 3, high=4)),
        (real(4, 3), whole(high=4)),
    ],
)
def embedding(
    weight: Value,
    indices: Value,
    padding_idx: int = -1,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Value:
    """The rows of `weight` with these numbers; row `padding_idx` gets no gradient.

    With `scale_grad_by_freq` a row's gradient is divided by how often the row is asked for.
    """
    if sparse:
        raise NotImplementedError(
            "embedding(): sparse gradients are not supported, there are no sparse tensors"
        )
    if len(weight.shape) != 2:
        raise RuntimeError("'weight' must be 2-D")
    if indices.dtype not in (INT32, INT64):
        kind = "CPUBoolType" if indices.dtype.kind == "b" else OF_NUMPY[indices.dtype].tensor_type
        raise RuntimeError(
            "Expected tensor for argument #1 'indices' to have one of the following scalar types: Long, Int; but got "
            f"{kind} instead (while checking arguments for embedding)"
        )
    rows, width = weight.shape
    found = session.emit("take", weight, _flat(indices), dim=0, size=rows, wrap=False)
    return reshaped(dealt(found, weight), (*indices.shape, width))


def _unpadded(g: Tensor, indices: Tensor, padding_idx: int) -> Tensor:
    return g if padding_idx < 0 else where(call("unsqueeze", indices == padding_idx, -1), 0.0, g)


@op(
    grad=lambda g, indices, padding_idx: _unpadded(embedding(g, indices), indices, padding_idx),
    method=False,
    samples=lambda: [(real(5, 3), whole(5, high=4), 4, -1), (real(2, 3, 3), whole(2, 3, high=4), 4, 2)],
)
def _embedding_dense_backward(grad: Value, indices: Value, rows: int, padding_idx: int) -> Value:
    """Each row of `grad` added to the row of the result that it came from."""
    flat = _flat(indices)
    values = reshaped(grad, (flat.shape[0], grad.shape[-1]))
    if padding_idx >= 0:
        padded = session.emit("equal", flat, constant(padding_idx, INT64))
        padded = session.emit("expand_dims", padded, dims=(1,))
        values = session.emit("where", padded, constant(0, grad.dtype), values)
    return session.emit("index_add", flat, values, dim=0, size=rows)


@op(method=False, samples=lambda: [whole(2, 3, high=4), (whole(4, high=3), 5), (whole(high=2), 2)])
def one_hot(tensor: Value, num_classes: int = -1) -> Value:
    """1 at each class number, 0 for all other classes, along a new last dimension. Without `num_classes`, or with -1,
    it waits for the largest number."""
    if tensor.dtype != INT64:
        raise RuntimeError("one_hot is only applicable to index tensor of type LongTensor.")
    size = math.prod(tensor.shape)
    if size == 0 and num_classes <= 0:
        raise RuntimeError("Can not infer total number of classes from empty tensor.")
    array = tensor.array
    if array is not None and size:
        if array.min() < 0:
            raise RuntimeError("Class values must be non-negative.")
        if num_classes != -1 and array.max() >= num_classes:
            raise RuntimeError("Class values must be smaller than num_classes.")
    if num_classes == -1:
        num_classes = int(session.fetch(reduce("amax", tensor, None))) + 1
    if num_classes < 1:
        raise RuntimeError("Class values must be smaller than num_classes.")
    dim = len(tensor.shape)
    shape = (*tensor.shape, num_classes)
    places = session.emit("expand_dims", tensor, dims=(dim,))
    zeros = session.emit("expand", constant(0, INT64), shape=shape, cuts=None)
    ones = session.emit("expand", constant(1, INT64), shape=places.shape, cuts=None)
    return session.emit("scatter", zeros, places, ones, dim=dim, size=num_classes)  # which checks the numbers
