"""What all distributions have in common: `Distribution`, as `torch.distributions.Distribution`."""

from __future__ import annotations

import warnings
from typing import Any

from distgrad import session
from distgrad.distributions import constraints
from distgrad.dtype import Size
from distgrad.ops.pointwise import exp
from distgrad.record import no_grad
from distgrad.tensor import Tensor


def parameters(**sets: Any) -> dict[str, Any]:
    """The set that each parameter of a distribution must be in."""
    return sets


class Distribution:
    """A random variable: a batch of distributions over values of shape `event_shape`, whose parameters are tensors.

    Arguments and values are checked as in torch. Those that lie on the workers, or are not computed yet, are checked
    only if `validate_args=True` is said, since a check waits for them.
    """

    has_rsample = False
    has_enumerate_support = False
    _validate_args = __debug__
    arg_constraints: Any = parameters()

    def __init__(self, batch_shape: Any = (), event_shape: Any = (), validate_args: bool | None = None):
        self._batch_shape, self._event_shape = Size(batch_shape), Size(event_shape)
        self._validates_all = validate_args is True
        if validate_args is not None:
            self._validate_args = validate_args
        if self._validate_args:
            for name, constraint in self.arg_constraints.items():
                if constraints.is_dependent(constraint) or name not in self.__dict__:
                    continue  # made of another argument, which is checked
                value = getattr(self, name)
                if isinstance(value, Tensor) and self._can_check(value):
                    found = constraint.check(value)
                    if not found.all():
                        raise ValueError(
                            f"Expected parameter {name} ({type(value).__name__} of shape {tuple(value.shape)}) of "
                            f"distribution {self!r} to satisfy the constraint {constraint!r}, but found invalid "
                            f"values:\n{value}"
                        )

    @staticmethod
    def set_default_validate_args(value: bool) -> None:
        """Whether arguments and values are checked where nothing else is said."""
        if value not in (True, False):
            raise ValueError
        Distribution._validate_args = value

    def _can_check(self, value: Tensor) -> bool:
        return self._validates_all or session.at_hand(value._value)

    @property
    def batch_shape(self) -> Size:
        """How many distributions there are."""
        return self._batch_shape

    @property
    def event_shape(self) -> Size:
        """The shape of one value."""
        return self._event_shape

    @property
    def support(self) -> Any:
        """The set of possible values."""
        raise NotImplementedError

    @property
    def mean(self) -> Tensor:
        """The expected value."""
        raise NotImplementedError

    @property
    def mode(self) -> Tensor:
        """The likeliest value."""
        raise NotImplementedError(f"{self.__class__} does not implement mode")

    @property
    def variance(self) -> Tensor:
        """The variance."""
        raise NotImplementedError

    @property
    def stddev(self) -> Tensor:
        """The standard deviation."""
        return self.variance.sqrt()

    def expand(self, batch_shape: Any, _instance: Any = None) -> Distribution:
        """The same distributions, repeated to another batch shape."""
        new = self._get_checked_instance(_instance)
        batch_shape = Size(batch_shape)
        self._expand_into(new, batch_shape)
        Distribution.__init__(new, batch_shape, self.event_shape, validate_args=False)
        new._validate_args, new._validates_all = self._validate_args, self._validates_all
        return new

    def _expand_into(self, new: Any, batch_shape: Size) -> None:
        """Give `new` this distribution's parameters, expanded."""
        for name, constraint in self.arg_constraints.items():
            if name in self.__dict__:
                value = getattr(self, name)
                if isinstance(value, Tensor):
                    event = value.shape[value.dim() - constraint.event_dim :]
                    value = value.expand(batch_shape + event)
                setattr(new, name, value)

    def _get_checked_instance(self, instance: Any) -> Any:
        return type(self).__new__(type(self)) if instance is None else instance

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Values of shape `sample_shape + batch_shape + event_shape`, without a gradient."""
        with no_grad():
            return self.rsample(sample_shape)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Values with gradients in the parameters (the reparameterisation trick)."""
        raise NotImplementedError

    def sample_n(self, n: int) -> Tensor:
        """Deprecated: `sample((n,))`."""
        warnings.warn("sample_n will be deprecated. Use .sample((n,)) instead", FutureWarning, stacklevel=2)
        return self.sample((n,))

    def log_prob(self, value: Tensor) -> Tensor:
        """The logarithm of the density or probability of a value."""
        raise NotImplementedError

    def cdf(self, value: Tensor) -> Tensor:
        """The probability of a value or less."""
        raise NotImplementedError

    def icdf(self, value: Tensor) -> Tensor:
        """The value that has this probability or less: the inverse of `cdf`."""
        raise NotImplementedError

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All possible values, along a new first dimension."""
        raise NotImplementedError

    def entropy(self) -> Tensor:
        """The entropy, in nats."""
        raise NotImplementedError

    def perplexity(self) -> Tensor:
        """exp(entropy)."""
        return exp(self.entropy())

    def _extended_shape(self, sample_shape: Any = ()) -> Size:
        return Size((*sample_shape, *self._batch_shape, *self._event_shape))

    def _validate_sample(self, value: Tensor) -> None:
        """Raise ValueError for a value that does not fit; done by `log_prob` and `cdf`."""
        if not self._validate_args:
            return
        if not isinstance(value, Tensor):
            raise ValueError("The value argument to log_prob must be a Tensor")
        events = len(self._event_shape)
        if value.shape[value.dim() - events :] != self._event_shape:
            raise ValueError(
                f"The right-most size of value must match event_shape: {value.size()} vs {self._event_shape}."
            )
        expected = self._batch_shape + self._event_shape
        for i, j in zip(reversed(value.size()), reversed(expected), strict=False):
            if i != 1 and j != 1 and i != j:
                raise ValueError(
                    f"Value is not broadcastable with batch_shape+event_shape: {value.size()} vs {expected}."
                )
        try:
            support = self.support
        except NotImplementedError:
            warnings.warn(
                f"{self.__class__} does not define `support` to enable sample validation. Please initialize the "
                "distribution with `validate_args=False` to turn off validation.",
                stacklevel=2,
            )
            return
        if self._can_check(value) and not support.check(value).all():
            raise ValueError(
                f"Expected value argument ({type(value).__name__} of shape {tuple(value.shape)}) to be within the "
                f"support ({support!r}) of the distribution {self!r}, but found invalid values:\n{value}"
            )

    def __repr__(self) -> str:
        shown = []
        for name in self.arg_constraints:
            if name in self.__dict__:
                value = self.__dict__[name]
                one = not isinstance(value, Tensor) or value.numel() == 1
                shown.append(f"{name}: {value if one else value.size()}")
        return f"{self.__class__.__name__}({', '.join(shown)})"
