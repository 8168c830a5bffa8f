"""Random tensors: Philox, keyed by the seed, the number of the draw and each element's position (promise P2)."""

from __future__ import annotations

import os
import threading
from typing import Any

import numpy as np

from distgrad import session, vmaps
from distgrad.cutting import sharding_of
from distgrad.dtype import INT64, NAMES, default_numpy, dtype_of
from distgrad.dtype import device as Device
from distgrad.graph import Value
from distgrad.ops.base import Tensor, attach
from distgrad.ops.helpers import hint
from distgrad.ops.making import _only_size, finished, integer, shape_of
from distgrad.scalars import C_NAMES, holds


class Generator:
    """A seed and a count of draws: all the state there is. `device` is the CPU."""

    def __init__(self, device: Any = "cpu") -> None:
        if Device(device).type != "cpu":
            raise RuntimeError(
                f"Device type {Device(device).type} is not supported for torch.Generator() api."
            )
        self.device = Device(device)
        self._seed = int.from_bytes(os.urandom(7), "little")
        self._draws = 0

    def manual_seed(self, seed: int) -> Generator:
        """Start anew from `seed`, from -2**63 to 2**64 - 1; a negative one counts from 2**64."""
        seed = int(seed)
        if not -(2**63) <= seed < 2**64:
            raise ValueError("Overflow when unpacking long long")
        self._seed, self._draws = seed % 2**64, 0
        return self

    def seed(self) -> int:
        """Start anew from a seed of the system's; gives it back."""
        self._seed, self._draws = int.from_bytes(os.urandom(7), "little"), 0
        return self._seed

    def initial_seed(self) -> int:
        """The seed in use."""
        return self._seed

    def get_state(self) -> Tensor:
        """Seed and draws, as an int64 tensor."""
        return Tensor(self._key())

    def set_state(self, state: Tensor) -> Generator:
        """Go on from a state of `get_state`."""
        self._seed, self._draws = (int(n) for n in state.tolist())
        self._seed %= 2**64
        return self

    def clone_state(self) -> Generator:
        """Another generator with the same state."""
        return Generator(self.device).set_state(self.get_state())

    def _key(self) -> Value:
        seed = (self._seed + 2**63) % 2**64 - 2**63
        return Value.known(np.array([seed, self._draws], np.int64))

    def draw(self) -> Value:
        """The key of the next draw."""
        key = self._key()
        self._draws += 1
        return key


default_generator = Generator()


class _Own(threading.local):
    generator: Generator | None = None


_own = _Own()


def own_generator(generator: Generator) -> None:
    """Give this thread a generator of its own in the place of the default one."""
    _own.generator = generator


def generator_or_default(generator: Any = None) -> Generator:
    """The generator that a program has given; else that of this thread, or the default one."""
    if generator is None:
        return _own.generator or default_generator
    if not isinstance(generator, Generator):
        raise TypeError(f"expected a torch.Generator, got {type(generator).__name__}")
    return generator


def manual_seed(seed: int) -> Generator:
    """Seed the random numbers: the same seed gives the same tensors, for every number of workers and every sharding."""
    return generator_or_default().manual_seed(seed)


def seed() -> int:
    """Seed the random numbers from the system; gives the seed back."""
    return generator_or_default().seed()


def initial_seed() -> int:
    """The seed in use."""
    return generator_or_default().initial_seed()


def get_rng_state() -> Tensor:
    """The state of the random numbers."""
    return generator_or_default().get_state()


def set_rng_state(state: Tensor) -> None:
    """Go on from a state of `get_rng_state`."""
    generator_or_default().set_state(state)


def drawn(
    name: str,
    shape: tuple[int, ...],
    kind: str,
    numpy_dtype: np.dtype,
    low: int = 0,
    high: int = 0,
    sharding: Any = None,
    generator: Any = None,
) -> Value:
    """Random numbers of a kind ("uniform", "normal" or "integers") for the op `name`."""
    cuts = None if sharding is None else hint(sharding_of(shape, sharding), numpy_dtype)

    def draw(shape: tuple[int, ...], cuts: Any) -> Value:
        key = generator_or_default(generator).draw()
        return session.emit(
            "random", key, shape=shape, kind=kind, dtype=NAMES[numpy_dtype], low=low, high=high, cuts=cuts
        )

    with session.called(name):
        return vmaps.drawn(shape, cuts, draw) if vmaps.active.levels else draw(shape, cuts)


def _float(name: str, wanted: Any, otherwise: np.dtype) -> np.dtype:
    numpy_dtype = otherwise if wanted is None else dtype_of(wanted).numpy
    if numpy_dtype.kind != "f":
        title = dtype_of(numpy_dtype).title
        raise NotImplementedError(f"\"{name}\" not implemented for '{title}'")
    return numpy_dtype


CHECKS = {"uniform": "check_uniform_bounds", "normal": "normal_kernel_cpu"}


def _maker(name: str, kind: str, doc: str) -> Any:
    def make(
        *size: Any,
        dtype: Any = None,
        requires_grad: bool = False,
        device: Any = None,
        generator: Generator | None = None,
        sharding: Any = None,
        **more: Any,
    ) -> Tensor:
        shape = shape_of(name, size, _only_size(name, more))
        numpy_dtype = _float(CHECKS[kind], dtype, default_numpy())
        return finished(
            drawn(name, shape, kind, numpy_dtype, 0, 0, sharding, generator), requires_grad, device
        )

    def like(
        input: Tensor,
        *,
        dtype: Any = None,
        requires_grad: bool = False,
        device: Any = None,
        generator: Generator | None = None,
        sharding: Any = None,
        **more: Any,
    ) -> Tensor:
        _only_size(f"{name}_like", more)
        numpy_dtype = _float(CHECKS[kind], dtype, input.dtype.numpy)
        cuts = input.sharding if sharding is None else sharding
        return finished(
            drawn(like.__name__, tuple(input.shape), kind, numpy_dtype, 0, 0, cuts, generator),
            requires_grad,
            device,
        )

    make.__name__, like.__name__ = name, f"{name}_like"
    make.__doc__ = f"{doc} `sharding` gives the cuts, and has no say in the numbers."
    like.__doc__ = f"{doc} Shape, dtype and sharding are those of `input`."
    return make, like


rand, rand_like = _maker("rand", "uniform", "Numbers from [0, 1), all equally likely.")
randn, randn_like = _maker(
    "randn", "normal", "Numbers from the normal distribution with mean 0 and variance 1."
)


def randint(
    low: int,
    high: Any = None,
    size: Any = None,
    *,
    dtype: Any = None,
    requires_grad: bool = False,
    device: Any = None,
    generator: Generator | None = None,
    sharding: Any = None,
) -> Tensor:
    """Integers from `low` to `high - 1`: `randint(high, size)` or `randint(low, high, size)`."""
    if size is None:
        low, high, size = 0, integer("randint", "high", 1, low), high
    elif high is None:
        low, high = 0, integer("randint", "high", 1, low)
    else:
        low, high = integer("randint", "low", 1, low), integer("randint", "high", 2, high)
    if low >= high:
        raise RuntimeError(f"random_ expects 'from' to be less than 'to', but got from={low} >= to={high}")
    shape = shape_of("randint", (size,))
    wanted = INT64 if dtype is None else dtype_of(dtype).numpy
    for text, x in (("from", low), ("to - 1", high - 1)):
        if (wanted.kind == "b" and x not in (0, 1)) or not holds(x, wanted):
            raise RuntimeError(f"{text} is out of bounds for {C_NAMES[wanted.name]}")
    value = drawn("randint", shape, "integers", INT64, low, high, sharding, generator)
    if wanted != INT64:
        value = session.emit("cast", value, dtype=NAMES[wanted])
    return finished(value, requires_grad, device)


def randint_like(
    input: Tensor, low: int, high: int | None = None, *, dtype: Any = None, **options: Any
) -> Tensor:
    """Integers from `low` to `high - 1` in the shape, dtype and sharding of `input`."""
    low, high = (0, low) if high is None else (low, high)
    options.setdefault("sharding", input.sharding)
    return randint(low, high, tuple(input.shape), dtype=dtype or input.dtype, **options)


def randperm(
    n: int,
    *,
    dtype: Any = None,
    requires_grad: bool = False,
    device: Any = None,
    generator: Generator | None = None,
) -> Tensor:
    """The integers from 0 to n - 1 in random order. The order is made in the driver."""
    n = integer("randperm", "n", 1, n)
    if n < 0:
        raise RuntimeError(f"Trying to create tensor with negative dimension {n}: [{n}]")
    wanted = INT64 if dtype is None else dtype_of(dtype).numpy
    if wanted.kind == "b":
        raise NotImplementedError("\"randperm\" not implemented for 'Bool'")
    key = session.fetch(generator_or_default(generator).draw())
    order = np.random.Generator(np.random.Philox(key=key.view(np.uint64))).permutation(n)
    return finished(session.constant(order.astype(wanted)), requires_grad, device)


# In place.
def uniform_(
    input: Tensor, from_: float = 0.0, to: float = 1.0, *, generator: Any = None, **more: Any
) -> Tensor:
    """Fill with numbers from [from, to), all equally likely. The numbers do not depend on the sharding."""
    from_ = more.pop("from", from_)
    _nothing_else("uniform_", more)
    value = _drawn_like("uniform_", "check_uniform_bounds", input, "uniform", generator)
    if from_ > to:
        raise RuntimeError(
            f"uniform_ expects to return a [from, to) range, but found from={from_:g} > to={to:g}"
        )
    return input.copy_(Tensor(value) * (to - from_) + from_)


def normal_(input: Tensor, mean: float = 0.0, std: float = 1.0, *, generator: Any = None) -> Tensor:
    """Fill with numbers from a normal distribution. The numbers do not depend on the sharding."""
    if std < 0:
        raise RuntimeError(f"normal expects std >= 0.0, but found std {std:g}")
    value = _drawn_like("normal_", "normal_kernel_cpu", input, "normal", generator)
    return input.copy_(Tensor(value) * std + mean)


def _drawn_like(name: str, check: str, input: Tensor, kind: str, generator: Any) -> Value:
    target = input._avals
    return drawn(
        name, target.shape, kind, _float(check, None, target.dtype), 0, 0, target.sharding, generator
    )


def _nothing_else(name: str, more: dict[str, Any]) -> None:
    if more:
        raise TypeError(f"{name}() got an unexpected keyword argument '{next(iter(more))}'")


attach(uniform_=uniform_, normal_=normal_)
