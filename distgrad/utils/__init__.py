"""What programs find under `torch.utils`."""

from distgrad.utils import checkpoint, data

__all__ = ["checkpoint", "data"]
