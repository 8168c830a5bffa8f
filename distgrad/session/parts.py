"""Parts of a value: read and written without the rest."""

from __future__ import annotations

from distgrad.graph import Value
from distgrad.primitives import TABLE
from distgrad.primitives.slices import Slices, slice_shape
from distgrad.session import batching
from distgrad.session.door import below, current, emit, inline_bytes, is_initialized, shard_bytes, write_out
from distgrad.session.placement import AT_ONCE, HERE, Facts, decide
from distgrad.session.signature import here, signature
from distgrad.session.writes import DEPTH, PUT, LazyWrites, Piece, depth, lazy_write, number, pieces, waits
from distgrad.sharding import Sharding


def put(base: Value, source: Value, slices: Slices) -> Value:
    """`base` with the elements `start + i * step`, for i below `length`, replaced by `source`, or by one number.

    It is lazy: writes to one value are put together in one pass, when it is read.
    """
    shape = slice_shape(base.shape, slices)
    if source.shape not in (shape, ()) or source.dtype != base.dtype:
        raise ValueError(f"{source.result.aval} does not fill the slice {slices} of {base.result.aval}")
    if 0 in shape:
        return base
    if batching.used and (batching.is_batched(base) or batching.is_batched(source)):
        return batching.put_batched(base, source, slices, put, below())
    if waits(source):
        write_out(source)
    nbytes = base.result.spec.nbytes
    near = nbytes <= AT_ONCE and base.array is not None and source.array is not None
    if decide(Facts(inline_bytes(), nbytes=nbytes, near=near, write=True)) is HERE:
        return emit("slice_put", base, source, parts=(slices,))
    source = number(source)
    before = base.result.lazy
    if depth(base) > DEPTH or (isinstance(before, LazyWrites) and not before.takes(source)):
        write_out(base)
    made = lazy_write(base, source, slices, here(PUT))
    if is_initialized():
        current().note_writes(made.result)
    return made


def part(value: Value, slices: Slices) -> Value:
    """The elements `start + i * step`, for i below `length`; where writes wait, what was written there."""
    if not isinstance(value.result.lazy, LazyWrites):
        return emit("slice", value, slices=slices)
    told = pieces(value, slices)
    if told is None:
        write_out(value)
        return emit("slice", value, slices=slices)
    rest, found = told
    made = emit("slice", rest, slices=slices) if rest is not None else _read(found.pop())
    if found:
        if made.sharding.count > 1 and made.result.spec.nbytes <= shard_bytes():
            made = emit("reshard", made, cuts=Sharding.whole(made.shape))
        sources = [_read(piece) for piece in reversed(found)]
        made = emit("slice_put", made, *sources, parts=tuple(piece.there for piece in reversed(found)))
    if made.result.spec.nbytes > shard_bytes():  # what is small has one shard anyway, as soon as it matters
        (spec,) = signature(TABLE["slice"], [value.result.spec], {"slices": slices}, shard_bytes()).outs
        if spec.sharding != made.sharding:
            made = emit("reshard", made, cuts=spec.sharding)
    return made


def _read(piece: Piece) -> Value:
    """What a write has put where it is read."""
    source, shape = piece.source, tuple(n for _, n, _ in piece.mine)
    if not source.shape:
        return emit("expand", source, shape=shape, cuts=None) if shape else source
    return source if source.shape == shape else emit("slice", source, slices=piece.mine)
