"""Neural networks: modules, the functions without layers around them (`nn.functional`) and initial values."""

from distgrad.nn import activation, adaptive, functional, init
from distgrad.nn.activation import *
from distgrad.nn.adaptive import *
from distgrad.nn.calls import (
    register_module_backward_hook,
    register_module_forward_hook,
    register_module_forward_pre_hook,
    register_module_full_backward_hook,
    register_module_full_backward_pre_hook,
)
from distgrad.nn.containers import ModuleDict, ModuleList, ParameterDict, ParameterList, Sequential
from distgrad.nn.linear import Bilinear, Identity, Linear
from distgrad.nn.module import (
    Module,
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from distgrad.nn.parameter import Buffer, Parameter

__all__ = [
    "Bilinear",
    "Buffer",
    "Identity",
    "Linear",
    "Module",
    "ModuleDict",
    "ModuleList",
    "Parameter",
    "ParameterDict",
    "ParameterList",
    "Sequential",
    "functional",
    "init",
    "register_module_backward_hook",
    "register_module_buffer_registration_hook",
    "register_module_forward_hook",
    "register_module_forward_pre_hook",
    "register_module_full_backward_hook",
    "register_module_full_backward_pre_hook",
    "register_module_module_registration_hook",
    "register_module_parameter_registration_hook",
]
__all__ += activation.__all__
__all__ += adaptive.__all__
