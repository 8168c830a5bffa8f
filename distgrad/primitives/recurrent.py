"""Recurrent layers over whole sequences: one direction of one layer, and its derivative, as one kernel each.

As ops a step of an LSTM is some twenty nodes, with as many for its gradient, and a sequence has many steps. Here a step
is a product and a dozen passes over (N, gates). `x` (*, N, T, gates) are the products with the inputs, with their bias;
`h` and `c` the states before the first step (*, N, width), `w` the weights of the state, transposed: (*, width, gates).
Dimensions in front, the same for all, are those of `vmap`. With `reverse` the last step comes first.

The forward kernels also give what the derivative is worked out of. The backward ones take the gradient of all outputs
and give that of `x` and of the states before; those of the weights are products of these with the states, of all steps
at once. Sigmoids are s(x) = 1 / (1 + exp(-x)), which is exact where they are small.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from distgrad.primitives.base import Attrs, Aval, LabelRule, Labels, expect, primitive
from distgrad.primitives.batching import shifted
from distgrad.primitives.blas import ONE_THREAD
from distgrad.primitives.reductions import contiguous

Arrays = tuple[np.ndarray, ...]
Outs = Arrays | None


def _steps(x: np.ndarray, reverse: bool) -> Iterator[int]:
    steps = range(x.shape[-2])
    return iter(reversed(steps) if reverse else steps)


def _before(states: np.ndarray, first: np.ndarray, reverse: bool) -> np.ndarray:
    """The state before each step."""
    made = np.empty_like(states)
    if reverse:
        made[..., :-1, :], made[..., -1:, :] = states[..., 1:, :], first[..., None, :]
    else:
        made[..., 1:, :], made[..., :1, :] = states[..., :-1, :], first[..., None, :]
    return made


def _made(out: Outs, shapes: Sequence[tuple[int, ...]], dtype: np.dtype) -> Any:
    return tuple(np.empty(shape, dtype) for shape in shapes) if out is None else out


def _shapes(form: str, sizes: dict[str, int], lead: tuple[int, ...]) -> list[tuple[int, ...]]:
    """For words such as "NTH" the shapes."""
    return [(*lead, *(sizes[c] for c in word)) for word in form.split()]


def _sigmoid(x: np.ndarray) -> None:
    np.negative(x, out=x)
    np.exp(x, out=x)
    np.add(x, 1, out=x)
    np.divide(1, x, out=x)


# h = tanh(x + h W), or relu for tanh.
def rnn(
    x: np.ndarray, h: np.ndarray, w: np.ndarray, relu: bool, reverse: bool, out: np.ndarray | None = None
) -> np.ndarray:
    """The states after each step."""
    states = np.empty(x.shape, x.dtype) if out is None else out
    h, w = map(contiguous, (h, w))
    with ONE_THREAD:
        for t in _steps(x, reverse):
            new = np.matmul(h, w)
            np.add(new, x[..., t, :], out=new)
            h = np.maximum(new, 0, out=new) if relu else np.tanh(new, out=new)
            states[..., t, :] = h
    return states


def rnn_backward(
    g: np.ndarray, w: np.ndarray, states: np.ndarray, relu: bool, reverse: bool, out: Outs = None
) -> Arrays:
    """Gradients of x and h."""
    made, first = _made(out, [g.shape, (*g.shape[:-2], g.shape[-1])], g.dtype)
    if relu:
        np.greater(states, 0, out=made, casting="unsafe")
    else:
        np.multiply(states, states, out=made)
        np.subtract(1, made, out=made)
    back, first[...] = contiguous(w.swapaxes(-1, -2)), 0
    with ONE_THREAD:
        for t in _steps(g, not reverse):
            row = made[..., t, :]
            np.add(first, g[..., t, :], out=first)
            np.multiply(row, first, out=row)
            np.matmul(row, back, out=first)
    return made, first


# c = s(f) c + s(i) tanh(g), h = s(o) tanh(c), of the gates i, f, g, o = x + h W; h R in place of h with a projection R.
def lstm(
    x: np.ndarray,
    h: np.ndarray,
    c: np.ndarray,
    w: np.ndarray,
    *projection: np.ndarray,
    reverse: bool,
    out: Outs = None,
) -> Arrays:
    """The states h and c after each step, and the gates after their functions."""
    width, steps = c.shape[-1], x.shape[:-1]
    states, cells, gates = _made(out, [(*steps, h.shape[-1]), (*steps, width), x.shape], x.dtype)
    h, c, w, *turn = map(contiguous, (h, np.array(c), w, *projection))
    row, part = np.empty((*c.shape[:-1], 4 * width), x.dtype), np.empty(c.shape, c.dtype)
    i, f, g, o = (row[..., n * width : (n + 1) * width] for n in range(4))
    with ONE_THREAD:
        for t in _steps(x, reverse):
            np.matmul(h, w, out=row)
            np.add(row, x[..., t, :], out=row)
            np.tanh(g, out=part)
            _sigmoid(row)
            np.copyto(g, part)
            gates[..., t, :] = row
            np.multiply(f, c, out=c)
            np.multiply(i, g, out=part)
            np.add(c, part, out=c)
            cells[..., t, :] = c
            np.tanh(c, out=part)
            np.multiply(part, o, out=part)
            h = np.matmul(part, turn[0]) if turn else part
            states[..., t, :] = h
    return states, cells, gates


def lstm_backward(
    g: np.ndarray,
    last: np.ndarray,
    c: np.ndarray,
    w: np.ndarray,
    cells: np.ndarray,
    gates: np.ndarray,
    *projection: np.ndarray,
    reverse: bool,
    out: Outs = None,
) -> Arrays:
    """Gradients of x, h and c; with a projection that of h after each step too. `last` is that of the last c."""
    width, lead = c.shape[-1], g.shape[:-2]
    shapes = [gates.shape, (*lead, g.shape[-1]), c.shape, *[g.shape for _ in projection]]
    made, first, cell, *totals = _made(out, shapes, g.dtype)
    i, f, z, o = (gates[..., n * width : (n + 1) * width] for n in range(4))
    of_i, of_f, of_z, of_o = (made[..., n * width : (n + 1) * width] for n in range(4))
    # What the gradient of c, and for o that of h, is multiplied by; and by `through` that of h becomes one of c.
    shown = np.tanh(cells)
    through = np.multiply(shown, shown)
    np.multiply(np.subtract(1, through, out=through), o, out=through)
    for factor, gate, other in ((of_i, i, z), (of_f, f, _before(cells, c, reverse)), (of_o, o, shown)):
        np.subtract(1, gate, out=factor)
        np.multiply(factor, gate, out=factor)
        np.multiply(factor, other, out=factor)
    np.multiply(z, z, out=of_z)
    np.multiply(np.subtract(1, of_z, out=of_z), i, out=of_z)
    by_gate = made.reshape(*made.shape[:-1], 4, width)
    back, *turned = (contiguous(p.swapaxes(-1, -2)) for p in (w, *projection))
    first[...], cell[...], part = 0, last, np.empty(c.shape, c.dtype)
    with ONE_THREAD:
        for t in _steps(g, not reverse):
            np.add(first, g[..., t, :], out=first)
            h = first
            if turned:
                totals[0][..., t, :] = first
                h = np.matmul(first, turned[0])
            np.multiply(h, through[..., t, :], out=part)
            np.add(cell, part, out=cell)
            row = by_gate[..., t, :, :]
            np.multiply(row[..., :3, :], cell[..., None, :], out=row[..., :3, :])
            np.multiply(row[..., 3, :], h, out=row[..., 3, :])
            np.multiply(cell, f[..., t, :], out=cell)
            np.matmul(made[..., t, :], back, out=first)
    return made, first, cell, *totals


# h = n + z (h - n), n = tanh(x_n + r a_n), r = s(x_r + a_r), z = s(x_z + a_z) of the gates r, z, n and a = h W + b.
def gru(
    x: np.ndarray, h: np.ndarray, w: np.ndarray, *bias: np.ndarray, reverse: bool, out: Outs = None
) -> Arrays:
    """The states after each step, the gates after their functions, and a_n."""
    width, steps = h.shape[-1], x.shape[:-1]
    states, gates, inner = _made(out, [(*steps, width), x.shape, (*steps, width)], x.dtype)
    h, w = contiguous(h), contiguous(w)
    added = bias[0][..., None, :] if bias else np.zeros((1, 3 * width), x.dtype)
    row, part = np.empty((*h.shape[:-1], 3 * width), x.dtype), np.empty(h.shape, h.dtype)
    both, z = row[..., : 2 * width], row[..., width : 2 * width]
    r, a = row[..., :width], row[..., 2 * width :]
    with ONE_THREAD:
        for t in _steps(x, reverse):
            of_x = x[..., t, :]
            np.matmul(h, w, out=row)
            np.add(row, added, out=row)
            inner[..., t, :] = a
            np.add(both, of_x[..., : 2 * width], out=both)
            _sigmoid(both)
            np.multiply(a, r, out=a)
            np.add(a, of_x[..., 2 * width :], out=a)
            np.tanh(a, out=a)
            gates[..., t, :] = row
            np.subtract(h, a, out=part)
            np.multiply(part, z, out=part)
            h = np.add(part, a)
            states[..., t, :] = h
    return states, gates, inner


def gru_backward(
    g: np.ndarray,
    h: np.ndarray,
    w: np.ndarray,
    states: np.ndarray,
    gates: np.ndarray,
    inner: np.ndarray,
    reverse: bool,
    out: Outs = None,
) -> Arrays:
    """Gradients of x, of a, and of h."""
    width = h.shape[-1]
    made, of_a, first = _made(out, [gates.shape, gates.shape, h.shape], g.dtype)
    r, z, n = (gates[..., k * width : (k + 1) * width] for k in range(3))
    of_r, of_z, of_n = (made[..., k * width : (k + 1) * width] for k in range(3))
    # What the gradient of n, for r, and that of h, for z and n, is multiplied by.
    np.subtract(1, r, out=of_r)
    np.multiply(np.multiply(of_r, r, out=of_r), inner, out=of_r)
    rest = np.subtract(1, z)
    np.multiply(rest, z, out=of_z)
    np.multiply(of_z, _before(states, h, reverse) - n, out=of_z)
    np.multiply(n, n, out=of_n)
    np.multiply(np.subtract(1, of_n, out=of_n), rest, out=of_n)
    both = made.reshape(*made.shape[:-1], 3, width)
    back, part, first[...] = contiguous(w.swapaxes(-1, -2)), np.empty(h.shape, h.dtype), 0
    with ONE_THREAD:
        for t in _steps(g, not reverse):
            np.add(first, g[..., t, :], out=first)
            row, other = both[..., t, :, :], of_a[..., t, :]
            np.multiply(row[..., 1:, :], first[..., None, :], out=row[..., 1:, :])
            np.multiply(row[..., 0, :], row[..., 2, :], out=row[..., 0, :])
            other[..., : 2 * width] = made[..., t, : 2 * width]
            np.multiply(row[..., 2, :], r[..., t, :], out=other[..., 2 * width :])
            np.matmul(other, back, out=part)
            np.multiply(first, z[..., t, :], out=first)
            np.add(first, part, out=first)
    return made, of_a, first


# Shapes and labels. Words name the dimensions of operands and results behind those of `vmap`: N samples, T steps, G
# gates, H the width of a cell, P that of the state. Operands in brackets may be missing.
GATES = {"rnn": 1, "lstm": 4, "gru": 3}
FORMS = {
    "rnn": ("NTH NH HH", "", "NTH"),
    "rnn_backward": ("NTH HH NTH", "", "NTH NH"),
    "lstm": ("NTG NP NH PG", "HP", "NTP NTH NTG"),
    "lstm_backward": ("NTP NH NH PG NTH NTG", "HP", "NTG NP NH"),
    "gru": ("NTG NH HG", "G", "NTH NTG NTH"),
    "gru_backward": ("NTH NH HG NTH NTG NTH", "", "NTG NTG NH"),
}


def _words(name: str, count: int) -> tuple[list[str], list[str]]:
    """The words of so many operands, and of the results."""
    needed, other, results = (form.split() for form in FORMS[name])
    expect(count - len(needed) in (0, len(other)), "{} takes {} operands, not {}", name, len(needed), count)
    given = count > len(needed)
    extra = ["NTP"] if given and name == "lstm_backward" else []
    return needed + other * given, results + extra


def _declare(name: str, kernel: Any, **attrs: str) -> None:
    gates = GATES[name.partition("_")[0]]

    def shape(avals: Sequence[Aval], attrs: Attrs) -> tuple[Aval, ...]:
        words, results = _words(name, len(avals))
        ndim = len(avals[0].shape) - len(words[0])
        lead, dtype = avals[0].shape[: max(0, ndim)], avals[0].dtype
        sizes: dict[str, int] = {}
        for word, aval in zip(words, avals, strict=True):
            good = ndim >= 0 and len(aval.shape) == ndim + len(word) and aval.shape[:ndim] == lead
            expect(good and aval.dtype == dtype and dtype.kind == "f", "{} is not {} of {}", aval, word, name)
            for c, n in zip(word, aval.shape[ndim:], strict=True):
                expect(sizes.setdefault(c, n) == n, "{} is {} and {}", c, sizes[c], n)
        sizes.setdefault("P", sizes["H"])
        expect(sizes.get("G", gates * sizes["H"]) == gates * sizes["H"], "{} gates", sizes.get("G"))
        expect(len(words) > 4 + 2 * (name == "lstm_backward") or sizes["P"] == sizes["H"], "no projection")
        return tuple(Aval(s, dtype) for s in _shapes(" ".join(results), sizes, lead))

    primitive(
        name,
        kernel,
        shape,
        labels=_labels(name),
        batch=shifted(),
        attrs={**attrs, "reverse": "bool"},
        traits={"into", "whole", "rounds"},
        flops=lambda ins, outs, attrs: sum(o.size for o in outs) * (2.0 * ins[1].shape[-1] + 50),
    )


def _labels(name: str) -> LabelRule:
    """Samples, and what `vmap` has put in front, may be cut."""

    def rule(avals: Sequence[Aval], attrs: Attrs) -> Labels:
        words, results = _words(name, len(avals))
        lead = tuple(range(len(avals[0].shape) - len(words[0])))
        ins, outs = (
            tuple((*lead, *(len(lead) if c == "N" else None for c in word)) for word in some)
            for some in (words, results)
        )
        return Labels(ins, outs)

    return rule


_declare("rnn", rnn, relu="bool")
_declare("rnn_backward", rnn_backward, relu="bool")
_declare("lstm", lstm)
_declare("lstm_backward", lstm_backward)
_declare("gru", gru)
_declare("gru_backward", gru_backward)
