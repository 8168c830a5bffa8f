# Everything runs in a virtual environment that is made here and holds what is needed, no more:
# .venv for all but the benchmarks, .venv-bench for those, since they need torch.
# Arguments go in ARGS: make test ARGS="-k printing -x"; make bench ARGS=...

PYTHON ?= python3
VENV := .venv
BENCH := .venv-bench
ARGS ?=
TWO := -n 2 --dist worksteal # two processes, each with a Ray of its own
PROGRAMS ?= 20000
# What is also run with compiled loops, which the other tests leave out: each program takes 0.1 s to compile.
COMPILED := $(addprefix tests/test_,$(addsuffix .py,runtime stencils reductions rows exact_sums programs training \
	normalization profile registers planted whose_failure overlap batches memory_budget donation predicted_memory))

.PHONY: help test sweep compiled fuzz demo lint format bench clean

help:
	@echo "make test     run the tests"
	@echo "make sweep    run the long ones: every op in every way, random programs, processes that end"
	@echo "make compiled run what works with loops again, with compiled ones"
	@echo "make fuzz     run 20,000 hostile programs on a worker between guards: make fuzz PROGRAMS=200000"
	@echo "make demo     predict late flights: logistic regression on a local Ray"
	@echo "make lint     linter, formatter (looking only) and type checker"
	@echo "make format   put the code into the formatter's form"
	@echo "make bench    time distgrad beside torch, JAX, Dask, HIPS autograd and Numba"
	@echo "              ARGS=simulate: the driver alone, for up to 1,024 workers and 65,536 shards"
	@echo "make clean    remove the environments and all that is generated"

test: $(VENV)/.has-test
	$(VENV)/bin/python -m pytest $(TWO) $(ARGS)

sweep: $(VENV)/.has-test
	$(VENV)/bin/python -m pytest $(TWO) -m sweep $(ARGS)

compiled: $(VENV)/.has-test
	DISTGRAD_COMPILE=1 $(VENV)/bin/python -m pytest $(TWO) $(COMPILED) $(ARGS)

fuzz: $(VENV)/.has-test
	PROGRAMS=$(PROGRAMS) $(VENV)/bin/python -m pytest tests/test_fuzz.py -m fuzz $(ARGS)

demo: $(VENV)/.has-demo
	$(VENV)/bin/python examples/flight_delays.py $(ARGS)

lint: $(VENV)/.has-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(VENV)/.has-dev
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

bench: $(BENCH)/.has-bench
	$(BENCH)/bin/python -m benchmarks $(ARGS)

clean:
	rm -rf $(VENV) $(BENCH) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp says that the project and one of its extras are installed. It is renewed when the list of packages changes.
$(VENV)/.has-%: pyproject.toml | $(VENV)/bin/pip
	$(VENV)/bin/python -m pip install --quiet --editable '.[$*]'
	touch $@

$(BENCH)/.has-%: pyproject.toml | $(BENCH)/bin/pip
	$(BENCH)/bin/python -m pip install --quiet --editable '.[$*]'
	touch $@

# pip is the last thing that venv makes, so an environment that was broken off half-way is finished.
$(VENV)/bin/pip $(BENCH)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("Python 3.10 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv $(patsubst %/bin/pip,%,$@)
