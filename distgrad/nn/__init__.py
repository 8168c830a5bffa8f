"""Neural networks: `nn.functional`, the functions without layers around them."""

from distgrad.nn import functional

__all__ = ["functional"]
