"""The longer words of `gradcheck`, which name the arguments that help."""

FAILED_NONDETERMINISM = (
    "Backward is not reentrant, i.e., running backward with same input and grad_output multiple times gives different "
    "values, although analytical gradient matches numerical gradient.The tolerance for nondeterminism was {}.\n\n"
    "NOTE: If the function is not deterministic, call gradcheck/gradgradcheck with `nondet_tol=<tol>` as a keyword "
    "argument.\n"
)
FAILED_BATCHED_GRAD = (
    "gradcheck or gradgradcheck failed while testing batched gradient computation.\n"
    "To leave this out, call gradcheck/gradgradcheck with `check_batched_grad=False` as a keyword argument."
)
FAILED_BATCHED_FORWARD = (
    "gradcheck failed while testing batched gradient computation with forward-mode AD.\n"
    "To leave this out, call gradcheck with `check_batched_forward_grad=False` as a keyword argument."
)
FAST_FAILED = (
    "\nThe above quantities relating the numerical and analytical jacobians are computed \nin fast mode. Below, we "
    "recompute numerical and analytical jacobians in slow mode:\n\nNumerical:\n {}\nAnalytical:\n{}\n\n"
    "The max per-element difference (slow mode) is: {}.\n"
)
SLOW_AGREES = (
    "Fast gradcheck failed but element-wise differences are small. This means that the test might've passed in "
    "slow_mode!\nTo use it, call gradcheck/gradgradcheck with `fast_mode=False` as a keyword argument."
)
UNDEFINED_GRAD = (
    "Backwards compatibility: New undefined gradient support checking feature is enabled by default, but it may break "
    "existing callers of this function. If this is true for you, you can call this function with "
    '"check_undefined_grad=False" to disable the feature'
)
