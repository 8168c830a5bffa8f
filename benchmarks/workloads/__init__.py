"""The workloads, in the order in which they run."""

from __future__ import annotations

from benchmarks.workloads.base import Workload
from benchmarks.workloads.classify import Logistic, LogisticWide, Newton, Softmax
from benchmarks.workloads.elementwise import Chain, Poly, Rosenbrock, Tiny
from benchmarks.workloads.factorise import Factorise
from benchmarks.workloads.fused import Kepler, LogSumExp, NormGelu
from benchmarks.workloads.layers import CnnDigits, CnnImages, Encoder, Lstm
from benchmarks.workloads.network import Matmul, Mlp, MlpAdam
from benchmarks.workloads.own import Large, Shards
from benchmarks.workloads.train import Train

WORKLOADS: dict[str, Workload] = {
    w.name: w
    for w in (
        Poly(),
        Chain(),
        Logistic(),
        LogisticWide(),
        Softmax(),
        Mlp(),
        MlpAdam(),
        CnnDigits(),
        CnnImages(),
        Lstm(),
        Encoder(),
        Matmul(),
        Rosenbrock(),
        Factorise(),
        Kepler(),
        LogSumExp(),
        NormGelu(),
        Newton(),
        Train(),
        Tiny(),
        Shards(),
        Large(),
    )
}
