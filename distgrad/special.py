"""Special functions under torch's names of them: `distgrad.special`, as `torch.special`."""

from distgrad.ops.activations import log_softmax, softmax
from distgrad.ops.floats import sinc
from distgrad.ops.norms import logsumexp
from distgrad.ops.pointwise import exp2, expm1, log1p, round
from distgrad.ops.probability import (
    entr,
    erfcx,
    erfinv,
    i0,
    i0e,
    i1,
    i1e,
    log_ndtr,
    ndtr,
    ndtri,
    xlog1py,
    xlogy,
)
from distgrad.ops.special import (
    digamma,
    erf,
    erfc,
    gammainc,
    gammaincc,
    lgamma,
    logit,
    mvlgamma,
    polygamma,
    sigmoid,
    zeta,
)

psi, gammaln, expit, multigammaln = digamma, lgamma, sigmoid, mvlgamma

__all__ = [
    "digamma",
    "entr",
    "erf",
    "erfc",
    "erfcx",
    "erfinv",
    "exp2",
    "expit",
    "expm1",
    "gammainc",
    "gammaincc",
    "gammaln",
    "i0",
    "i0e",
    "i1",
    "i1e",
    "log1p",
    "log_ndtr",
    "log_softmax",
    "logit",
    "logsumexp",
    "multigammaln",
    "ndtr",
    "ndtri",
    "polygamma",
    "psi",
    "round",
    "sinc",
    "softmax",
    "xlog1py",
    "xlogy",
    "zeta",
]
