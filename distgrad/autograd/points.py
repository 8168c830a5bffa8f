"""A function at a point: what the functions of `autograd.functional` have in common, with strict mode's checks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from distgrad.autograd.drivers import grad
from distgrad.ops.making import zeros_like
from distgrad.record import grad_mode, set_grad_enabled
from distgrad.tensor import Tensor

Tensors = tuple[Tensor, ...]
Function = Callable[..., Any]


# What goes in and comes out.
def as_tuple(given: Any, what: str, name: str) -> tuple[bool, Tensors]:
    """Whether it was a tuple, and it as one; torch's error where it holds anything but tensors."""
    several = isinstance(given, tuple)
    items = given if several else (given,)
    for i, item in enumerate(items):
        if not isinstance(item, Tensor):
            which = f"value at index {i}" if several else f"given {what}"
            raise TypeError(
                f"The {what} given to {name} must be either a Tensor or a tuple of Tensors but the {which} has type "
                f"{type(item)}."
            )
    return several, items


def _prepared(tensors: Tensors, create_graph: bool, track: bool) -> Tensors:
    """Tensors to differentiate with respect to: views of the user's, or leaves where these have no part in it."""
    return tuple(
        t.view_as(t) if create_graph and t.requires_grad else t.detach().requires_grad_(track)
        for t in tensors
    )


def finished(tensors: Any, create_graph: bool) -> Any:
    """What users get: without history unless they asked for it."""
    if isinstance(tensors, Tensor):
        return tensors if create_graph else tensors.detach()
    return tuple(finished(t, create_graph) for t in tensors)


def as_given(items: Any, *several: bool) -> Any:
    """The items in the structure that the user's had: outputs outside, inputs inside."""
    if len(several) == 2:
        items = tuple(as_given(item, several[1]) for item in items)
    return tuple(items) if several[0] else items[0]


class Point:
    """A function at a point: its inputs and outputs, with the graph between them."""

    def __init__(self, name: str, func: Function, inputs: Any, create_graph: bool, strict: bool):
        self.name, self.func, self.create_graph, self.strict = name, func, create_graph, strict
        self.many_in, given = as_tuple(inputs, "inputs", name)
        self.inputs = _prepared(given, create_graph, track=True)

    def vector(self, v: Any, like: Tensors, many: bool) -> Tensors:
        """The user's vector, checked against what it belongs to."""
        vector = _prepared(as_tuple(v, "v", self.name)[1], self.create_graph, track=False)
        _check_vector(vector, like, many)
        return vector

    def input_vector(self, v: Any, words: str) -> Tensors | None:
        """The user's vector for the inputs; None if it was left out and need not be given."""
        if v is not None:
            return self.vector(v, self.inputs, self.many_in)
        if len(self.inputs) != 1 or self.inputs[0].numel() != 1:
            raise RuntimeError(f"The vector v can only be None if {words} with a single element.")
        return None

    def run(self) -> Any:
        """Call the function."""
        result = self.func(*self.inputs)
        self.many_out, self.outputs = as_tuple(result, "outputs of the user-provided function", self.name)
        check_tracked(self.outputs, "outputs", self.strict)

    def run_to_one(self) -> None:
        """Call a function that must give a single element."""
        self.run()
        if self.many_out:
            raise RuntimeError(f"The function given to {self.name} should return a single Tensor")
        if self.outputs[0].numel() != 1:
            raise RuntimeError(
                f"The Tensor returned by the function given to {self.name} should contain a single element"
            )

    def result(self, found: Sequence[Any], many: bool) -> tuple[Any, Any]:
        """The outputs, and what was found, as users get them."""
        outputs, found = finished(self.outputs, self.create_graph), finished(found, self.create_graph)
        return as_given(outputs, self.many_out), as_given(found, many)


def _check_vector(v: Tensors, like: Tensors, many: bool) -> None:
    if len(v) != len(like):
        raise RuntimeError(
            f"v is a tuple of invalid length: should be {len(like)} but got {len(v)}."
            if many
            else "The given v should contain a single Tensor."
        )
    for i, (one, other) in enumerate(zip(v, like, strict=True)):
        if one.shape != other.shape:
            which = f"Entry {i} in " if many else ""
            raise RuntimeError(f"{which}v has invalid size: should be {other.shape} but got {one.shape}.")


# Strictness.
_UNTRACKED = {
    "outputs": (
        "Output {} of the user-provided function does not require gradients. The outputs must be computed in a "
        "differentiable manner from the input when running in strict mode."
    ),
    "grad_inputs": (
        "The gradient with respect to input {} is independent of the inputs of the user-provided function. This is "
        "not allowed in strict mode."
    ),
    "jacobian": (
        "While computing the hessian, found that the jacobian of the user-provided function with respect to input {} "
        "is independent of the input. This is not allowed in strict mode. You should ensure that your function is "
        "twice differentiable and that the jacobian depends on the inputs (this would be violated by a linear "
        "function for example)."
    ),
}
_INDEPENDENT = (
    "The output of the user-provided function is independent of input {}. This is not allowed in strict mode."
)
_MISSING = {
    "back": _INDEPENDENT,
    "back_trick": (
        "The gradient with respect to the input is independent of entry {} in the grad_outputs when using the double "
        "backward trick to compute forward mode gradients. This is not allowed in strict mode."
    ),
    "double_back": (
        "The jacobian of the user-provided function is independent of input {}. This is not allowed in strict mode."
    ),
    "double_back_trick": (
        "The hessian of the user-provided function is independent of entry {} in the grad_jacobian. This is not "
        "allowed in strict mode as it prevents from using the double backward trick to replace forward mode AD."
    ),
}


def check_tracked(tensors: Sequence[Tensor | None], what: str, strict: bool) -> None:
    """Raise in strict mode where one of these is missing or has no history."""
    if not strict:
        return
    for i, tensor in enumerate(tensors):
        if tensor is None:
            raise RuntimeError(_INDEPENDENT.format(i))
        if not tensor.requires_grad:
            raise RuntimeError(_UNTRACKED[what].format(i))


def with_zeros(found: Sequence[Tensor | None], like: Tensors, stage: str, point: Point) -> Tensors:
    """Zeros where there is no gradient; errors there in strict mode."""
    filled = []
    for i, (g, other) in enumerate(zip(found, like, strict=True)):
        if point.strict and g is None:
            raise RuntimeError(_MISSING[stage].format(i))
        if point.strict and point.create_graph and g is not None and not g.requires_grad:
            what = "hessian" if "double" in stage else "jacobian"
            raise RuntimeError(
                f"The {what} of the user-provided function is independent of input {i}. This is not allowed in "
                "strict mode when create_graph=True."
            )
        filled.append(zeros_like(other) if g is None else g)
    return tuple(filled)


def gradients(
    outputs: Sequence[Tensor | None],
    inputs: Tensors,
    vector: Sequence[Tensor | None] | None = None,
    create_graph: bool = False,
    retain_graph: bool | None = None,
) -> Sequence[Tensor | None]:
    """`grad` of those outputs that require it, None for inputs that they do not depend on."""
    vector = (None,) * len(outputs) if vector is None else vector
    pairs = [
        (out, v) for out, v in zip(outputs, vector, strict=True) if out is not None and out.requires_grad
    ]
    if not pairs:
        return (None,) * len(inputs)
    outs, vs = zip(*pairs, strict=True)
    return grad(outs, inputs, vs, retain_graph, create_graph, allow_unused=True)


def mode(create_graph: bool) -> set_grad_enabled:
    """The grad mode for the last pass: the caller's, but on with `create_graph`."""
    return set_grad_enabled(create_graph or grad_mode.enabled)
