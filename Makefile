# Everything from a fresh clone with Python >= 3.10 and make; the network is used for the package index alone.
#   make demo [FILE=song.wav]   make studio [ARGS="--port 9000"]   make pictures   make test [ARGS="-k container"]   make test-long   make check   make bench
#   make evaluate [HELDOUT=DIR]   the bundled codec on held-out sound, into its card and the README; needs opus-tools, and
#   sound that `make heldout` makes and fetches (fluidsynth, espeak-ng; the network for a Debian mirror)
#   make evaluate-flow [HELDOUT=DIR] [STORE=LATENTS]   the bundled flow on held-out music, into its card
# PYTHON=python3.12 picks another Python; PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu" spares the
# download of CUDA on a machine without a GPU.

PYTHON ?= python3
PIP_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(PIP_ARGS)
# A worker a core; each computes with one thread, and keeps a file's tests together; the longest files come first (tests/conftest.py).
WORKERS := -n auto --dist loadfile --no-loadscope-reorder
HELDOUT ?= data
# Steps of refinement that are judged against the estimate; the last one is timed.
STEPS ?= 0 1 4
STORE ?=
REQUIREMENTS := pyproject.toml constraints.txt

.PHONY: demo studio pictures test test-long check bench evaluate evaluate-flow heldout transformers4 clean
.DEFAULT_GOAL := test

demo: $(VENV)/core.stamp
	$(BIN)/duotone demo $(FILE) -o demo-out/index.html

# The service and its page on loopback; Ctrl-C ends it.
studio: $(VENV)/serve.stamp
	$(BIN)/duotone serve --open $(ARGS)

# The pictures of the README and of docs/, from the bundled models; those of pages need Chromium (Debian: apt install chromium opus-tools),
# that of harmonics FluidSynth and a soundfont (fluidsynth timgm6mb-soundfont).
pictures: $(VENV)/pictures.stamp $(VENV)/test.stamp
	$(BIN)/python docs/pictures/make_loop.py
	$(BIN)/python docs/pictures/make_page.py
	$(BIN)/python docs/pictures/make_harmonics.py
	$(BIN)/python docs/pictures/make_learning.py
	DUOTONE_PICTURES=1 $(BIN)/python -m pytest -q tests/serve/test_studio_browser.py -k pictures

test: $(VENV)/test.stamp
	$(BIN)/python -m pytest $(WORKERS) -m "not long" $(ARGS)

test-long: $(VENV)/long.stamp
	$(BIN)/python -m pytest $(WORKERS) -m long $(ARGS)

check: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_layers.py

bench: $(VENV)/bench.stamp
	set -e; for script in benchmarks/bench_*.py; do echo "== $$script"; $(BIN)/python $$script $(ARGS); done

evaluate: $(VENV)/bench.stamp
	$(BIN)/python benchmarks/bench_against_encodec.py $(if $(STEPS),--steps $(lastword $(STEPS)))
	$(BIN)/python benchmarks/evaluate_bundled.py --heldout $(HELDOUT) $(if $(STEPS),--steps $(STEPS)) --dtype float32 --publish $(ARGS)

evaluate-flow: $(VENV)/core.stamp
	$(BIN)/python benchmarks/evaluate_flow.py --heldout $(HELDOUT) $(if $(STORE),--store $(STORE)) --publish $(ARGS)

heldout: $(VENV)/core.stamp
	$(BIN)/duotone fetch-sounds $(HELDOUT)/recorded --split heldout
	$(BIN)/duotone make-sounds $(HELDOUT)/made/heldout/music --split heldout --kinds music --minutes 12 --seed 902
	$(BIN)/duotone make-sounds $(HELDOUT)/made/heldout/speech --split heldout --kinds speech --minutes 8 --seed 901

# Another environment, for the test that saved tokenizers load in transformers 4; the test looks for it by this variable.
transformers4: $(VENV)/made.stamp
	$(PYTHON) -m venv $(VENV)4
	$(VENV)4/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -r constraints-transformers4.txt
	@echo "export DUOTONE_TRANSFORMERS4=$(CURDIR)/$(VENV)4/bin/python"

clean:
	rm -rf $(VENV) $(VENV)4 demo-out build dist

# A stamp is written last, so that an interrupted installation is taken up again.
$(VENV)/made.stamp:
	@$(PYTHON) -c 'import sys; sys.exit("Duotone needs Python 3.10 or newer, $(PYTHON) is %d.%d: make PYTHON=python3.12 ..." % sys.version_info[:2] if sys.version_info < (3, 10) else 0)'
	@rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	@touch $@

# torch first and alone: what follows then keeps the build that the index at hand offers.
$(VENV)/core.stamp: $(VENV)/made.stamp $(REQUIREMENTS)
	$(PIP) torch
	$(PIP) -e .
	@touch $@

$(VENV)/test.stamp: $(VENV)/core.stamp
	$(PIP) -e ".[test,dev]"
	@touch $@

# Ray is large, and only the long tests start a cluster of this machine.
$(VENV)/long.stamp: $(VENV)/test.stamp
	$(PIP) -e ".[test,dev,ray]"
	@touch $@

$(VENV)/serve.stamp: $(VENV)/core.stamp
	$(PIP) -e ".[serve]"
	@touch $@

$(VENV)/pictures.stamp: $(VENV)/core.stamp
	$(PIP) -e ".[pictures]"
	@touch $@

$(VENV)/bench.stamp: $(VENV)/core.stamp
	$(PIP) -e ".[bench,speech]"
	@touch $@
