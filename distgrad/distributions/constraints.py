"""Sets of allowed values, as `torch.distributions.constraints`. `check` tells of each value whether it is in the set.

Of a distribution over vectors or matrices a value has `event_dim` dimensions, and is judged as one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from distgrad.dtype import finfo
from distgrad.ops.decompositions import eigvalsh
from distgrad.ops.joining import cat as cat_values
from distgrad.ops.joining import stack as stack_values
from distgrad.ops.rearranging import tril
from distgrad.tensor import Tensor


class Constraint:
    """A set of values."""

    is_discrete = False
    event_dim = 0

    def check(self, value: Tensor) -> Tensor:
        """Whether each value is in the set: a bool tensor without the last `event_dim` dimensions."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return self.__class__.__name__[1:] + "()"


class _Tested(Constraint):
    """A set by a test of each number, with its printed form."""

    def __init__(
        self,
        title: str,
        test: Callable[[Tensor], Tensor],
        discrete: bool = False,
        event_dim: int = 0,
        **bounds: Any,
    ):
        self._title, self._test = title, test
        self.__dict__.update(bounds)
        self.is_discrete, self.event_dim = discrete, event_dim

    def check(self, value: Tensor) -> Tensor:
        """Whether each value is in the set."""
        return self._test(value)

    def __repr__(self) -> str:
        return self._title


class _Dependent(Constraint):
    """A set that depends on other arguments, so that nothing can be told of a value alone."""

    def __init__(self, *, is_discrete: bool = False, event_dim: int = 0):
        self.is_discrete, self.event_dim = is_discrete, event_dim

    def __call__(self, *, is_discrete: bool | None = None, event_dim: int | None = None) -> _Dependent:
        return _Dependent(
            is_discrete=self.is_discrete if is_discrete is None else is_discrete,
            event_dim=self.event_dim if event_dim is None else event_dim,
        )

    def check(self, value: Tensor) -> Tensor:
        """Raises ValueError."""
        raise ValueError("Cannot determine validity of dependent constraint")


def is_dependent(constraint: Any) -> bool:
    """Whether the set depends on other arguments."""
    return isinstance(constraint, _Dependent)


class dependent_property(property, _Dependent):
    """A property of a distribution that gives a set, which depends on its arguments."""

    def __init__(
        self, fget: Callable[..., Any] | None = None, *, is_discrete: bool = False, event_dim: int = 0
    ):
        super().__init__(fget)
        self.is_discrete, self.event_dim = is_discrete, event_dim

    def __call__(self, fget: Any = None, **more: Any) -> dependent_property:
        """As a decorator with arguments."""
        return dependent_property(fget, is_discrete=self.is_discrete, event_dim=self.event_dim)


class _Independent(Constraint):
    """Values with further dimensions, all of which must be in a set."""

    def __init__(self, base_constraint: Constraint, reinterpreted_batch_ndims: int):
        self.base_constraint = base_constraint
        self.reinterpreted_batch_ndims = reinterpreted_batch_ndims
        self.is_discrete = base_constraint.is_discrete
        self.event_dim = base_constraint.event_dim + reinterpreted_batch_ndims

    def check(self, value: Tensor) -> Tensor:
        """Whether all of a value's parts are in the set."""
        found = self.base_constraint.check(value)
        if found.dim() < self.reinterpreted_batch_ndims:
            expected = self.base_constraint.event_dim + self.reinterpreted_batch_ndims
            raise ValueError(f"Expected value.dim() >= {expected} but got {value.dim()}")
        return _all_of(found, self.reinterpreted_batch_ndims)

    def __repr__(self) -> str:
        return f"IndependentConstraint({self.base_constraint!r}, {self.reinterpreted_batch_ndims})"


def _all_of(found: Tensor, dims: int) -> Tensor:
    return found.reshape(*found.shape[: found.dim() - dims], -1).all(-1) if dims else found


class MixtureSameFamilyConstraint(Constraint):
    """Values of which each component of a mixture can be asked: all of them are, along a new dimension."""

    def __init__(self, base_constraint: Constraint):
        self.base_constraint = base_constraint
        self.is_discrete, self.event_dim = base_constraint.is_discrete, base_constraint.event_dim

    def check(self, value: Tensor) -> Tensor:
        """Whether a value is in the set of every component."""
        events = self.event_dim
        if value.dim() < events:
            raise ValueError(f"Expected value.dim() >= {events} but got {value.dim()}")
        found = self.base_constraint.check(value.unsqueeze(-1 - events))
        return found.reshape(*value.shape[: value.dim() - events], -1).all(-1)

    def __repr__(self) -> str:
        return f"MixtureSameFamilyConstraint({self.base_constraint!r})"


class _Joined(Constraint):
    """Values whose parts along a dimension are each in a set of their own."""

    def __init__(self, title: str, cseq: Sequence[Constraint], dim: int, lengths: Sequence[int] | None):
        self.cseq, self.dim, self._title, self.lengths = list(cseq), dim, title, lengths
        self.is_discrete = any(c.is_discrete for c in self.cseq)
        inner = max(c.event_dim for c in self.cseq)
        self.event_dim = max(inner + (dim < 0), -dim) if lengths is None else max(inner, -dim)

    def check(self, value: Tensor) -> Tensor:
        """Whether each part is in its set."""
        if self.lengths is None:
            return stack_values(
                [c.check(value.select(self.dim, i)) for i, c in enumerate(self.cseq)], self.dim
            )
        start, found = 0, []
        for c, n in zip(self.cseq, self.lengths, strict=True):
            found.append(c.check(value.narrow(self.dim, start, n)))
            start += n
        return cat_values(found, self.dim)

    def __repr__(self) -> str:
        return f"{self._title}()"


def cat(cseq: Sequence[Constraint], dim: int = 0, lengths: Sequence[int] | None = None) -> Constraint:
    """Values whose parts, of these lengths along `dim`, are each in a set of their own."""
    return _Joined("Cat", cseq, dim, [1] * len(cseq) if lengths is None else list(lengths))


def stack(cseq: Sequence[Constraint], dim: int = 0) -> Constraint:
    """Values whose slices along `dim` are each in a set of their own."""
    return _Joined("Stack", cseq, dim, None)


def _whole(x: Tensor) -> Tensor:
    return x % 1 == 0


def _within(low: Any, x: Tensor, high: Any) -> Tensor:
    return (x >= low) & (x <= high)


def _title(name: str, **bounds: Any) -> str:
    return f"{name}({', '.join(f'{key}={bound}' for key, bound in bounds.items())})"


def greater_than(lower_bound: Any) -> Constraint:
    """Numbers above a bound."""
    return _Tested(
        _title("GreaterThan", lower_bound=lower_bound), lambda x: x > lower_bound, lower_bound=lower_bound
    )


def greater_than_eq(lower_bound: Any) -> Constraint:
    """Numbers from a bound on."""
    return _Tested(
        _title("GreaterThanEq", lower_bound=lower_bound), lambda x: x >= lower_bound, lower_bound=lower_bound
    )


def less_than(upper_bound: Any) -> Constraint:
    """Numbers below a bound."""
    return _Tested(
        _title("LessThan", upper_bound=upper_bound), lambda x: x < upper_bound, upper_bound=upper_bound
    )


def interval(lower_bound: Any, upper_bound: Any) -> Constraint:
    """Numbers from one bound to the other, both included."""
    title = _title("Interval", lower_bound=lower_bound, upper_bound=upper_bound)
    bounds = {"lower_bound": lower_bound, "upper_bound": upper_bound}
    return _Tested(title, lambda x: _within(lower_bound, x, upper_bound), **bounds)


def half_open_interval(lower_bound: Any, upper_bound: Any) -> Constraint:
    """Numbers from one bound on and below the other."""
    title = _title("HalfOpenInterval", lower_bound=lower_bound, upper_bound=upper_bound)
    bounds = {"lower_bound": lower_bound, "upper_bound": upper_bound}
    return _Tested(title, lambda x: (x >= lower_bound) & (x < upper_bound), **bounds)


def integer_interval(lower_bound: Any, upper_bound: Any) -> Constraint:
    """Whole numbers from one bound to the other, both included."""
    title = _title("IntegerInterval", lower_bound=lower_bound, upper_bound=upper_bound)
    bounds = {"lower_bound": lower_bound, "upper_bound": upper_bound}
    return _Tested(title, lambda x: _whole(x) & _within(lower_bound, x, upper_bound), True, **bounds)


def multinomial(upper_bound: Any) -> Constraint:
    """Vectors of counts that sum to at most `upper_bound`."""
    return _Tested(
        "Multinomial()", lambda x: (x >= 0).all(-1) & _whole(x).all(-1) & (x.sum(-1) <= upper_bound), True, 1
    )


def independent(base_constraint: Constraint, reinterpreted_batch_ndims: int) -> Constraint:
    """Values with so many further dimensions, all of whose parts are in a set."""
    return _Independent(base_constraint, reinterpreted_batch_ndims)


def _simple(x: Tensor) -> Tensor:
    return (x >= 0).all(-1) & ((x.sum(-1) - 1).abs() < 1e-6)


def _one(x: Tensor) -> Tensor:
    return ((x == 0) | (x == 1)).all(-1) & (x.sum(-1) == 1)


def _lower(x: Tensor) -> Tensor:
    return _all_of(tril(x) == x, 2)


def _symmetric(x: Tensor) -> Tensor:
    return _all_of((x - x.mT).abs() <= 1e-6 + 1e-5 * x.mT.abs(), 2)


dependent = _Dependent()
boolean = _Tested("Boolean()", lambda x: (x == 0) | (x == 1), True)
real = _Tested("Real()", lambda x: x == x)  # nan is not equal to itself
nonnegative_integer = _Tested("IntegerGreaterThan(lower_bound=0)", lambda x: _whole(x) & (x >= 0), True)
positive_integer = _Tested("IntegerGreaterThan(lower_bound=1)", lambda x: _whole(x) & (x >= 1), True)
positive = greater_than(0.0)
nonnegative = greater_than_eq(0.0)
unit_interval = interval(0.0, 1.0)
simplex = _Tested("Simplex()", _simple, event_dim=1)
one_hot = _Tested("OneHot()", _one, True, 1)
lower_triangular = _Tested("LowerTriangular()", _lower, event_dim=2)
lower_cholesky = _Tested(
    "LowerCholesky()", lambda x: _lower(x) & (x.diagonal(dim1=-2, dim2=-1) > 0).all(-1), event_dim=2
)
square = _Tested("Square()", lambda x: (x == x).all(-1).all(-1), event_dim=2)
positive_definite = _Tested(
    "PositiveDefinite()", lambda x: _symmetric(x) & (eigvalsh(x) > 0).all(-1), event_dim=2
)
positive_semidefinite = _Tested(
    "PositiveSemidefinite()", lambda x: _symmetric(x) & (eigvalsh(x) >= 0).all(-1), event_dim=2
)
corr_cholesky = _Tested(
    "CorrCholesky()",
    lambda x: (
        lower_cholesky.check(x) & ((x.norm(dim=-1) - 1).abs() <= 10 * x.size(-1) * finfo(x.dtype).eps).all(-1)
    ),
    event_dim=2,
)
symmetric = _Tested("Symmetric()", _symmetric, event_dim=2)
real_vector = independent(real, 1)
