"""Finding the forward call whose backward fails or gives NaN: `detect_anomaly`, as `torch.autograd.anomaly_mode`."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from distgrad.callsites import PACKAGE
from distgrad.record import BackwardNode, anomaly, grad_mode

__all__ = ["detect_anomaly", "set_detect_anomaly"]

ENABLED = (
    "Anomaly Detection has been enabled. This mode will increase the runtime "
    "and should only be enabled for debugging."
)


class set_detect_anomaly:
    """Set anomaly mode at once, and until the end of the block where it is used with `with`.

    While it is on, each node notes the user's stack when it is recorded; if its backward raises, a warning shows that
    stack. With `check_nan` a gradient with NaN in it is an error: for that a number of each gradient is fetched.
    """

    def __init__(self, mode: bool, check_nan: bool = True):
        self.before = anomaly.enabled, anomaly.check_nan
        anomaly.enabled, anomaly.check_nan = bool(mode), bool(check_nan)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc: object) -> None:
        anomaly.enabled, anomaly.check_nan = self.before


class detect_anomaly:
    """Anomaly mode in a block; see `set_detect_anomaly`."""

    def __init__(self, check_nan: bool = True):
        self.check_nan = check_nan
        warnings.warn(ENABLED, stacklevel=2)

    def __enter__(self) -> None:
        self.before = anomaly.enabled, anomaly.check_nan
        anomaly.enabled, anomaly.check_nan = True, bool(self.check_nan)

    def __exit__(self, *exc: object) -> None:
        anomaly.enabled, anomaly.check_nan = self.before


def is_anomaly_enabled() -> bool:
    """Whether anomaly mode is on."""
    return anomaly.enabled


def is_anomaly_check_nan_enabled() -> bool:
    """Whether anomaly mode looks for NaN, if it is on."""
    return anomaly.check_nan


def watched(
    node: BackwardNode, apply: Callable[..., Any], grads: list[Any], wanted: Sequence[bool] | None
) -> Sequence[Any]:
    """The gradients that a node gives, checked; nodes recorded meanwhile know from which one they come."""
    anomaly.running.node = node
    found: Sequence[Any] = apply(grads, wanted)
    if anomaly.check_nan:
        for i, g in enumerate(found):
            if g is not None and _has_nan(g):
                raise RuntimeError(f"Function '{node.name()}' returned nan values in its {i}th output.")
    return found


def _has_nan(g: Any) -> bool:
    before, grad_mode.enabled = grad_mode.enabled, False
    try:
        return bool(g.isnan().any().item())
    finally:
        grad_mode.enabled = before


def reported(node: BackwardNode) -> None:
    """Warn that a node's backward failed, with the stacks of the calls that recorded it, as far as they are known."""
    text = f"Error detected in {node.name()}. "
    stack = node.metadata.get("traceback_")
    if stack is None:
        text += "No forward pass information available. Enable detect anomaly during forward pass for more information."
    else:
        text += f"Traceback of forward call that caused the error:\n{''.join(stack)}"
    _warn(text)
    while (parent := node.metadata.get("parent_")) is not None:
        node = parent
        stack = node.metadata.get("traceback_")
        if stack is None:
            _warn(
                f"\n\nPrevious calculation was induced by {node.name()}. No forward pass information available. Enable "
                "detect anomaly during forward pass for more information."
            )
        else:
            _warn(
                f"\n\nPrevious calculation was induced by {node.name()}. Traceback of forward call that induced the "
                f"previous calculation:\n{''.join(stack)}"
            )


def _warn(text: str) -> None:
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(PACKAGE):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, stacklevel=level)
