"""Samples of optimizers' steps for `primitive_cases`. That they are right, `test_optimizers.py` says."""

from __future__ import annotations

import math

import numpy as np
from cases import case, normal

from distgrad.primitives import updates
from distgrad.primitives.optimizer_rules import RULES

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

        # Several parameters, the last of them too large to be put together with others.
        _shapes = ((3, 2), (), (5,), (2, updates.CHUNK // 2 + 3)) if _name == "sgd" else ((3, 2), (5,))
        _size = sum(math.prod(_shape) for _shape in _shapes)
        _state = [np.abs(normal(_size)) for _ in range(_rule.states(frozenset(_chosen)))]
        _tensors = [normal(*_shape) for _shape in (*_shapes, *_shapes)]
        case("update_all", None, _numbers, *_state, *_tensors, rule=_name, options=" ".join(_chosen))

        # Several of one shape, each with its part of what is stacked.
        _stacked = [np.abs(normal(3, 7, 5)) for _ in _state]
        _tensors = [normal(7, 5) for _ in range(6)]
        case("update_alike", None, _numbers, *_stacked, *_tensors, rule=_name, options=" ".join(_chosen))
