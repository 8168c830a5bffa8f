"""Probability distributions, as `torch.distributions`: samples, densities, entropies and their gradients."""

from distgrad.distributions import categorical as one_hot_categorical
from distgrad.distributions import (
    circular,
    constraint_registry,
    constraints,
    continuous,
    discrete,
    gamma,
    kl,
    kl_pairs,
    matrices,
    mixture,
    multivariate,
    positive,
    relaxed,
    transformed,
    transforms,
    utils,
    waiting,
)
from distgrad.distributions.categorical import (
    Categorical,
    Multinomial,
    OneHotCategorical,
    OneHotCategoricalStraightThrough,
)
from distgrad.distributions.circular import VonMises
from distgrad.distributions.constraint_registry import biject_to, transform_to
from distgrad.distributions.continuous import Cauchy, Gumbel, Laplace, Normal, Uniform
from distgrad.distributions.correlation import (
    CatTransform,
    CorrCholeskyTransform,
    CumulativeDistributionTransform,
    PositiveDefiniteTransform,
    ReshapeTransform,
)
from distgrad.distributions.discrete import Bernoulli, Binomial, Geometric, Poisson
from distgrad.distributions.distribution import Distribution
from distgrad.distributions.exp_family import ExponentialFamily
from distgrad.distributions.gamma import Beta, Chi2, Dirichlet, Gamma, StudentT
from distgrad.distributions.gamma_ratios import FisherSnedecor, InverseGamma
from distgrad.distributions.half_line import Exponential, HalfNormal
from distgrad.distributions.kl import kl_divergence, register_kl
from distgrad.distributions.matrices import LKJCholesky, LowRankMultivariateNormal, Wishart
from distgrad.distributions.mixture import MixtureSameFamily
from distgrad.distributions.multivariate import MultivariateNormal
from distgrad.distributions.positive import GeneralizedPareto, HalfCauchy, Kumaraswamy, Pareto, Weibull
from distgrad.distributions.relaxed import (
    ContinuousBernoulli,
    LogisticNormal,
    RelaxedBernoulli,
    RelaxedOneHotCategorical,
)
from distgrad.distributions.transformed import Independent, LogNormal, TransformedDistribution
from distgrad.distributions.transforms import (
    AbsTransform,
    AffineTransform,
    ComposeTransform,
    ExpTransform,
    IndependentTransform,
    LowerCholeskyTransform,
    PowerTransform,
    SigmoidTransform,
    SoftmaxTransform,
    SoftplusTransform,
    StackTransform,
    StickBreakingTransform,
    TanhTransform,
    Transform,
    identity_transform,
)
from distgrad.distributions.waiting import NegativeBinomial

# The files that torch has each distribution in: `distributions.normal.Normal`.
cauchy = exponential = gumbel = half_normal = laplace = normal = uniform = continuous
bernoulli = binomial = geometric = poisson = discrete
beta = chi2 = dirichlet = studentT = gamma
fishersnedecor = generalized_pareto = half_cauchy = inverse_gamma = kumaraswamy = pareto = weibull = positive
continuous_bernoulli = logistic_normal = relaxed_bernoulli = relaxed_categorical = relaxed
independent = log_normal = transformed_distribution = transformed
lkj_cholesky = lowrank_multivariate_normal = wishart = matrices
mixture_same_family, multinomial, multivariate_normal = mixture, one_hot_categorical, multivariate
negative_binomial, von_mises = waiting, circular

__all__ = [
    "AbsTransform",
    "AffineTransform",
    "Bernoulli",
    "Beta",
    "Binomial",
    "CatTransform",
    "Categorical",
    "Cauchy",
    "Chi2",
    "ComposeTransform",
    "ContinuousBernoulli",
    "CorrCholeskyTransform",
    "CumulativeDistributionTransform",
    "Dirichlet",
    "Distribution",
    "ExpTransform",
    "Exponential",
    "ExponentialFamily",
    "FisherSnedecor",
    "Gamma",
    "GeneralizedPareto",
    "Geometric",
    "Gumbel",
    "HalfCauchy",
    "HalfNormal",
    "Independent",
    "IndependentTransform",
    "InverseGamma",
    "Kumaraswamy",
    "LKJCholesky",
    "Laplace",
    "LogNormal",
    "LogisticNormal",
    "LowRankMultivariateNormal",
    "LowerCholeskyTransform",
    "MixtureSameFamily",
    "Multinomial",
    "MultivariateNormal",
    "NegativeBinomial",
    "Normal",
    "OneHotCategorical",
    "OneHotCategoricalStraightThrough",
    "Pareto",
    "Poisson",
    "PositiveDefiniteTransform",
    "PowerTransform",
    "RelaxedBernoulli",
    "RelaxedOneHotCategorical",
    "ReshapeTransform",
    "SigmoidTransform",
    "SoftmaxTransform",
    "SoftplusTransform",
    "StackTransform",
    "StickBreakingTransform",
    "StudentT",
    "TanhTransform",
    "Transform",
    "TransformedDistribution",
    "Uniform",
    "VonMises",
    "Weibull",
    "Wishart",
    "biject_to",
    "constraint_registry",
    "constraints",
    "identity_transform",
    "kl",
    "kl_divergence",
    "kl_pairs",
    "register_kl",
    "transform_to",
    "transforms",
    "utils",
]
