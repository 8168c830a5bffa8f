"""Cases of recurrent kernels, for `primitive_cases.py`: derivatives by differences of the recurrences themselves."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from cases import case, normal
from references_recurrent import gru, lstm, rnn

Array = np.ndarray
N, T, H, P = 2, 3, 2, 1
STEP = 1e-6


def derivative(f: Callable[[Array], Any], x: Array, g: Any) -> Array:
    """Of the sum of g times f(x), where f gives several arrays."""
    made = np.empty_like(x)
    for at in np.ndindex(x.shape):
        ends = []
        for sign in (STEP, -STEP):
            moved = x.copy()
            moved[at] += sign
            ends.append(sum((a * b).sum() for a, b in zip(f(moved), g, strict=True)))
        made[at] = (ends[0] - ends[1]) / (2 * STEP)
    return made


def double(*shape: int) -> Array:
    return normal(*shape, dtype="float64") / 2


for _reverse in (False, True):
    _lead = (2,) if _reverse else ()
    for _relu in (False, True):
        _x, _h, _w = double(*_lead, N, T, H), double(*_lead, N, H), double(*_lead, H, H)
        _how: dict[str, Any] = {"relu": _relu, "reverse": _reverse}
        case("rnn", partial(rnn, **_how), _x, _h, _w, **_how)
        _g = double(*_x.shape)
        _want = [
            derivative(lambda x, h=_h, w=_w, how=_how: [rnn(x, h, w, **how)], _x, [_g]),
            derivative(lambda h, x=_x, w=_w, how=_how: [rnn(x, h, w, **how)], _h, [_g]),
        ]
        case("rnn_backward", lambda *_, want=_want: tuple(want), _g, _w, rnn(_x, _h, _w, **_how), **_how)

    for _bias in (np.zeros((*_lead, 3 * H)), double(*_lead, 3 * H)):
        _x, _h, _w = double(*_lead, N, T, 3 * H), double(*_lead, N, H), double(*_lead, H, 3 * H)
        _rest = (_bias,) if _bias.any() else ()
        case("gru", partial(gru, reverse=_reverse), _x, _h, _w, *_rest, reverse=_reverse)
        _g, _kept = double(*_lead, N, T, H), gru(_x, _h, _w, _bias, _reverse)
        _f = partial(gru, reverse=_reverse)
        _of_x = derivative(lambda x, f=_f, h=_h, w=_w, b=_bias: [f(x, h, w, b)[0]], _x, [_g])
        _of_h = derivative(lambda h, f=_f, x=_x, w=_w, b=_bias: [f(x, h, w, b)[0]], _h, [_g])
        _of_a = np.concatenate([_of_x[..., : 2 * H], _of_x[..., 2 * H :] * _kept[1][..., :H]], -1)
        _want = [_of_x, _of_a, _of_h]
        case("gru_backward", lambda *_, want=_want: tuple(want), _g, _h, _w, *_kept, reverse=_reverse)

    for _width in (H, P):
        _rest = (double(*_lead, H, P),) if _width == P else ()
        _x, _h, _c = double(*_lead, N, T, 4 * H), double(*_lead, N, _width), double(*_lead, N, H)
        _w = double(*_lead, _width, 4 * H)
        case("lstm", partial(lstm, reverse=_reverse), _x, _h, _c, _w, *_rest, reverse=_reverse)
        _g = [double(*_lead, N, T, _width), double(*_lead, N, H)]

        def _f(
            x: Array, h: Array, c: Array, w: Array = _w, rest: Any = _rest, reverse: bool = _reverse
        ) -> list[Array]:
            states, cells, _ = lstm(x, h, c, w, *rest, reverse=reverse)
            return [states, cells[..., 0 if reverse else -1, :]]

        _of_x = derivative(lambda x, f=_f, h=_h, c=_c: f(x, h, c), _x, _g)
        _want = [
            _of_x,
            derivative(lambda h, f=_f, x=_x, c=_c: f(x, h, c), _h, _g),
            derivative(lambda c, f=_f, x=_x, h=_h: f(x, h, c), _c, _g),
        ]
        if _rest:  # what comes to h from the output and from the step after it
            _later = _of_x @ _w.swapaxes(-1, -2)[..., None, :, :]
            _shift, _end = np.roll(_later, 1 if _reverse else -1, -2), 0 if _reverse else -1
            _shift[..., _end, :] = 0
            _want.append(_g[0] + _shift)
        _kept = lstm(_x, _h, _c, _w, *_rest, reverse=_reverse)[1:]
        case(
            "lstm_backward", lambda *_, want=_want: tuple(want), *_g, _c, _w, *_kept, *_rest, reverse=_reverse
        )
