"""Cases of the kernels of normalisation, for `primitive_cases.py`: derivatives by differences."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from cases import case
from recurrent_cases import derivative, double
from references_nn import standardized

EPS = 0.1
for _x, _w, _dims, _centre in (
    ((3, 4), (1, 4), (1,), True),
    ((3, 4), (1, 4), (1,), False),
    ((2, 3, 2, 2), (1, 3, 1, 1), (0, 2, 3), True),
    ((2, 3, 4), (), (1, 2), True),
):
    _how: dict[str, Any] = {"dims": _dims, "eps": EPS, "centre": _centre}
    _arrays = [double(*_x), *(double(*_w) for _ in range(2) if _w)]
    case("standardize", partial(standardized, **_how), *_arrays, **_how)
    case("standardize", partial(standardized, **_how), *(a.astype(np.float32) for a in _arrays), **_how)
    _g, (_, _mean, _variance) = double(*_x), standardized(*_arrays, **_how)
    _first, _weights = _arrays[0], _arrays[1:2]
    _f = partial(standardized, **_how)
    _want = derivative(lambda x, f=_f, w=_weights: f(x, *w)[:1], _first, [_g])
    case("standardize_input", lambda *_, want=_want: want, _g, _first, _mean, _variance, *_weights, **_how)
    if _w:
        _summed = tuple(d for d, n in enumerate(_w) if n == 1)
        _want = derivative(lambda w, f=_f, x=_first: f(x, w)[:1], _weights[0], [_g])
        _rest = {"summed": _summed, "eps": EPS, "centre": _centre}
        case("standardize_weight", lambda *_, want=_want: want, _g, _first, _mean, _variance, **_rest)
