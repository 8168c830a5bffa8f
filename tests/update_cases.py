"""Samples of optimizers' steps for `primitive_cases`. That they are right, `test_optimizers.py` says."""

from __future__ import annotations

import numpy as np
from primitive_cases import case, normal

from distgrad.primitives.updates import RULES

for _name, _rule in RULES.items():
    _options = sorted(_rule.options)
    for _chosen in ((), _options):
        for _shape in ((7, 5),) if _name != "sgd" else ((7, 5), ()):
            _state = [np.abs(normal(*_shape)) for _ in range(_rule.states(frozenset(_chosen)))]
            _numbers = np.linspace(0.1, 0.9, _rule.numbers)
            case(
                "update",
                None,
                *(normal(*_shape), normal(*_shape), _numbers, *_state),
                rule=_name,
                options=" ".join(_chosen),
            )
