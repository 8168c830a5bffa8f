"""PyTorch's autograd for tensors whose shards live in Ray workers: `import distgrad as torch`."""

import sys
from math import e, inf, nan, pi

from distgrad import (
    amp,
    autograd,
    backends,
    cuda,
    distributions,
    func,
    functional,
    jit,
    linalg,
    missing,
    nn,
    optim,
    random,
    special,
    utils,
)
from distgrad.amp import autocast
from distgrad.autograd import Variable
from distgrad.autograd.anomaly_mode import is_anomaly_check_nan_enabled, is_anomaly_enabled
from distgrad.dtype import (
    Size,
    bool_,
    can_cast,
    device,
    dtype,
    finfo,
    float32,
    float64,
    get_default_device,
    get_default_dtype,
    iinfo,
    int32,
    int64,
    promote_types,
    set_default_device,
    set_default_dtype,
)
from distgrad.formats import (
    channels_last,
    channels_last_3d,
    contiguous_format,
    memory_format,
    preserve_format,
)
from distgrad.func import vmap
from distgrad.modes import (
    are_deterministic_algorithms_enabled,
    compile,
    get_float32_matmul_precision,
    get_num_threads,
    is_deterministic_algorithms_warn_only_enabled,
    set_default_tensor_type,
    set_float32_matmul_precision,
    set_num_threads,
    use_deterministic_algorithms,
)
from distgrad.nn.functional.activation import celu_, rrelu, rrelu_, selu_, threshold_
from distgrad.nn.functional.adaptive_pooling import adaptive_avg_pool1d, adaptive_max_pool1d
from distgrad.nn.functional.distance import cosine_similarity, pairwise_distance, pdist
from distgrad.nn.functional.pooling import (
    avg_pool1d,
    max_pool1d,
    max_pool1d_with_indices,
    max_pool2d,
    max_pool3d,
)
from distgrad.nn.functional.recurrent import gru_cell, lstm_cell, rnn_relu_cell, rnn_tanh_cell
from distgrad.nn.functional.toplevel import *
from distgrad.ops.activations import *
from distgrad.ops.arithmetic import (
    add,
    div,
    divide,
    mul,
    multiply,
    neg,
    negative,
    pow,
    rsub,
    sub,
    subtract,
    true_divide,
)
from distgrad.ops.binary import *
from distgrad.ops.combining import *
from distgrad.ops.compare import *
from distgrad.ops.convert import clone
from distgrad.ops.convolution import *
from distgrad.ops.convolving import *
from distgrad.ops.decompositions import *
from distgrad.ops.determinants import *
from distgrad.ops.einsum import *
from distgrad.ops.embedding import embedding
from distgrad.ops.factors import *
from distgrad.ops.files import *
from distgrad.ops.flat_places import *
from distgrad.ops.floats import *
from distgrad.ops.gathering import *
from distgrad.ops.indexed_slices import *
from distgrad.ops.indexing import *
from distgrad.ops.joining import *
from distgrad.ops.linalg import *
from distgrad.ops.linear import *
from distgrad.ops.lowrank import *
from distgrad.ops.lu import *
from distgrad.ops.making import (
    BoolTensor,
    DoubleTensor,
    FloatTensor,
    IntTensor,
    LongTensor,
    arange,
    as_tensor,
    asarray,
    empty,
    empty_like,
    eye,
    from_numpy,
    full,
    full_like,
    linspace,
    ones,
    ones_like,
    scalar_tensor,
    tensor,
    zeros,
    zeros_like,
)
from distgrad.ops.masks import *
from distgrad.ops.matrix_functions import chain_matmul
from distgrad.ops.methods import *
from distgrad.ops.norms import *
from distgrad.ops.old import *
from distgrad.ops.ordering import *
from distgrad.ops.padding import *
from distgrad.ops.paths import *
from distgrad.ops.piecewise import *
from distgrad.ops.pointwise import *
from distgrad.ops.probability import *
from distgrad.ops.products import bmm, dot, matmul, mm, mv
from distgrad.ops.queries import explain, is_floating_point, is_nonzero, is_tensor, numel, result_type
from distgrad.ops.random import (
    Generator,
    default_generator,
    get_rng_state,
    initial_seed,
    manual_seed,
    rand,
    rand_like,
    randint,
    randint_like,
    randn,
    randn_like,
    randperm,
    seed,
    set_rng_state,
)
from distgrad.ops.rearranging import *
from distgrad.ops.reductions import *
from distgrad.ops.resizing import *
from distgrad.ops.rows import unbind
from distgrad.ops.running import *
from distgrad.ops.sampling import *
from distgrad.ops.scattering import *
from distgrad.ops.searching import *
from distgrad.ops.shape import *
from distgrad.ops.slices import narrow, select
from distgrad.ops.special import *
from distgrad.ops.statistics import *
from distgrad.ops.sums import mean, sum
from distgrad.ops.tapers import *
from distgrad.ops.turning import *
from distgrad.ops.views import permute, reshape, squeeze, t, transpose, unsqueeze
from distgrad.ops.vision import *
from distgrad.ops.windows import *
from distgrad.ops.writing_parts import *
from distgrad.printing import get_printoptions, printoptions, set_printoptions
from distgrad.profiling import profile
from distgrad.record import (
    enable_grad,
    inference_mode,
    is_grad_enabled,
    is_inference_mode_enabled,
    no_grad,
    set_grad_enabled,
)
from distgrad.serialization import load, save
from distgrad.session import init, is_initialized, memory, memory_budget, shutdown, synchronize
from distgrad.tensor import Tensor
from distgrad.warned import is_warn_always_enabled, set_warn_always

float, double, int, long, bool = float32, float64, int32, int64, bool_
newaxis = None

missing.announce(
    sys.modules[__name__],
    *(autograd, distributions, func, functional, linalg, nn, optim, random, special, utils),
    *(amp, backends, cuda, jit, nn.functional, nn.init, nn.utils, optim.lr_scheduler, utils.data),
)
