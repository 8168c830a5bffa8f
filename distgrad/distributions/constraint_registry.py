"""Maps from all real numbers to a set: `biject_to`, one to one, and `transform_to`, which may forget something."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distgrad.distributions import constraints, transforms
from distgrad.distributions.correlation import (
    CatTransform,
    CorrCholeskyTransform,
    PositiveDefiniteTransform,
)
from distgrad.distributions.transform import Transform

Factory = Callable[[Any], Transform]


class ConstraintRegistry:
    """From a set to a map onto it."""

    def __init__(self) -> None:
        self._registry: dict[str, Factory] = {}

    def register(self, constraint: Any, factory: Factory | None = None) -> Any:
        """Have `factory(constraint)` make the map for sets of this kind; without `factory` a decorator."""
        if factory is None:
            return lambda factory: self.register(constraint, factory)
        self._registry[_kind(constraint)] = factory
        return factory

    def __call__(self, constraint: Any) -> Transform:
        """The map onto a set."""
        kind = _kind(constraint)
        if kind not in self._registry:
            raise NotImplementedError(f"Cannot transform _{kind} constraints")
        return self._registry[kind](constraint)


def _kind(constraint: Any) -> str:
    """What a set is called, without its bounds; of a function that makes sets, what those are."""
    if isinstance(constraint, constraints.Constraint):
        return repr(constraint).partition("(")[0]
    if isinstance(constraint, type) and issubclass(constraint, constraints.Constraint):
        return constraint.__name__.removeprefix("_")
    name = getattr(constraint, "__name__", "")
    if getattr(constraints, name, None) is not constraint:
        raise TypeError(
            f"Expected constraint to be either a Constraint subclass or instance, but got {constraint}"
        )
    words = "".join(word.title() for word in name.split("_"))
    return "IndependentConstraint" if name == "independent" else words


biject_to = ConstraintRegistry()
transform_to = ConstraintRegistry()


def _affine(first: Transform, loc: Any, scale: Any) -> Transform:
    return transforms.ComposeTransform([first, transforms.AffineTransform(loc, scale)])


def _onto_interval(constraint: Any) -> Transform:
    low, high = constraint.lower_bound, constraint.upper_bound
    if isinstance(low, (int, float)) and isinstance(high, (int, float)) and (low, high) == (0, 1):
        return transforms.SigmoidTransform()
    return _affine(transforms.SigmoidTransform(), low, high - low)


def _register_for(registry: ConstraintRegistry) -> None:
    registry.register(constraints.real, lambda c: transforms.identity_transform)
    registry.register(
        constraints.independent,
        lambda c: transforms.IndependentTransform(registry(c.base_constraint), c.reinterpreted_batch_ndims),
    )
    for above in (constraints.greater_than, constraints.greater_than_eq):
        registry.register(above, lambda c: _affine(transforms.ExpTransform(), c.lower_bound, 1))
    registry.register(constraints.less_than, lambda c: _affine(transforms.ExpTransform(), c.upper_bound, -1))
    for between in (constraints.interval, constraints.half_open_interval):
        registry.register(between, _onto_interval)
    registry.register(constraints.corr_cholesky, lambda c: CorrCholeskyTransform())
    registry.register(
        constraints.cat, lambda c: CatTransform([registry(one) for one in c.cseq], c.dim, c.lengths)
    )
    registry.register(
        constraints.stack, lambda c: transforms.StackTransform([registry(one) for one in c.cseq], c.dim)
    )


_register_for(biject_to)
_register_for(transform_to)
biject_to.register(constraints.simplex, lambda c: transforms.StickBreakingTransform())
transform_to.register(constraints.simplex, lambda c: transforms.SoftmaxTransform())
transform_to.register(constraints.lower_cholesky, lambda c: transforms.LowerCholeskyTransform())
for _set in (constraints.positive_definite, constraints.positive_semidefinite):
    transform_to.register(_set, lambda c: PositiveDefiniteTransform())
