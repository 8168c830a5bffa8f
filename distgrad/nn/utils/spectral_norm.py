"""Spectral normalization by a hook before `forward`; the newer way is `parametrizations.spectral_norm`."""

from __future__ import annotations

from typing import Any

from distgrad.nn import functional as F
from distgrad.nn.parameter import Parameter
from distgrad.ops.products import dot, mv
from distgrad.ops.random import normal_
from distgrad.record import no_grad
from distgrad.tensor import Tensor


def as_matrix(weight: Tensor, dim: int) -> Tensor:
    """The weight as a matrix whose rows are its slices along `dim`."""
    if dim:
        weight = weight.permute(dim, *(d for d in range(weight.dim()) if d != dim))
    return weight.reshape(weight.shape[0], -1)


def unit(length: int, like: Tensor, eps: float) -> Tensor:
    """A random vector of length 1."""
    return F.normalize(normal_(like.new_empty(length)), dim=0, eps=eps)


def transposed_dim(module: Any, dim: int | None) -> int:
    """`dim`, by default that of the outputs: 1 for transposed convolutions, else 0."""
    if dim is not None:
        return dim
    return int(any(kind.__name__.startswith("ConvTranspose") for kind in type(module).__mro__))


class SpectralNorm:
    """The hook: sets the weight to `name_orig` over its largest singular value.

    That is found by the power method, one or a few steps at each call in training: u ~ W v and v ~ W^T u.
    """

    _version = 1

    def __init__(self, name: str = "weight", n_power_iterations: int = 1, dim: int = 0, eps: float = 1e-12):
        if n_power_iterations <= 0:
            raise ValueError(
                f"Expected n_power_iterations to be positive, but got n_power_iterations={n_power_iterations}"
            )
        self.name, self.n_power_iterations, self.dim, self.eps = name, n_power_iterations, dim, eps

    def compute_weight(self, module: Any, do_power_iteration: bool) -> Tensor:
        """The weight, perhaps after some steps of the power method."""
        weight, u, v = (getattr(module, f"{self.name}_{part}") for part in ("orig", "u", "v"))
        matrix = as_matrix(weight, self.dim)
        if do_power_iteration:
            with no_grad():
                for _ in range(self.n_power_iterations):
                    v.copy_(F.normalize(mv(matrix.t(), u), dim=0, eps=self.eps))
                    u.copy_(F.normalize(mv(matrix, v), dim=0, eps=self.eps))
                u, v = u.clone(), v.clone()  # the next call changes them in place
        return weight / dot(u, mv(matrix, v))

    def __call__(self, module: Any, inputs: Any) -> None:
        """Set the weight."""
        setattr(module, self.name, self.compute_weight(module, module.training))

    def remove(self, module: Any) -> None:
        """Make the weight a parameter again."""
        with no_grad():
            weight = self.compute_weight(module, False)
        for part in ("", "_u", "_v", "_orig"):
            delattr(module, self.name + part)
        module.register_parameter(self.name, Parameter(weight.detach()))


class SpectralNormStateDictHook:
    """Notes the version of the layout in the state dict's metadata."""

    def __init__(self, fn: SpectralNorm):
        self.fn = fn

    def __call__(self, module: Any, state_dict: Any, prefix: str, local_metadata: dict[str, Any]) -> None:
        """Note it."""
        versions = local_metadata.setdefault("spectral_norm", {})
        key = f"{self.fn.name}.version"
        if key in versions:
            raise RuntimeError(f"Unexpected key in metadata['spectral_norm']: {key}")
        versions[key] = self.fn._version


def spectral_norm(
    module: Any,
    name: str = "weight",
    n_power_iterations: int = 1,
    eps: float = 1e-12,
    dim: int | None = None,
) -> Any:
    """Divide the module's weight by its largest singular value at each call; by Miyato et al. (2018).

    The parameter is `name_orig`; the buffers `name_u` and `name_v` hold the singular vectors as found so far.
    """
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, SpectralNorm) and hook.name == name:
            raise RuntimeError(f"Cannot register two spectral_norm hooks on the same parameter {name}")
    hook = SpectralNorm(name, n_power_iterations, transposed_dim(module, dim), eps)
    weight = module._parameters[name]
    if weight is None:
        raise ValueError(f"`SpectralNorm` cannot be applied as parameter `{name}` is None")
    with no_grad():
        rows, columns = as_matrix(weight, hook.dim).shape
        u, v = unit(rows, weight, eps), unit(columns, weight, eps)
    delattr(module, name)
    module.register_parameter(f"{name}_orig", weight)
    setattr(module, name, weight.data)
    module.register_buffer(f"{name}_u", u)
    module.register_buffer(f"{name}_v", v)
    module.register_forward_pre_hook(hook)
    module._register_state_dict_hook(SpectralNormStateDictHook(hook))
    return module


def remove_spectral_norm(module: Any, name: str = "weight") -> Any:
    """Undo `spectral_norm`: the weight is a parameter again, with its present contents."""
    for number, hook in module._forward_pre_hooks.items():
        if isinstance(hook, SpectralNorm) and hook.name == name:
            hook.remove(module)
            del module._forward_pre_hooks[number]
            break
    else:
        raise ValueError(f"spectral_norm of '{name}' not found in {module}")
    for number, note in list(module._state_dict_hooks.items()):
        if isinstance(note, SpectralNormStateDictHook) and note.fn.name == name:
            del module._state_dict_hooks[number]
    return module
