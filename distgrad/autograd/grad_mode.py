"""Whether ops are recorded: `autograd.grad_mode`, as torch has it."""

from distgrad.record import enable_grad, inference_mode, no_grad, set_grad_enabled

__all__ = ["enable_grad", "inference_mode", "no_grad", "set_grad_enabled"]
