"""Modules that hold modules: Sequential, ModuleList, ModuleDict."""

from __future__ import annotations

import operator
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

from distgrad.nn.module import Module, indented

__all__ = ["ModuleDict", "ModuleList", "Sequential"]


def place(index: Any, length: int) -> int:
    """An index from 0 to length - 1."""
    index = operator.index(index)
    if not -length <= index < length:
        raise IndexError(f"index {index} is out of range")
    return index % length


class _Numbered(Module):
    """Modules in order, under the names "0", "1", and so on."""

    _modules: dict[str, Module]

    def _key(self, index: Any) -> str:
        return list(self._modules)[place(index, len(self._modules))]

    def __setitem__(self, index: int, module: Module) -> None:
        setattr(self, self._key(index), module)

    def __delitem__(self, index: int | slice) -> None:
        names = list(self._modules)[index] if isinstance(index, slice) else [self._key(index)]
        for name in names:
            delattr(self, name)
        self._modules = OrderedDict((str(i), m) for i, m in enumerate(self._modules.values()))

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._modules.values())

    def __getitem__(self, index: Any) -> Any:
        return self._modules[self._key(index)]

    def append(self, module: Module) -> Any:
        """Put a module behind the last; gives the container."""
        self.add_module(str(len(self)), module)
        return self

    def _insert(self, index: int, module: Module) -> None:
        for i in range(len(self._modules), index, -1):
            self._modules[str(i)] = self._modules[str(i - 1)]
        self._modules[str(index)] = module

    def extend(self, modules: Iterable[Module]) -> Any:
        """Put modules behind the last; gives the container."""
        for module in list(modules):
            self.append(module)
        return self

    def pop(self, key: int | slice) -> Any:
        """Take a module out."""
        found = self[key]
        del self[key]
        return found


class Sequential(_Numbered):
    """Modules that are called one after the other: `Sequential(a, b)` or `Sequential(OrderedDict(one=a, two=b))`."""

    def __init__(self, *args: Any):
        super().__init__()
        if len(args) == 1 and isinstance(args[0], OrderedDict):
            for name, module in args[0].items():
                self.add_module(name, module)
        else:
            for i, module in enumerate(args):
                self.add_module(str(i), module)

    def forward(self, input: Any) -> Any:
        """The last module's output."""
        for module in self:
            input = module(input)
        return input

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return type(self)(OrderedDict(list(self._modules.items())[index]))
        return super().__getitem__(index)

    def insert(self, index: int, module: Module) -> Sequential:
        """Put a module before the one at `index`."""
        if not isinstance(module, Module):
            raise AssertionError(f"module should be of type: {Module}")
        length = len(self._modules)
        if not -length <= index <= length:
            raise IndexError(f"Index out of range: {index}")
        self._insert(index + length if index < 0 else index, module)
        return self

    def _same_kind(self, other: Any) -> None:
        if not isinstance(other, Sequential):
            raise ValueError(
                f"add operator supports only objects of Sequential class, but {type(other)} is given."
            )

    def __add__(self, other: Any) -> Sequential:
        self._same_kind(other)
        return Sequential(*self, *other)

    def __iadd__(self, other: Any) -> Sequential:
        self._same_kind(other)
        return self.extend(other)

    def _repeats(self, n: Any) -> int:
        if not isinstance(n, int):
            raise TypeError(f"unsupported operand type(s) for *: {type(self)} and {type(n)}")
        if n <= 0:
            raise ValueError(f"Non-positive multiplication factor {n} for {type(self)}")
        return n

    def __mul__(self, n: int) -> Sequential:
        return Sequential(*list(self) * self._repeats(n))

    __rmul__ = __mul__

    def __imul__(self, n: int) -> Sequential:
        return self.extend(list(self) * (self._repeats(n) - 1))


class ModuleList(_Numbered):
    """A list of modules, whose parameters are the module's that holds it."""

    def __init__(self, modules: Iterable[Module] | None = None):
        super().__init__()
        if modules is not None:
            self.extend(modules)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return type(self)(list(self._modules.values())[index])
        return super().__getitem__(index)

    def insert(self, index: int, module: Module) -> None:
        """Put a module before the one at `index`."""
        self._insert(index, module)

    def extend(self, modules: Iterable[Module]) -> Any:
        """Put modules behind the last; gives the list."""
        if not isinstance(modules, Iterable):
            raise TypeError(
                f"ModuleList.extend should be called with an iterable, but got {type(modules).__name__}"
            )
        return super().extend(modules)

    def __iadd__(self, modules: Iterable[Module]) -> ModuleList:
        return self.extend(modules)

    def __add__(self, other: Iterable[Module]) -> ModuleList:
        return ModuleList(chain(self, other))

    def __repr__(self) -> str:
        """Equal neighbours are printed once, with their count."""
        blocks: list[tuple[int, int, str]] = []  # first, last, text
        for i, text in enumerate(map(repr, self)):
            if blocks and blocks[-1][2] == text:
                blocks[-1] = (blocks[-1][0], i, text)
            else:
                blocks.append((i, i, text))
        if not blocks:
            return f"{self._get_name()}()"
        lines = [f"({a}): {text}" if a == b else f"({a}-{b}): {b - a + 1} x {text}" for a, b, text in blocks]
        return "\n  ".join([f"{self._get_name()}(", *map(indented, lines)]) + "\n)"


def pairs_of(name: str, items: Any) -> Iterator[tuple[Any, Any]]:
    """The pairs of a sequence; torch's errors where an item is none."""
    for i, item in enumerate(items):
        if not isinstance(item, Iterable):
            raise TypeError(
                f"{name} update sequence element #{i} should be Iterable; is{type(item).__name__}"
            )
        pair: Any = item
        if len(pair) != 2:
            raise ValueError(f"{name} update sequence element #{i} has length {len(pair)}; 2 is required")
        yield pair[0], pair[1]


def check_mapping(name: str, items: Any) -> None:
    if not isinstance(items, Iterable):
        raise TypeError(
            f"{name}.update should be called with an iterable of key/value pairs, but got {type(items).__name__}"
        )


class ModuleDict(Module):
    """Modules under names, in the order in which they came."""

    _modules: dict[str, Module]

    def __init__(self, modules: Any = None):
        super().__init__()
        if modules is not None:
            self.update(modules)

    def __getitem__(self, key: str) -> Any:
        return self._modules[key]

    def __setitem__(self, key: str, module: Module) -> None:
        self.add_module(key, module)

    def __delitem__(self, key: str) -> None:
        del self._modules[key]

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __contains__(self, key: str) -> bool:
        return key in self._modules

    def clear(self) -> None:
        """Take all modules out."""
        self._modules.clear()

    def pop(self, key: str) -> Module:
        """Take a module out."""
        return self._modules.pop(key)

    def keys(self) -> Any:
        """The names."""
        return self._modules.keys()

    def items(self) -> Any:
        """(name, module)."""
        return self._modules.items()

    def values(self) -> Any:
        """The modules."""
        return self._modules.values()

    def update(self, modules: Any) -> None:
        """Take modules in, from a mapping or from pairs; a name that is there gets the new module."""
        check_mapping("ModuleDict", modules)
        pairs = (
            modules.items() if isinstance(modules, (Mapping, ModuleDict)) else pairs_of("ModuleDict", modules)
        )
        for key, module in pairs:
            self[key] = module
