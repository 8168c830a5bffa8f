"""Tables and a plot of what race.py measured."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.libraries import AS_INSTALLED, BESIDE, STANDARD
from benchmarks.workloads import WORKLOADS

Race = dict[str, Any]
MEAN_GOAL = 1.6  # of the ratios of these, in the order in which their goals are told
AIMED = (
    *("poly", "rosenbrock", "chain", "kepler", "logsumexp", "logistic", "logistic-wide", "newton", "softmax"),
    *("factorise", "mlp", "matmul", "train", "tiny", "norm-gelu"),
)
NOTE = """\
Medians, with the quickest and the slowest round; ratios are medians of the ratios within a round. All
runs are interleaved, each peer in a process of its own, results checked against each other. *Tuned*:
glibc keeps freed memory and uses huge pages, and JAX has one device with two threads instead of two
devices; *donated*: and the results of a step are written over those of the last. *Compiled*: tuned, the
function of the loss under torch.compile. *Numba*: loops by hand, value and gradient in one pass; no peer.
Dask (its gradient written by hand) and HIPS autograd run tuned. OpenBLAS chooses its kernels by itself in
all processes. The limit is NumPy's own matrix product on all cores for as many operations (softmax, mlp,
matmul), a look at all data (logistic, newton), else a copy of as many bytes as must be read and written."""


class Summary:
    """Medians and ratios of one race."""

    def __init__(self, race: Race):
        self.workload = WORKLOADS[race["workload"]]
        self.figures: dict[str, dict[str, float]] = race["figures"]
        self.left_out: dict[str, str] = race["left out"]
        self.seconds = {
            name: [step[self.workload.clock if name != "limit" else "seconds"] for step in steps]
            for name, steps in race["steps"].items()
        }
        self.median = {name: statistics.median(times) for name, times in self.seconds.items()}
        self.cpu = {name: statistics.median(s["cpu"] for s in steps) for name, steps in race["steps"].items()}
        self.faults = {
            name: statistics.median(s["faults"] for s in steps) for name, steps in race["steps"].items()
        }
        ours = self.seconds["distgrad"]
        # Ratios are taken within a round and then the median, since noise comes and goes with the rounds.
        self.ratio = {
            name: statistics.median(theirs / mine for theirs, mine in zip(times, ours, strict=False))
            for name, times in self.seconds.items()
        }
        self.others = [name for name in self.seconds if name not in ("distgrad", "limit")]

        peers = [name for name in self.others if name not in BESIDE]
        candidates = [name for name in peers if name in (self.workload.against or peers)]
        # The quickest of the peers that the goal is about; and of those that were not tuned.
        self.best = min(candidates, key=lambda name: self.ratio[name], default=None)
        installed = [name for name in candidates if name in AS_INSTALLED]
        self.best_installed = min(installed, key=lambda name: self.ratio[name], default=None)

    @property
    def share(self) -> float | None:
        """The limit's time over distgrad's."""
        return self.ratio.get("limit")

    @property
    def limit_kind(self) -> str:
        """What the limit is."""
        if self.workload.flops_needed():
            return "bare products"
        return "reading once" if self.workload.only_reads else "a copy"

    def verdict(self, best: str | None) -> str:
        """How many times as long as distgrad `best` takes, and whether that reaches the goal."""
        if best is None:
            return ""
        goal = self.workload.goal
        told = f" {'≥' if round(self.ratio[best], 2) >= goal else '<'} {goal:g}" if goal else ""
        return f"{self.ratio[best]:.2f} x{told} ({best})"


def duration(seconds: float) -> str:
    """Three digits and a unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{_digits(seconds / size)} {unit}"
    return f"{_digits(seconds * 1e6)} µs"


def _digits(x: float) -> str:
    return f"{x:.0f}" if x >= 100 else f"{x:.3g}"


def text(race: Race) -> str:
    """One race, a line for each peer."""
    s = Summary(race)
    lines = [f"{s.workload.name}: {s.workload.what}"]
    lines.append(
        f"  {'':12} {'median':>9}  {'min .. max':^21} {'ratio':>7}  {'own CPU':>9} {'own faults':>10} rounds"
    )
    for name, times in s.seconds.items():
        spread = f"{duration(min(times)):>9} .. {duration(max(times)):<9}"
        line = f"  {name:12} {duration(s.median[name]):>9}  {spread} {s.ratio[name]:6.2f}x"
        if name != "limit":
            line += f"  {duration(s.cpu[name]):>9} {s.faults[name]:10.0f} {len(times):4}"
        lines.append(line)
    lines += [f"  {name:12} left out: {why}" for name, why in s.left_out.items()]
    if s.best:
        lines.append(f"  best peer, and goal: {s.verdict(s.best)}")
    if s.best_installed not in (None, s.best):
        lines.append(f"  best of torch and JAX as installed: {s.verdict(s.best_installed)}")
    if s.share:
        goal = f"; goal {s.workload.share_goal:.0%}" if s.workload.share_goal else ""
        lines.append(f"  {s.share:.0%} of the limit: {s.limit_kind}, all cores{goal}")
    for name, figures in s.figures.items():
        told = ", ".join(f"{figure} {value:,.4g}" for figure, value in figures.items())
        lines.append(f"  {name}: {told}")
    return "\n".join(lines)


def markdown(races: Sequence[Race]) -> str:
    """All races: a table for those with outside peers, one for distgrad's own, one of what a step costs beside time."""
    summaries = [Summary(race) for race in races]
    outside = [s for s in summaries if set(s.others) & set(STANDARD)]
    own = [s for s in summaries if s not in outside]
    lines = [machine(), "", *goals(summaries), ""]
    if outside:
        names = (*STANDARD[1:], "numba")
        lines += _header(
            "workload", "distgrad", *names, "best, goal", "best as installed, goal", "limit", "reached"
        )
    for s in outside:
        times = [_time(s, name) if name in s.seconds else s.left_out.get(name, "") for name in names]
        lines.append(
            _row(
                s.workload.name,
                _time(s, "distgrad"),
                *times,
                s.verdict(s.best),
                s.verdict(s.best_installed),
                *_limit(s),
            )
        )
    if outside:
        lines += ["", *(f"- {s.workload.name}: {s.workload.what}." for s in outside), "", NOTE]
    if own:
        lines += ["", *_header("distgrad alone", "", "beside it", "ratio, goal", "limit", "reached")]
    for s in own:
        beside = "; ".join(f"{name} {_time(s, name)}" for name in s.others)
        lines.append(_row(s.workload.what, _time(s, "distgrad"), beside, s.verdict(s.best), *_limit(s)))
    names = dict.fromkeys(name for s in summaries for name in s.figures["distgrad"])
    if names:
        lines += ["", *_header("one step of distgrad, profiled", *names)]
    for s in summaries:
        figures = s.figures["distgrad"]
        cells = [f"{figures[name]:,.3g}" if name in figures else "" for name in names]
        lines += [_row(s.workload.name, *cells)] if figures else []
    return "\n".join(lines) + "\n"


def goals(summaries: Sequence[Summary]) -> list[str]:
    """What was aimed at beside what was reached: the best of all peers, tuned ones included, limits and scaling."""
    lines = _header(
        "workload",
        "distgrad",
        "best of all peers",
        "ratio",
        "goal",
        "of the limit",
        "two workers over one",
        "by hand",
    )
    ratios = []
    for s in summaries:
        if s.best is None or not s.workload.goal or s.workload.name not in AIMED:
            continue
        ratios.append(s.ratio[s.best])
        met = "≥" if round(ratios[-1], 2) >= s.workload.goal else "<"
        lines.append(
            _row(
                s.workload.name,
                _time(s, "distgrad"),
                f"{s.best} {duration(s.median[s.best])}",
                f"{ratios[-1]:.2f}",
                f"{met} {s.workload.goal:g}",
                f"{_reached(s.share, s.workload.share_goal, '.0%')} {s.limit_kind}" if s.share else "",
                _reached(s.ratio.get("one worker"), s.workload.scaling_goal, ".2f"),
                f"{s.ratio['numba']:.2f}" if "numba" in s.ratio else "",
            )
        )
    if ratios:
        mean = statistics.geometric_mean(ratios)
        met = "≥" if round(mean, 2) >= MEAN_GOAL else "<"
        lines.append(_row("geometric mean", "", "", f"{mean:.2f}", f"{met} {MEAN_GOAL:g}", "", "", ""))
        lines += [
            "",
            f"No workload under 1: {'yes' if min(ratios) >= 0.995 else 'no'}. By hand: loops in Numba.",
        ]
    return lines


def _reached(value: float | None, goal: float, form: str) -> str:
    """A figure, and whether it reaches its goal, if there is one."""
    if value is None:
        return ""
    if not goal:
        return format(value, form)
    return f"{value:{form}} {'≥' if value >= goal - 0.005 else '<'} {goal:{form.replace('.2f', 'g')}}"


def _header(*cells: str) -> list[str]:
    return [_row(*cells), "|" + "---|" * len(cells)]


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _limit(s: Summary) -> tuple[str, str]:
    return (duration(s.median["limit"]), f"{s.share:.0%}") if s.share else ("", "")


def _time(s: Summary, name: str) -> str:
    """Median and spread, in one unit."""
    times = s.seconds[name]
    number, unit = duration(s.median[name]).split()
    size = {"s": 1.0, "ms": 1e-3, "µs": 1e-6}[unit]
    told = f"{number} {unit} ({_digits(min(times) / size)} to {_digits(max(times) / size)})"
    return f"**{told}**" if name in ("distgrad", s.best) else told


def machine() -> str:
    """What all this was measured on, in a sentence."""
    model = platform.processor() or platform.machine()
    cores = memory = ""
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        fields = dict(line.split(":", 1) for line in cpuinfo if ":" in line)
        model = next((v.strip() for k, v in fields.items() if k.strip() == "model name"), model)
        flags = set(fields.get("flags\t\t", "").split())
        vectors = next((v for v in ("avx512f", "avx2", "sse4_2") if v in flags), "")
        kind = ", ".join(
            f"{k.strip()} {v.strip()}" for k, v in fields.items() if k.strip() in ("cpu family", "model")
        )
        model += f" ({kind}, {vectors})" if kind else ""
        cores = f"{sum(line.startswith('processor') for line in cpuinfo)} cores, "
        total = Path("/proc/meminfo").read_text(encoding="utf-8").split()[1]
        memory = f"{int(total) / 2**20:.0f} GiB, "
    except (OSError, ValueError):
        pass  # not Linux
    installed = {d.name for d in metadata.distributions()}
    wanted = [
        name for name in ("torch", "jax", "dask", "autograd", "numba", "numpy", "ray") if name in installed
    ]
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in wanted)
    return f"{model}, {cores}{memory}{platform.system()}, Python {platform.python_version()}; {versions}."


def plot(races: Sequence[Race], path: Path) -> None:
    """For each workload the peers' times over distgrad's, on a logarithmic axis, with the goals."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    summaries = [Summary(race) for race in races]
    summaries = [s for s in summaries if set(s.others) & set(STANDARD)][::-1]
    if not summaries:
        return
    figure, axes = pyplot.subplots(figsize=(8, 1.2 + 0.62 * len(summaries)), layout="constrained")
    names = STANDARD[1:]
    height = 0.8 / len(names)
    for k, name in enumerate(names):
        rows = [row for row, s in enumerate(summaries) if name in s.ratio]
        ratios = [summaries[row].ratio[name] for row in rows]
        places = [row + 0.4 - height * (k + 0.5) for row in rows]
        axes.barh(places, np.array(ratios) - 1, height * 0.9, left=1, label=name)
        for place, ratio in zip(places, ratios, strict=True):
            side = "left" if ratio >= 1 else "right"
            axes.annotate(
                f"{ratio:.2g}" if ratio < 10 else f"{ratio:.0f}",
                (ratio, place),
                xytext=(2 if ratio >= 1 else -2, 0),
                textcoords="offset points",
                ha=side,
                va="center",
                fontsize=6,
            )
    for row, s in enumerate(summaries):
        if s.workload.goal:
            axes.plot(
                [s.workload.goal] * 2, [row - 0.42, row + 0.42], color="black", linewidth=1, linestyle=":"
            )
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.margins(y=0.01)
    axes.set_xlabel(
        "time over distgrad's (right of 1: distgrad is faster); dotted: the goal for the best peer"
    )
    axes.set_yticks(range(len(summaries)), [s.workload.name for s in summaries])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.legend(ncols=len(names), loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(path)
    pyplot.close(figure)
