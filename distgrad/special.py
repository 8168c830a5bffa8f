"""Special functions under torch's names of them: `distgrad.special`, as `torch.special`."""

from distgrad.ops.activations import log_softmax, softmax
from distgrad.ops.norms import logsumexp
from distgrad.ops.pointwise import expm1, log1p, round
from distgrad.ops.special import digamma, erf, erfc, lgamma, logit, sigmoid

psi, gammaln, expit = digamma, lgamma, sigmoid

__all__ = [
    "digamma",
    "erf",
    "erfc",
    "expit",
    "expm1",
    "gammaln",
    "log1p",
    "log_softmax",
    "logit",
    "logsumexp",
    "psi",
    "round",
    "softmax",
]
