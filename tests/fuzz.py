"""Run hostile programs by the thousand: `python tests/fuzz.py --programs 200000 --processes 2`.

Each process takes a range of numbers, from each of which follows one program. It notes the number before it runs that
program, so that one that kills it, or takes too long, is known; another process goes on after that.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

LONG = 600  # seconds after which a program hangs; the machine may have other work
LIMIT = 60  # seconds of processor time after which one is broken off, where Python runs
BATCH = 10_000  # numbers of one process
MEMORY = 3 << 30  # bytes of address space more than at the start


def _too_long(*_: Any) -> None:
    raise TimeoutError(f"{LIMIT} s of processor time")


def child(seed: int, first: int, last: int, folder: str, real: int) -> None:
    """Run the programs `first` up to `last`; writes the report when all are done."""
    sys.path.insert(0, str(Path(__file__).parent))
    from guarded import guarded  # noqa: PLC0415 - in the child alone
    from hostile_calls import Rig, one  # noqa: PLC0415
    from hostile_programs import Hostile  # noqa: PLC0415
    from real_programs import collected  # noqa: PLC0415

    hostile = Hostile(collected(real))
    used = Path("/proc/self/statm")
    if used.exists():
        most = int(used.read_text().split()[0]) * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
    counts: Counter[str] = Counter()
    found: list[dict[str, Any]] = []
    progress = os.open(f"{folder}/{first}.at", os.O_CREAT | os.O_RDWR)
    with guarded() as guards, tempfile.TemporaryDirectory() as here:
        os.chdir(here)
        rig = Rig(guards)
        signal.signal(signal.SIGPROF, _too_long)
        for index in range(first, last):
            os.pwrite(progress, struct.pack("q", index), 0)
            signal.setitimer(signal.ITIMER_PROF, LIMIT)
            try:
                counts[one(seed, index, hostile, rig)] += 1
            except Exception as error:
                counts["found"] += 1
                text = "".join(traceback.format_exception(error)[-3:])
                found.append({"index": index, "error": f"{type(error).__name__}: {error}", "where": text})
        signal.setitimer(signal.ITIMER_PROF, 0)
        os.chdir("/")
    Path(f"{folder}/{first}.json").write_text(json.dumps({"counts": counts, "found": found}))


def run(
    programs: int, seed: int = 0, processes: int = 1, real: int = 0, batch: int = BATCH, nice: int = 0
) -> dict[str, Any]:
    """Numbers from 0 on until so many programs have run. The counts of what came of them, and what was found."""
    counts: Counter[str] = Counter()
    found: list[dict[str, Any]] = []
    running: dict[subprocess.Popen[bytes], tuple[int, int]] = {}
    waiting: list[tuple[int, int]] = []
    begun = 0
    with tempfile.TemporaryDirectory() as folder:
        while True:
            ran = counts["done"] + counts["failed"]
            left = programs - ran - sum(last - first for first, last in running.values())
            while len(running) < processes and (waiting or left > 0):
                if waiting:
                    first, last = waiting.pop()
                else:
                    first, last = begun, begun + min(batch, max(200, left // processes))
                    begun = last
                command = [sys.executable, __file__, "--child", str(first), str(last), folder]
                command += ["--seed", str(seed), "--real", str(real)]
                process = subprocess.Popen(command, preexec_fn=lambda: os.nice(nice) and None)
                running[process] = (first, last)
                left -= last - first
            if not running:
                return {"counts": dict(counts), "found": found, "seed": seed, "numbers": begun}
            time.sleep(0.2)
            for process, (first, last) in list(running.items()):
                at = Path(f"{folder}/{first}.at")
                stuck = at.exists() and time.time() - at.stat().st_mtime > LONG
                if process.poll() is None and not stuck:
                    continue
                if process.poll() is None:
                    process.kill()
                    process.wait()
                del running[process]
                print(f"{first} to {last}: {dict(counts)} before", file=sys.stderr, flush=True)
                report = Path(f"{folder}/{first}.json")
                if report.exists():
                    told = json.loads(report.read_text())
                    counts.update(told["counts"])
                    found += told["found"]
                    continue
                if not at.exists():
                    raise RuntimeError(f"no program was run: exit code {process.returncode}")
                (index,) = struct.unpack("q", at.read_bytes())
                at.unlink()  # the next process may begin at the same number
                how = (
                    "hangs"
                    if stuck
                    else signal.Signals(-process.returncode).name
                    if process.returncode < 0
                    else "ends"
                )
                found.append({"index": index, "error": f"the process {how}", "where": ""})
                counts["found"] += 1
                waiting += [(n, m) for n, m in ((first, index), (index + 1, last)) if n < m]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", type=int, default=20_000)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--real", type=int, default=1000, help="samples of ops whose programs are changed")
    parser.add_argument("--nice", type=int, default=10)
    parser.add_argument("--child", nargs=3)
    args = parser.parse_args()
    if args.child:
        first, last, folder = args.child
        child(args.seed, int(first), int(last), folder, args.real)
        return
    report = run(args.programs, args.seed, args.processes, args.real, nice=args.nice)
    print(json.dumps(report, indent=1))
    sys.exit(bool(report["found"]))


if __name__ == "__main__":
    main()
