"""Tensors in `.npy` files: `from_npy`, and `Tensor.save`."""
