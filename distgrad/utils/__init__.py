"""What programs find under `torch.utils`."""

from distgrad.utils import data

__all__ = ["data"]
