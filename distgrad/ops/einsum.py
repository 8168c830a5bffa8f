"""einsum: sums of products of any number of tensors, written as an equation of subscripts."""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from typing import Any

from distgrad import session
from distgrad.ops.base import Ints, Tensor, call, composite, constant
from distgrad.ops.making import as_tensor
from distgrad.ops.products import _contract, check_scalar_types, sums
from distgrad.ops.samples import real

__all__ = ["einsum"]

LETTERS = string.ascii_uppercase + string.ascii_lowercase  # in torch's order
INNER = "".join(
    chr(i) for i in range(0x3B1, 0x3B1 + 64) if chr(i).isalpha()
)  # for the dimensions of an ellipsis
Term = tuple[Tensor, str]  # a tensor and a letter for each of its dimensions


@composite(
    method=False,
    samples=lambda: [
        ("ij,jk->ik", [real(2, 3), real(3, 4)]),
        ("ij,kj,k", [real(2, 3), real(4, 3), real(4)]),
        ("...ij,jk...->k...i", [real(2, 2, 3), real(3, 4, 1)]),
        ("ii->i", [real(3, 3)]),
        ("iji,jkk->k", [real(2, 3, 2), real(3, 2, 2)]),
        ("ij,ij->ij", [real(2, 3), real(2, 1)]),
        ("ij->", [real(2, 3)]),
        ("ba", [real(2, 3)]),
        ("i,ijk,j->k", [real(2), real(2, 3, 4), real(3)]),
    ],
)
def einsum(equation: Any, *operands: Any) -> Tensor:
    """Sums of products of the operands, as the subscripts say: `einsum("ij,jk->ik", a, b)`.

    A letter names a dimension of each operand that it stands in; of these one may have length 1. A letter that the
    result lacks is summed over, one that stands twice in an operand takes its diagonal, and `...` stands for dimensions
    that broadcast. Without `->` the result has the letters that stand once, in alphabetical order. The operands are
    multiplied in pairs, those first that give the smallest results. `einsum(a, [0, 1], b, [1, 2], [0, 2])` works too.
    """
    if not isinstance(equation, str):
        equation, operands = _from_lists((equation, *operands))
    if len(operands) == 1 and isinstance(operands[0], (tuple, list)):
        operands = tuple(operands[0])
    if not operands:
        raise ValueError(
            "einsum(): must specify the equation string and at least one operand, or at least one operand and its "
            "subscripts list"
        )
    factors = [as_tensor(x) for x in operands]
    subscripts, out = _parsed(equation, [tuple(x.shape) for x in factors])
    terms = [_diagonal(x, word) for x, word in zip(factors, subscripts, strict=True)]
    terms = _one_length(terms)
    while len(terms) > 1:
        terms = [_summed(x, word, _others(terms, i) | set(out)) for i, (x, word) in enumerate(terms)]
        i, j = _best_pair(terms, out)
        (a, left), (b, right) = terms[i], terms[j]
        rest = [term for n, term in enumerate(terms) if n not in (i, j)]
        made = _kept(left, right, rest, out)
        terms = [(_product(a, b, f"{left},{right}->{made}"), made), *rest]
    ((x, word),) = terms
    if len(factors) > 1:
        return x
    order = (*out, *(c for c in word if c not in out))
    x = call("permute", x, tuple(word.index(c) for c in order))
    return call("sum", x, tuple(range(len(out), len(order)))) if len(out) < len(order) else x


def _product(a: Tensor, b: Tensor, subscripts: str) -> Tensor:
    if not sums(subscripts):
        return _contract(a, b, subscripts)
    check_scalar_types("bmm", a._avals, b._avals)
    return _contract(a, b, subscripts, "ViewBackward0")


def _others(terms: Sequence[Term], i: int) -> set[str]:
    """The letters of all terms but one."""
    return {c for n, (_, word) in enumerate(terms) if n != i for c in word}


def _kept(left: str, right: str, rest: Sequence[Term], out: str) -> str:
    """The letters of a product that others still need, in the order of the result for the last one."""
    if not rest:
        return out
    needed = {c for _, word in rest for c in word} | set(out)
    return "".join(c for c in dict.fromkeys(left + right) if c in needed)


def _best_pair(terms: Sequence[Term], out: str) -> tuple[int, int]:
    """The pair whose product is smallest, compared with its operands; the first of equals."""
    if len(terms) == 2:
        return 0, 1
    lengths = {c: n for x, word in terms for c, n in zip(word, x.shape, strict=True)}

    def growth(pair: tuple[int, int]) -> int:
        i, j = pair
        rest = [term for n, term in enumerate(terms) if n not in pair]
        made = _kept(terms[i][1], terms[j][1], rest, out)
        return math.prod(lengths[c] for c in made) - terms[i][0].numel() - terms[j][0].numel()

    return min(((i, j) for j in range(len(terms)) for i in range(j)), key=growth)


def _summed(x: Tensor, word: str, needed: set[str]) -> Term:
    """Without the letters that nothing else needs."""
    dims = tuple(d for d, c in enumerate(word) if c not in needed)
    if not dims:
        return x, word
    return call("sum", x, dims), "".join(c for c in word if c in needed)


def _one_length(terms: list[Term]) -> list[Term]:
    """Dimensions of length 1 taken out where another operand is longer: they repeat."""
    longest: dict[str, int] = {}
    for x, word in terms:
        for c, n in zip(word, x.shape, strict=True):
            longest[c] = n if longest.get(c, 1) == 1 else longest[c]
    made = []
    for x, word in terms:
        dims = tuple(d for d, (c, n) in enumerate(zip(word, x.shape, strict=True)) if n == 1 != longest[c])
        kept = "".join(c for d, c in enumerate(word) if d not in dims)
        made.append((call("squeeze", x, dims) if dims else x, kept))
    return made


def _diagonal(x: Tensor, word: str) -> Term:
    """One dimension for each letter: what lies off the diagonal becomes 0 and is summed; no element moves."""
    for letter in dict.fromkeys(c for c in word if word.count(c) > 1):
        first, *more = (d for d, c in enumerate(word) if c == letter)
        zero = Tensor(constant(0, x._avals.dtype))
        for d in more:
            x = call("where", _on_diagonal(tuple(x.shape), first, d), x, zero)
        x = call("sum", x, tuple(more), dtype=x.dtype)
        word = "".join(c for d, c in enumerate(word) if d not in more)
    return x, word


def _on_diagonal(shape: Ints, i: int, j: int) -> Tensor:
    """Where the positions along dimensions `i` and `j` are the same."""
    numbers = (
        session.emit("iota", shape=tuple(n if d == e else 1 for e, n in enumerate(shape)), dim=d, cuts=None)
        for d in (i, j)
    )
    return Tensor(session.emit("equal", *numbers))


# The equation.
def _from_lists(arguments: tuple[Any, ...]) -> tuple[str, tuple[Any, ...]]:
    """An equation from `a, [0, 1], b, [1, 2], [0, 2]`."""
    if len(arguments) < 2:
        return "", ()
    spelt = [_spelt(numbers) for numbers in arguments[1::2]]
    equation = ",".join(spelt)
    return (f"{equation}->{_spelt(arguments[-1])}" if len(arguments) % 2 else equation), arguments[
        : 2 * len(spelt) : 2
    ]


def _spelt(numbers: Sequence[Any]) -> str:
    for n in numbers:
        if n is not Ellipsis and not 0 <= n < len(LETTERS):
            raise ValueError("einsum(): subscript in subscript list is not within the valid range [0, 52)")
    return "".join("..." if n is Ellipsis else LETTERS[n] for n in numbers)


def _wrong(text: str) -> RuntimeError:
    return RuntimeError(f"einsum(): {text}")


def _marks(equation: str, start: int, stop: int, who: str, twice: str, alone: str) -> list[str]:
    """Letters, commas and "..." of a part of the equation."""
    found: list[str] = []
    operand, dots, i = 0, False, start
    while i < stop:
        c = equation[i]
        if c == ".":
            if dots:
                raise _wrong(f"found '.' for {who.format(operand)} {twice}")
            if equation[i : min(i + 3, stop)] != "...":
                raise _wrong(f"found '.' for {who.format(operand)} that is not part of any ellipsis{alone}")
            dots, c = True, "..."
        elif c == "," and "{" in who:
            operand, dots = operand + 1, False
        elif c != " " and c not in LETTERS:
            raise _wrong(
                f"invalid subscript given at index {i} in the equation string, subscripts must be in [a-zA-Z]"
            )
        if c != " ":
            found.append(c)
        i += len(c)
    return found


def _parsed(equation: str, shapes: Sequence[Ints]) -> tuple[list[str], str]:
    """A letter for each dimension of each operand, and those of the result; torch's errors."""
    arrow = equation.find("->")
    end = len(equation) if arrow < 0 else arrow
    given: list[list[str]] = [[]]
    for mark in _marks(equation, 0, end, "operand {}", "for which an ellipsis was already found", ""):
        if mark == ",":
            given.append([])
        else:
            given[-1].append(mark)
    if len(given) != len(shapes):
        few = "fewer" if len(given) > len(shapes) else "more"
        raise _wrong(f"{few} operands were provided than specified in the equation")
    covered = [_covered(i, marks, shape) for i, (marks, shape) in enumerate(zip(given, shapes, strict=True))]
    dots = INNER[: max(covered)]
    subscripts = [
        "".join(dots[len(dots) - n :] if m == "..." else m for m in marks)
        for marks, n in zip(given, covered, strict=True)
    ]
    every = "".join(subscripts)
    if arrow < 0:
        out = dots + "".join(sorted(c for c in every if c not in dots and every.count(c) == 1))
    else:
        out = _output(equation, arrow + 2, every, dots)
    _check_lengths(subscripts, shapes, dots)
    return subscripts, out


def _covered(operand: int, marks: list[str], shape: Ints) -> int:
    """How many dimensions an ellipsis stands for."""
    letters = len(marks) - ("..." in marks)
    if "..." in marks and letters > len(shape):
        how = f"is more than the number of dimensions ({len(shape)}) for operand {operand}"
    elif "..." not in marks and letters != len(shape):
        how = f"does not match the number of dimensions ({len(shape)}) for operand {operand} and no ellipsis was given"
    else:
        return len(shape) - letters
    raise _wrong(f"the number of subscripts in the equation ({letters}) {how}")


def _output(equation: str, start: int, every: str, dots: str) -> str:
    marks = _marks(
        equation, start, len(equation), "output", "but an ellipsis (...) was already found", " (...)"
    )
    for i, c in enumerate(marks):
        if c in marks[:i]:
            raise _wrong(f"output subscript {c} appears more than once in the output")
        if c != "..." and c not in every:
            raise _wrong(f"output subscript {c} does not appear in the equation for any input operand")
    return "".join(dots if c == "..." else c for c in marks)


def _check_lengths(subscripts: Sequence[str], shapes: Sequence[Ints], dots: str) -> None:
    seen: dict[str, int] = {}
    for i, (word, shape) in enumerate(zip(subscripts, shapes, strict=True)):
        for d, (c, n) in enumerate(zip(word, shape, strict=True)):
            before = shape[word.index(c)]
            if n != before:
                raise _wrong(
                    f"subscript {c} is repeated for operand {i} but the sizes don't match, {n} != {before}"
                )
            if n != 1 and seen.get(c, 1) not in (1, n):
                if c in dots:
                    raise _wrong(
                        f"dimension {d} covered by ellipsis in operand {i}has size {n} which does not broadcast with "
                        f"previously seen ellipsis with size {seen[c]} for the respective dimension"
                    )
                raise _wrong(
                    f"subscript {c} has size {n} for operand {i} which does not broadcast with previously seen size "
                    f"{seen[c]}"
                )
            if seen.get(c, 1) == 1:
                seen[c] = n
