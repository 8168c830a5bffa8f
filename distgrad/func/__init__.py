"""Functions of functions: `distgrad.func`, as `torch.func`."""

from distgrad.func.functional_call import *
