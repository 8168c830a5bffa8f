"""Nested tuples, lists, dicts and named tuples of leaves: taken apart, put together, and matched with each other."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

DICTS = (dict, OrderedDict, defaultdict)


class Tree(NamedTuple):
    """A structure without its leaves: `kind` and what it takes to make it again beside the children; None: a leaf."""

    kind: Any
    context: Any
    children: tuple[Tree, ...]

    @property
    def size(self) -> int:
        """Number of leaves."""
        return 1 if self.kind is None else sum(child.size for child in self.children)

    def __repr__(self) -> str:
        """As torch prints it in messages."""
        return self._shown(0)

    def _shown(self, indent: int) -> str:
        if self.kind is None:
            return "*"
        inner = ",\n".join(
            " " * (indent + 2) * bool(i) + child._shown(indent + 2) for i, child in enumerate(self.children)
        )
        return f"TreeSpec({self.kind.__name__}, {self.context}, [{inner}])"


LEAF = Tree(None, None, ())


def _parts(item: Any) -> tuple[Any, Any, Sequence[Any]] | None:
    """Kind, context and children of a node; None for a leaf."""
    kind = type(item)
    if kind in DICTS:
        return kind, list(item), list(item.values())
    if kind in (tuple, list, deque):
        return kind, None, list(item)
    if isinstance(item, tuple) and hasattr(kind, "_fields"):
        return kind, None, list(item)
    return None


def flatten(item: Any) -> tuple[list[Any], Tree]:
    """The leaves in order, and the structure. None is a leaf."""
    leaves: list[Any] = []

    def walk(item: Any) -> Tree:
        parts = _parts(item)
        if parts is None:
            leaves.append(item)
            return LEAF
        kind, context, children = parts
        if kind is defaultdict:
            context = [item.default_factory, context]
        return Tree(kind, context, tuple([walk(child) for child in children]))

    return leaves, walk(item)


def unflatten(leaves: Iterable[Any], tree: Tree) -> Any:
    """The structure with these leaves."""
    return _built(iter(leaves), tree)


def _built(leaves: Iterator[Any], tree: Tree) -> Any:
    kind = tree.kind
    if kind is None:
        return next(leaves)
    children = [_built(leaves, child) for child in tree.children]
    if kind is defaultdict:
        factory, keys = tree.context
        return defaultdict(factory, zip(keys, children, strict=True))
    if kind in DICTS:
        return kind(zip(tree.context, children, strict=True))
    return kind(children) if kind in (tuple, list, deque) else kind._make(children)


def mapped(function: Callable[[Any], Any], item: Any) -> Any:
    """The structure with each leaf replaced."""
    leaves, tree = flatten(item)
    return unflatten([function(leaf) for leaf in leaves], tree)


def spread(item: Any, tree: Tree) -> list[Any] | None:
    """A leaf for each leaf of `tree`, from a structure that is `tree` or a part of it from the root down; else None."""
    parts = _parts(item)
    if parts is None:
        return [item] * tree.size
    kind, context, children = parts
    if tree.kind is not kind or len(children) != len(tree.children):
        return None
    if kind in DICTS:
        keys = tree.context[1] if kind is defaultdict else tree.context
        if set(keys) != set(context):
            return None
        children = [item[key] for key in keys]
    found: list[Any] = []
    for child, branch in zip(children, tree.children, strict=True):
        some = spread(child, branch)
        if some is None:
            return None
        found += some
    return found
