"""Functions of functions: vmap and the derivatives that compose with it, as `torch.func`."""

from distgrad.func.batch import vmap
from distgrad.func.forward import jacfwd, jvp, linearize
from distgrad.func.functional_call import functional_call, replace_all_batch_norm_modules_, stack_module_state
from distgrad.func.functionalize import functionalize
from distgrad.func.gradient import grad, grad_and_value, vjp
from distgrad.func.jacobian import hessian, jacrev

__all__ = [
    "functional_call",
    "functionalize",
    "grad",
    "grad_and_value",
    "hessian",
    "jacfwd",
    "jacrev",
    "jvp",
    "linearize",
    "replace_all_batch_norm_modules_",
    "stack_module_state",
    "vjp",
    "vmap",
]
