"""The command line: runs workloads, prints each as it ends, and writes a report of all."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks import report, simulate
from benchmarks.libraries import LIBRARIES
from benchmarks.race import race
from benchmarks.workloads import WORKLOADS

OUT = Path(__file__).parent / "out"


def main() -> None:
    """Run the workloads named on the command line, or all; or, for `simulate`, time the driver alone."""
    if sys.argv[1:] == ["simulate"]:
        simulate.main()
        return
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "workloads", nargs="*", metavar="WORKLOAD", help=f"all, or of: {', '.join(WORKLOADS)}"
    )
    parser.add_argument(
        "--peers", nargs="+", choices=list(LIBRARIES), default=[], help="only these beside distgrad"
    )
    parser.add_argument("--small", action="store_true", help="small sizes: do all peers agree?")
    parser.add_argument("--rounds", type=int, default=0, help="so many, whatever time they take")
    parser.add_argument("--json", type=Path, help="where the raw times go (out/results.json)")
    parser.add_argument(
        "--from", nargs="+", type=Path, dest="files", help="only report what these files hold"
    )
    options = parser.parse_args()
    unknown = set(options.workloads) - set(WORKLOADS)
    if unknown:
        parser.error(f"no workload is called {', '.join(unknown)}; there are {', '.join(WORKLOADS)}")
    OUT.mkdir(exist_ok=True)
    if options.files:
        found = {r["workload"]: r for file in options.files for r in json.loads(file.read_text())}
        races = [found[name] for name in WORKLOADS if name in found]
    else:
        print(report.machine(), flush=True)
        races = []
        for name in options.workloads or WORKLOADS:
            if options.small:
                WORKLOADS[name].shrink()
            races.append(race(WORKLOADS[name], tuple(options.peers), options.small, options.rounds))
            print(f"\n{report.text(races[-1])}", flush=True)
        (options.json or OUT / "results.json").write_text(json.dumps(races))
    table = report.markdown(races)
    (OUT / "report.md").write_text(table)
    print(f"\n{table}\nAlso in {OUT}: report.md, plot.svg, and the raw times")
    report.plot(races, OUT / "plot.svg")


if __name__ == "__main__":
    main()
