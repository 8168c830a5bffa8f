"""PyTorch's autograd for tensors whose shards live in Ray workers: `import distgrad as torch`."""

from distgrad import autograd
from distgrad.autograd import Variable
from distgrad.dtype import (
    Size,
    bool_,
    can_cast,
    device,
    dtype,
    finfo,
    float32,
    float64,
    get_default_dtype,
    iinfo,
    int32,
    int64,
    promote_types,
    set_default_dtype,
)  # fmt: skip
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
from distgrad.ops.convert import clone
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
    tensor,
    zeros,
    zeros_like,
)  # fmt: skip
from distgrad.ops.products import dot, matmul, mm, mv
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
)  # fmt: skip
from distgrad.ops.slices import narrow, select, unbind
from distgrad.ops.sums import mean, sum
from distgrad.ops.views import permute, reshape, squeeze, t, transpose, unsqueeze
from distgrad.printing import set_printoptions
from distgrad.record import enable_grad, is_grad_enabled, no_grad, set_grad_enabled
from distgrad.tensor import Tensor

float = float32
double = float64
int = int32
long = int64
bool = bool_
