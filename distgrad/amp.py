"""`torch.amp`: lower precision is not there, so only what is turned off, or turns itself off, works."""

from __future__ import annotations

import contextlib
import warnings
from typing import Any

__all__ = ["GradScaler", "autocast"]


class autocast(contextlib.ContextDecorator):
    """Lower precision inside: refused on the CPU unless `enabled=False`; for `cuda`, which is not there, turned off."""

    def __init__(
        self, device_type: str = "cuda", dtype: Any = None, enabled: bool = True, cache_enabled: Any = None
    ):
        if enabled and device_type == "cuda":
            text = "User provided device_type of 'cuda', but CUDA is not available. Disabling"
            warnings.warn(text, stacklevel=2)
        elif enabled:
            raise NotImplementedError(
                f"autocast for '{device_type}' needs a lower precision, which distgrad does not have yet: "
                "pass enabled=False"
            )

    def __enter__(self) -> autocast:
        return self

    def __exit__(self, *error: Any) -> None:
        return None


class GradScaler:
    """Scales losses for float16, which is not there: disabled, as in torch without CUDA, it passes all through."""

    def __init__(self, device: str = "cuda", *_: Any, enabled: bool = True, **__: Any):
        if enabled:
            text = "torch.cuda.amp.GradScaler is enabled, but CUDA is not available.  Disabling."
            warnings.warn(text, stacklevel=2)

    def scale(self, outputs: Any) -> Any:
        """The outputs as they are."""
        return outputs

    def unscale_(self, optimizer: Any) -> None:
        """Nothing was scaled."""

    def step(self, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        """`optimizer.step()`."""
        return optimizer.step(*args, **kwargs)

    def update(self, new_scale: Any = None) -> None:
        """There is no scale."""

    def is_enabled(self) -> bool:
        """False."""
        return False

    def get_scale(self) -> float:
        """1.0."""
        return 1.0

    def state_dict(self) -> dict[str, Any]:
        """Empty."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to load."""
