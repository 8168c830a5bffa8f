"""The same results from less work: passes over the captured nodes (`PASSES`), before they are given stages.

- `split_softmax` and `gather_first`: what a softmax and its gradient share (see `split.py`).
- `fold_constants`: arithmetic with a scalar that was expanded, such as the gradient of a sum, is done with the scalar;
  a common subexpression is computed once; dimensions of length 1 that are put in and taken out again, as where a row
  is written and read, are not put in.
- `cancel_signs`: what is negated and added is subtracted; what is negated and scaled is scaled by the negated scalar.
- `take_and_add`: rows taken from a table, weighted, and added to others make one product with a sparse matrix.
- `drop_dead_code`: what nobody reads is not computed.
- `cut_as_read`: a result that its readers need in other cuts is made in those cuts, where that moves less, or in cuts
  that overlap and hold them all (`halo.py`).

No pass changes a bit of any result, but for the sign of a NaN or of a zero, and that `take_and_add` may add in another
order than that of the indices; in which one follows from the lengths of the tables. After each, where the tests' checks
are on, `verify.py` looks at what it has made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from distgrad import checks
from distgrad.plan.capture import NodeInfo, Numbered, ValueInfo
from distgrad.plan.halo import share_halos, shifted, with_halos
from distgrad.plan.split import gather_first, split_softmax
from distgrad.plan.verify import verify
from distgrad.primitives import TABLE, Aval, Labels, Layout
from distgrad.primitives.rules import layout, on_grid
from distgrad.sharding import Sharding


def fold_constants(values: list[ValueInfo], nodes: Sequence[Numbered], shard_bytes: int) -> list[Numbered]:
    """Arithmetic with scalars that were expanded takes the scalars; common subexpressions are computed once."""
    scalar: dict[int, int] = {}  # of a value whose elements are all the same: the scalar
    same: dict[int, int] = {}  # of a value that was computed before: the value
    seen: dict[object, tuple[int, ...]] = {}
    done: list[Numbered] = []

    def add(number: int, node: NodeInfo) -> None:
        key = (node.primitive.name, tuple(node.attrs.items()), node.ins, node.layout.outs)
        before = seen.setdefault(key, node.outs)
        if before is not node.outs and not any(values[v].wanted for v in node.outs):
            same.update(zip(node.outs, before, strict=True))
            scalar.update((v, scalar[b]) for v, b in zip(node.outs, before, strict=True) if b in scalar)
        else:
            done.append((number, node))

    opened: dict[int, NodeInfo] = {}  # values that are others with dimensions of length 1 put in
    for number, old in nodes:
        node = old._replace(ins=tuple(same.get(v, v) for v in old.ins))
        (out, *_) = node.outs
        if node.primitive.name == "expand_dims":
            opened[out] = node
        elif node.primitive.name == "squeeze_dims" and node.ins[0] in opened and not values[out].wanted:
            before = opened[node.ins[0]]
            (v,) = before.ins
            if before.attrs == node.attrs and values[v].sharding == values[out].sharding:
                same[out] = v
                if v in scalar:
                    scalar[out] = scalar[v]
                continue
        if node.primitive.name == "expand" and not values[node.ins[0]].aval.shape:
            scalar[out] = node.ins[0]
        elif "exact" in node.primitive.traits and not scalar.keys().isdisjoint(node.ins):
            ins = tuple(scalar.get(v, v) for v in node.ins)
            avals = [values[v].aval for v in ins]
            if all(not aval.shape for aval in avals):
                scalar[out] = len(values)
                small = Aval((), values[out].aval.dtype)
                values.append(ValueInfo(small, Sharding.whole(()), False, None))
                whole = [Sharding.whole(())] * len(ins)
                made = layout(node.primitive, avals, [small], whole, node.attrs, shard_bytes)
                add(number, NodeInfo(node.primitive, node.attrs, made, ins, (scalar[out],)))
                scalar[out] = same.get(scalar[out], scalar[out])
                attrs = {"shape": values[out].aval.shape, "cuts": values[out].sharding}
                made = layout(TABLE["expand"], [small], [values[out].aval], whole[:1], attrs, shard_bytes)
                node = NodeInfo(TABLE["expand"], attrs, made, (scalar[out],), node.outs)
            elif node.primitive.shape(avals, node.attrs)[0].shape == values[out].aval.shape:
                node = _laid(node._replace(ins=ins), values, node.layout.outs[0])
        add(number, node)
    return done


def cancel_signs(values: list[ValueInfo], nodes: Sequence[Numbered], _: int) -> list[Numbered]:
    """Signs that cost nothing: a - b for a + -b, and a * -s for -(a * s) or -a * s."""
    reads = Counter(v for _, node in nodes for v in node.ins)
    maker: dict[int, NodeInfo] = {}
    negated: dict[int, int] = {}  # of scalars
    done: list[Numbered] = []

    def once(name: str, value: int) -> NodeInfo | None:
        """The node that makes a value, if it has this name and nothing else reads the value."""
        node = maker.get(value)
        alone = reads[value] == 1 and not values[value].wanted
        return node if node is not None and alone and node.primitive.name == name else None

    def minus(number: int, value: int) -> int:
        if value not in negated:
            negated[value] = len(values)
            values.append(values[value]._replace(wanted=False, external=None))
            whole = Sharding.whole(())
            one = Layout(1, (whole,), (whole,), Labels(((),), ((),)))
            done.append((number, NodeInfo(TABLE["negative"], {}, one, (value,), (negated[value],))))
        return negated[value]

    def scaled(number: int, a: int, s: int, old: NodeInfo) -> NodeInfo:
        node = NodeInfo(TABLE["multiply"], {}, old.layout, (a, minus(number, s)), old.outs)
        return _laid(node, values, old.layout.outs[0])

    def signed(number: int, node: NodeInfo) -> NodeInfo:
        name, ins = node.primitive.name, node.ins
        if name == "negative" and (product := once("multiply", ins[0])) is not None:
            a, s = sorted(product.ins, key=lambda v: not values[v].aval.shape)
            if values[a].aval.shape and not values[s].aval.shape:
                return scaled(number, a, s, node)
        elif name == "multiply":
            for a, s in (ins, ins[::-1]):
                negative = once("negative", a)
                if negative is not None and values[a].aval.shape and not values[s].aval.shape:
                    return scaled(number, negative.ins[0], s, node)
        elif name in ("add", "subtract"):
            for a, b in (ins, ins[::-1]) if name == "add" else (ins,):
                negative = once("negative", b)
                if negative is not None:
                    other = TABLE["subtract" if name == "add" else "add"]
                    made = node._replace(primitive=other, ins=(a, negative.ins[0]))
                    return _laid(made, values, node.layout.outs[0])
        return node

    for number, old in nodes:
        node = signed(number, old) if values[old.outs[0]].aval.dtype.kind == "f" else old
        maker.update(dict.fromkeys(node.outs, node))
        done.append((number, node))
    return done


def take_and_add(values: list[ValueInfo], nodes: Sequence[Numbered], _: int) -> list[Numbered]:
    """`index_add` of `take(table, source)`, or of its product with one weight for each row, becomes `add_taken`."""
    maker = {v: node for _, node in nodes for v in node.outs}

    def made_by(name: str, value: int) -> NodeInfo | None:
        node = maker.get(value)
        return node if node is not None and node.primitive.name == name else None

    def column(value: int) -> int | None:
        """The value of one column of which `value` is made, if it is."""
        spread = made_by("expand", value)
        value = spread.ins[0] if spread is not None else value
        shape = values[value].aval.shape
        return value if len(shape) == 2 and shape[1] == 1 else None

    def join(node: NodeInfo) -> NodeInfo:
        if node.primitive.name != "index_add":
            return node
        index, rows = node.ins
        product = made_by("multiply", rows)
        terms: list[tuple[int, int | None]] = [(rows, -1)]  # what may have been taken, and its weight
        if product is not None:
            terms = [(rows, column(factor)) for rows, factor in (product.ins, product.ins[::-1])]
        for rows, weight in terms:
            taken = made_by("take", rows)
            if taken is not None and weight is not None and _joins(values, node, taken, weight):
                table, source = taken.ins
                ins = (index, source, table) if weight < 0 else (index, source, table, weight)
                attrs = {"size": node.attrs["size"], "wrap": taken.attrs["wrap"]}
                primitive = TABLE["add_taken"]
                avals, outs = [values[v].aval for v in ins], [values[v].aval for v in node.outs]
                labels = primitive.labels(avals, attrs)  # type: ignore[misc]
                cuts = [values[v].sharding for v in ins]
                made = on_grid(labels, avals, outs, cuts, node.layout.grid)
                return NodeInfo(primitive, attrs, made, ins, node.outs)
        return node

    return [(number, join(node)) for number, node in nodes]


def _joins(values: Sequence[ValueInfo], node: NodeInfo, taken: NodeInfo, weight: int) -> bool:
    """Whether rows that are taken may be added by `add_taken`, in the same partial sums. Weight -1: there is none."""
    table, out = values[taken.ins[0]].aval, values[node.outs[0]].aval
    rules = node.layout.labels, taken.layout.labels
    return (
        len(table.shape) == len(out.shape) == 2
        and node.attrs["dim"] == taken.attrs["dim"] == 0
        and table.dtype == out.dtype
        and (weight < 0 or values[weight].aval.dtype == out.dtype)
        and table.dtype.kind == "f"
        and max(table.shape[0], *values[node.ins[1]].aval.shape, out.shape[0]) < 1 << 31
        and [rule and rule.merge for rule in rules] == ["add", None]
    )


def drop_dead_code(values: list[ValueInfo], nodes: Sequence[Numbered], _: int) -> list[Numbered]:
    """The nodes without those that nobody needs."""
    read: set[int] = set()
    kept = []
    for number, node in reversed(nodes):
        if any(values[v].wanted or v in read for v in node.outs):
            read.update(node.ins)
            kept.append((number, node))
    kept.reverse()
    return kept


def cut_as_read(values: list[ValueInfo], nodes: Sequence[Numbered], _: int) -> list[Numbered]:
    """Make results in the cuts in which they are read. Changes the shardings in `values`."""
    needs: dict[int, set[Sharding]] = {}
    done = []
    for number, old in reversed(nodes):
        node = old
        (out, *_) = node.outs
        cuts = needs.get(out, set())
        if len(node.outs) == 1 and not values[out].wanted and cuts - {values[out].sharding}:
            made = _made(node, values, cuts, needs)
            if made is not None:
                values[out] = values[out]._replace(sharding=made.layout.outs[0])
                node = made
        for value, need in zip(node.ins, node.layout.needs, strict=True):
            needs.setdefault(value, set()).add(need)
        done.append((number, node))
    done.reverse()
    return share_halos(values, done, needs)


def _made(
    node: NodeInfo, values: Sequence[ValueInfo], cuts: set[Sharding], needs: dict[int, set[Sharding]]
) -> NodeInfo | None:
    """The node with its result in cuts that hold all those in which it is read; None: it is better as it is."""
    target = with_halos(cuts)
    if target is None:
        return None
    near = with_halos((target, values[node.outs[0]].sharding)) is not None
    if near and "shifts" in node.primitive.traits:
        return shifted(node, values[node.ins[0]].aval.shape, target)
    moved = _moved(node, values, target, needs)
    return _laid(node, values, target) if moved is not None and (near or moved <= 1) else None


def _moved(
    node: NodeInfo, values: Sequence[ValueInfo], target: Sharding, needs: dict[int, set[Sharding]]
) -> int | None:
    """How many operands would have to be cut otherwise for a result that is cut like `target`; None: it cannot be."""
    labels = node.layout.labels
    if labels is None or labels.merge is not None or len(node.outs) != 1 or target.count == 1:
        return None
    if any(label not in labels.outs[0] for names in labels.ins for label in names if label is not None):
        return None
    if any(labels.outs[0][d] is None for d in target.cut_dims):
        return None
    made = _laid(node, values, target)
    if made.layout.outs != (target,):
        return None
    pairs = set(zip(node.ins, made.layout.needs, strict=True))
    return sum(need != values[v].sharding and need not in needs.get(v, ()) for v, need in pairs)


def _laid(node: NodeInfo, values: Sequence[ValueInfo], target: Sharding) -> NodeInfo:
    """The node with its result cut like `target`."""
    avals = [values[v].aval for v in node.ins]
    assert node.primitive.labels is not None
    labels = node.primitive.labels(avals, node.attrs)
    grid = tuple(
        (label, target.cuts[d])
        for d, label in enumerate(labels.outs[0])
        if label is not None and target.cuts[d].count > 1
    )
    attrs = {**node.attrs, "cuts": target} if "cuts" in node.attrs else node.attrs
    outs = [values[v].aval for v in node.outs]
    made = on_grid(labels, avals, outs, [values[v].sharding for v in node.ins], grid)
    return node._replace(attrs=attrs, layout=made)


Pass = Callable[[list[ValueInfo], Sequence[Numbered], int], list[Numbered]]
PASSES: tuple[Pass, ...] = (
    split_softmax,
    fold_constants,
    cancel_signs,
    gather_first,
    take_and_add,
    drop_dead_code,
    cut_as_read,
)


def rewrite(
    values: Sequence[ValueInfo], nodes: Sequence[Numbered], shard_bytes: int
) -> tuple[list[ValueInfo], list[Numbered]]:
    """The values and nodes to plan. Values keep their numbers; new ones stand at the end.

    Raises CheckError if the checks are on and a pass makes what cannot be.
    """
    known, done = list(values), list(nodes)
    due = {v for _, node in nodes for v in node.outs if values[v].wanted}
    if checks.ENABLED:
        verify(known, done, "capture", due)
    for run in PASSES:
        values, nodes = list(known), done
        done = run(known, done, shard_bytes)
        if checks.ENABLED and not (_same(known, values) and _same(done, nodes)):
            verify(known, done, run.__name__, due)
    return known, done


def _same(after: Sequence[tuple[Any, ...]], before: Sequence[tuple[Any, ...]]) -> bool:
    """Whether a pass has left all as it was, told by what the items consist of."""
    return len(after) == len(before) and all(
        all(x is y for x, y in zip(a, b, strict=True)) for a, b in zip(after, before, strict=True)
    )
