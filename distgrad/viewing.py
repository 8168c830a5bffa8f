"""Why a view may not be changed in place, or is of no use since its base was: torch's errors."""

from __future__ import annotations

from typing import Any

from distgrad.record import title_of

MODES = {
    "no_grad": ("no_grad mode", "with grad mode enabled"),
    "inference": ("inference mode", "in normal mode"),
}
SEVERAL_VIEWS = (
    "This view is the output of a function that returns multiple views. Such functions do not allow the output views "
    "to be modified inplace. You should replace the inplace operation by an out-of-place one."
)
CUSTOM_VIEW = (
    "This view was created inside a custom Function (or because an input was returned as-is) and the autograd logic to "
    "handle view+inplace would override the custom backward associated with the custom Function, leading to incorrect "
    "gradients. This behavior is forbidden. You can fix this by cloning the output of the custom Function."
)
UNRECORDED_VIEW = (
    "Given that this use case is ambiguous and error-prone, it is forbidden. You can clarify your code by moving both "
    "the view and the inplace either both inside the {} block (if you don't want the inplace to be tracked) or both "
    "outside (if you want the inplace to be tracked)."
)


def view_refused(tensor: Any, base_changed: bool = False) -> RuntimeError:
    """The error for a view that was made in such a way that its history cannot be told once it is changed in place.

    `base_changed`: not the view itself was changed, but its base or another view of that.
    """
    node, creation = tensor._node, tensor._view.creation
    done = "its base or another view of its base has been" if base_changed else "is being"
    block = MODES.get(creation)
    if block is not None or node is None:
        made = "A view was" if node is None else f"{_output(tensor)} of a view which was"
        mode, now = block or MODES["no_grad"]
        text = f"{made} created in {mode} and {done} modified inplace {now}."
    else:
        text = f"{_output(tensor)} and {done} modified inplace."
    if block is not None:
        why = UNRECORDED_VIEW.format("inference_mode" if creation == "inference" else "no_grad")
    else:
        why = CUSTOM_VIEW if creation == "function" else SEVERAL_VIEWS
    return RuntimeError(f"{text} {why}")


def _output(tensor: Any) -> str:
    return f"Output {tensor._output} of {title_of(tensor._node)} is a view"
