"""Anomaly mode: which forward call is to blame for a backward that fails or gives NaN."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

ENABLED = "Anomaly Detection has been enabled"
NAN = "Function 'SqrtBackward0' returned nan values in its 0th output."


def failing(call: Callable[[], Any], error: type[Exception]) -> tuple[str, list[warnings.WarningMessage]]:
    """The message of the error that a call raises, and the warnings before it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(error) as raised:
            call()
    return str(raised.value), caught


def test_nan_is_traced_to_the_users_line(anywhere: ModuleType) -> None:
    torch = anywhere
    x = torch.tensor([-1.0, 4.0], requires_grad=True)
    with pytest.warns(UserWarning, match=ENABLED):
        mode = torch.autograd.detect_anomaly()
    with mode:
        assert torch.is_anomaly_enabled()
        line = inspect.currentframe().f_lineno + 1  # type: ignore[union-attr]
        y = x.sqrt() * 1
        message, (warning,) = failing(y.sum().backward, RuntimeError)
    assert not torch.is_anomaly_enabled()
    assert message == NAN
    text = str(warning.message)
    assert text.startswith(
        "Error detected in SqrtBackward0. Traceback of forward call that caused the error:\n"
    )
    assert text.splitlines()[-2].startswith(f'  File "{__file__}", line {line}, in test_nan_is_traced')
    assert text.splitlines()[-1] == "    y = x.sqrt() * 1"
    assert warning.filename == __file__


def test_a_forward_call_outside_of_it_is_not_known(anywhere: ModuleType) -> None:
    torch = anywhere
    y = torch.tensor([-1.0], requires_grad=True).sqrt() * 1
    with torch.autograd.set_detect_anomaly(True):
        message, (warning,) = failing(y.backward, RuntimeError)
    assert message == NAN
    assert str(warning.message).endswith("Enable detect anomaly during forward pass for more information.")


def test_nan_may_be_let_through(anywhere: ModuleType) -> None:
    torch = anywhere
    x = torch.tensor([-1.0], requires_grad=True)
    with torch.autograd.set_detect_anomaly(True, check_nan=False):
        assert not torch.is_anomaly_check_nan_enabled()
        (x.sqrt() * 1).backward()
    assert torch.is_anomaly_check_nan_enabled()
    assert x.grad.isnan().all()


def test_errors_of_hooks_and_functions_are_traced_too(anywhere: ModuleType) -> None:
    torch = anywhere
    x = torch.tensor([2.0], requires_grad=True)
    with torch.autograd.set_detect_anomaly(True):
        (g,) = torch.autograd.grad(x**3, x, create_graph=True)
        z = g * 1
        z.register_hook(lambda g: 1 / 0)
        _, found = failing(z.backward, ZeroDivisionError)
        assert str(found[0].message).startswith("Error detected in MulBackward0. Traceback of forward call")
        _, found = failing(lambda: torch.autograd.grad(g, x, g * float("nan")), RuntimeError)
    assert len(found) == 2
    assert str(found[1].message).startswith(
        "\n\nPrevious calculation was induced by PowBackward0. Traceback of"
    )


def test_it_can_be_set_for_good(anywhere: ModuleType) -> None:
    torch = anywhere
    torch.autograd.set_detect_anomaly(True, False)
    try:
        with torch.autograd.set_detect_anomaly(False):
            assert not torch.is_anomaly_enabled()
        assert torch.is_anomaly_enabled()
        assert "traceback_" in (torch.ones(1, requires_grad=True) * 2).grad_fn.metadata
    finally:
        torch.autograd.set_detect_anomaly(False)
    assert (torch.ones(1, requires_grad=True) * 2).grad_fn.metadata == {}
