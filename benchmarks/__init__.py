"""What distgrad costs, measured beside its peers in the same run: `make bench`, or `make bench ARGS=poly` for one.

A workload is a class in `workloads/` with a method for each way to write it, listed in `workloads/__init__.py`.
A library is set up in `libraries.py`, with loops by hand for Numba in `specialist.py`; `peer.py` is the process that
runs one workload in one library; `race.py` takes the peers in turn; `report.py` makes the tables, first that of the
goals, and the plot, which go to `out/`. `--small` runs all in little time, to see that all agree.
"""
