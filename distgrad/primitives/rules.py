"""From a shard rule to a layout: which grid a node runs on, and how its operands must be cut for that.

No rule fails for a particular cut (promise P3): where an operand does not fit, the layout asks for it with other cuts,
or whole on every worker, and the planner puts an exchange in between. Layouts follow from shapes and cuts alone,
never from the number of workers (P2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from distgrad.cutting import SHARED, default_sharding
from distgrad.primitives.base import Attrs, Aval, Fit, Labels, Layout, Place, Primitive, RegroupRule
from distgrad.sharding import Bounds, Cut, Sharding

Grid = tuple[tuple[int, Cut], ...]

# Work on operands of one shard is cut, so that it takes all workers, if each piece has as many operations (some 3 ms of
# one processor: an exchange takes 2 or 3) and rows: a product of fewer spends its time on arranging the other matrix.
SPREAD_WORK = 1 << 27
SPREAD_ROWS = 128


def layout(
    primitive: Primitive,
    avals: Sequence[Aval],
    outs: Sequence[Aval],
    shardings: Sequence[Sharding],
    attrs: Attrs,
    shard_bytes: int,
) -> Layout:
    """The layout of one node: `avals` and `shardings` describe its operands, `outs` its results."""
    if primitive.regroup is not None:
        return primitive.regroup(avals, shardings, attrs, shard_bytes)
    assert primitive.labels is not None
    labels = primitive.labels(avals, attrs)
    made = solve(labels, avals, outs, shardings, attrs.get("cuts"), shard_bytes)
    if "heavy" in primitive.traits and made.shards == 1:
        grid = _spread(labels, outs[0], primitive.operations(avals, outs, attrs))
        return on_grid(labels, avals, outs, shardings, grid) if grid else made
    return made


def _spread(labels: Labels, out: Aval, operations: float) -> Grid:
    """A cut of the result's first long dimension, where the work is worth that; else none.

    Every worker has all of an operand in one shard, so nothing is moved for it; but sums over the rows of the result,
    such as the gradients of weights, have to meet.
    """
    for label, n in zip(labels.outs[0], out.shape, strict=True):
        most = min(operations / SPREAD_WORK, n / SPREAD_ROWS, SHARED)
        if label is not None and most >= 2:
            pieces = 1 << (int(most).bit_length() - 1)
            return ((label, Cut.even(n, -(-n // pieces))),)
    return ()


def solve(
    labels: Labels,
    avals: Sequence[Aval],
    outs: Sequence[Aval],
    shardings: Sequence[Sharding],
    hint: Sharding | None,
    shard_bytes: int,
) -> Layout:
    """The layout of a node with a label rule.

    The largest operand that is cut where the rule allows (of equals the one with most shards) stays where it is and
    its cuts become the grid. Operands that are cut alike but shifted, such as `x[1:]` and `x[:-1]`, meet where nothing
    is shifted. Where there is none, a result that is larger than a shard gets its default cuts, or those
    of `hint`; else the largest operand is cut anew.
    """
    order = sorted(range(len(avals)), key=lambda i: (avals[i].nbytes, shardings[i].count, -i), reverse=True)
    grids = [_grid_of_operand(labels.ins[i], shardings[i]) for i in order]
    grid = _meeting(next((g for g in grids if g), ()), labels, shardings) or _grid_of_result(
        labels, outs, hint, shard_bytes
    )
    if not grid:
        cut = [i for i in order if shardings[i].count > 1]
        grid = _recut(labels.ins[cut[0]], avals[cut[0]], shard_bytes) if cut else ()
    return on_grid(labels, avals, outs, shardings, _ordered(grid, labels))


def on_grid(
    labels: Labels, avals: Sequence[Aval], outs: Sequence[Aval], shardings: Sequence[Sharding], grid: Grid
) -> Layout:
    """The layout of a node with a label rule that runs on this grid."""
    needs = tuple(
        s if s.count == 1 else _sharding(names, aval.shape, grid) or Sharding.whole(aval.shape)
        for names, aval, s in zip(labels.ins, avals, shardings, strict=True)
    )
    merged = any(label not in labels.outs[0] for label, _ in grid)
    results = tuple(
        _sharding(names, aval.shape, grid, partly=True) for names, aval in zip(labels.outs, outs, strict=True)
    )
    count = math.prod(cut.count for _, cut in grid)
    sizes = sizes_of(labels, avals, outs)
    return Layout(count, needs, results, labels, grid, tuple(sizes.items()), merged)  # type: ignore[arg-type]


def agrees(made: Layout, primitive: Primitive, avals: Sequence[Aval], attrs: Attrs) -> bool:
    """Whether a layout, which may have come over the wire, is one that a shard rule can have made."""
    grid, labels = made.grid, made.labels
    if labels is None:
        return (
            not grid
            and all(s.count in (1, made.shards) for s in made.needs)
            and all(s.count == made.shards for s in made.outs)
            and primitive.fits is not None
            and primitive.fits(made, avals, attrs)
        )
    sizes = dict(made.sizes)
    return (
        made.shards == math.prod(cut.count for _, cut in grid)
        and len(dict(grid)) == len(grid)
        and all(sizes.get(label) == cut.size and cut.count > 1 for label, cut in grid)
        and (labels.merge is not None or not made.merged)
        and all(
            s.count == 1 or s == _sharding(names, s.shape, grid)
            for names, s in zip(labels.ins, made.needs, strict=True)
        )
        and all(
            s == _sharding(names, s.shape, grid, partly=True)
            for names, s in zip(labels.outs, made.outs, strict=True)
        )
    )


# Layouts that come over the wire: what a regrouping's `fits` may be.
def settled(rule: RegroupRule) -> Fit:
    """A layout is what the rule makes of operands that are cut as it needs them: they need not be cut anew."""

    def fits(made: Layout, avals: Sequence[Aval], attrs: Attrs) -> bool:
        return rule(avals, made.needs, attrs, 1) == made

    return fits


def holding(parts: Callable[[Attrs, int, Bounds], Bounds]) -> Fit:
    """Every shard holds what its part of the result is made of, given by `parts(attrs, dim, bounds)`."""

    def fits(made: Layout, avals: Sequence[Aval], attrs: Attrs) -> bool:
        (need,), (out,) = made.needs, made.outs
        if "cuts" in attrs and attrs["cuts"] != out:
            return False
        return need.count == 1 or all(
            mine.count == cut.count
            and all(_holds(mine.bounds(i), parts(attrs, d, cut.bounds(i))) for i in range(cut.count))
            for d, (mine, cut) in enumerate(zip(need.cuts, out.cuts, strict=True))
        )

    return fits


def _holds(mine: Bounds, part: Bounds) -> bool:
    return part[0] >= part[1] or mine[0] <= part[0] <= part[1] <= mine[1]


def sizes_of(labels: Labels, avals: Sequence[Aval], outs: Sequence[Aval]) -> dict[int, int]:
    """The length of each label. Raises ValueError for shapes that do not go with the labels."""
    sizes: dict[int, int] = {}
    for names, aval in zip((*labels.ins, *labels.outs), (*avals, *outs), strict=True):
        for label, n in zip(names, aval.shape, strict=True):
            if label is not None and sizes.setdefault(label, n) != n:
                raise ValueError(f"label {label} stands for lengths {sizes[label]} and {n}")
    return sizes


def _grid_of_result(labels: Labels, outs: Sequence[Aval], hint: Sharding | None, shard_bytes: int) -> Grid:
    aval, names = outs[0], labels.outs[0]
    if hint is None:
        if aval.nbytes <= shard_bytes:
            return ()
        hint = default_sharding(aval.shape, aval.dtype.itemsize, shard_bytes)
    if any(names[d] is None for d in hint.cut_dims):
        return _recut(names, aval, shard_bytes)
    return tuple((names[d], hint.cuts[d]) for d in hint.cut_dims)  # type: ignore[misc]


def _grid_of_operand(names: tuple[int | None, ...], sharding: Sharding) -> Grid:
    return tuple((names[d], sharding.cuts[d]) for d in sharding.cut_dims if names[d] is not None)  # type: ignore[misc]


def _meeting(grid: Grid, labels: Labels, shardings: Sequence[Sharding]) -> Grid:
    """The grid without the shift of a cut that another operand has with another shift.

    So all slices of one tensor that have one length meet in the same cuts, each moved at most once and by little.
    """
    met = []
    for label, cut in grid:
        others = {
            s.cuts[names.index(label)]
            for names, s in zip(labels.ins, shardings, strict=True)
            if label in names and s.count > 1
        }
        shifted = any(c.step == cut.step != 0 and c != cut for c in others)
        met.append((label, cut.unshifted() if shifted else cut))
    return tuple(met)


def _recut(names: tuple[int | None, ...], aval: Aval, shard_bytes: int) -> Grid:
    """Cut the longest dimension that may be cut, into pieces of about `shard_bytes`."""
    free = [d for d, label in enumerate(names) if label is not None and aval.shape[d] > 1]
    if not free or aval.nbytes <= shard_bytes:
        return ()
    d = max(free, key=lambda i: (aval.shape[i], -i))
    n = aval.shape[d]
    cut = Cut.even(n, max(1, n * shard_bytes // aval.nbytes))
    return ((names[d], cut),) if cut.count > 1 else ()  # type: ignore[return-value]


def _ordered(grid: Grid, labels: Labels) -> Grid:
    """Keep only as much of the grid as numbers the results' shards in the grid's own order."""
    kept = [label for label, _ in grid if label in labels.outs[0]]
    if kept == [label for label in labels.outs[0] if label in kept]:
        return grid
    return grid[:1]


def _sharding(
    names: tuple[int | None, ...], shape: tuple[int, ...], grid: Grid, partly: bool = False
) -> Sharding | None:
    """Cuts of a tensor with these labels on the grid; None if it lacks one of the grid's labels (unless `partly`)."""
    cuts = dict(grid)
    present = [label for label in names if label in cuts]
    if not partly and present != [label for label, _ in grid]:
        return None
    return Sharding(
        tuple(
            cuts.get(label, Cut(n)) if label is not None else Cut(n)
            for label, n in zip(names, shape, strict=True)
        )
    )


def place(
    layout_: Layout, shard: int, in_shapes: Sequence[tuple[int, ...]], out_shapes: Sequence[tuple[int, ...]]
) -> Place:
    """The regions of all operands and results of a node for one shard of its grid."""
    if layout_.labels is None:
        ins = tuple(_cell(s, shard, layout_.shards) for s in layout_.needs)
        return Place(ins, tuple(_cell(s, shard, layout_.shards) for s in layout_.outs))
    bounds = {}
    for label, cut in reversed(layout_.grid):
        shard, i = divmod(shard, cut.count)
        bounds[label] = cut.bounds(i)
    regions = [
        tuple(
            bounds.get(label, (0, n)) if label is not None else (0, n)
            for label, n in zip(names, shape, strict=True)
        )
        for names, shape in zip(
            (*layout_.labels.ins, *layout_.labels.outs), (*in_shapes, *out_shapes), strict=True
        )
    ]
    return Place(tuple(regions[: len(in_shapes)]), tuple(regions[len(in_shapes) :]), tuple(in_shapes))


def _cell(sharding: Sharding, shard: int, count: int) -> tuple[tuple[int, int], ...]:
    return sharding.cell(shard if sharding.count == count else 0)
