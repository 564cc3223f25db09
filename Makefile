# Every target sets up what it needs in .venv, from pinned versions.
PYTHON ?= python3.11
VENV := .venv
RUN := $(VENV)/bin/python
INSTALL := $(RUN) -m pip install --quiet --disable-pip-version-check
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.cache/jax
# One entry per program and per machine type; small programs are not worth a file.
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0.2
# On Linux, large arrays in large pages: a training step of many of them takes up to a
# quarter less time.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

DEMO := runs/demo
BROADEN := runs/broaden
PICKER := runs/picker

.PHONY: help demo broaden picker test test-slow test-parity benchmarks notebooks lint format clean

help:
	@echo "make demo         train the tiny Performer language model, sample from it"
	@echo "make broaden      train the broadening model that comes with the package"
	@echo "make picker       train the phase picker that comes with the package; PICKS=./FOLDER"
	@echo "                  names real records (results/phase_picking/README.md)"
	@echo "make test         the tests (under 20 minutes on two cores)"
	@echo "make test-slow    soaks and sweeps"
	@echo "make test-parity  comparisons with other implementations (installs torch)"
	@echo "make benchmarks   speed and memory beside other implementations (installs torch)"
	@echo "make notebooks    run every notebook from top to bottom"
	@echo "make lint         formatting, imports, types"

demo: $(VENV)/.run
	$(RUN) -m experiments.train --config=configs/performer/lm.py:tiny --workdir=$(DEMO)
	$(RUN) -m jaxmodels.pipelines.generate --checkpoint $(DEMO) --prompt "def "
	@echo "loss plot:  $(DEMO)/loss.png"
	@echo "checkpoint: $(DEMO)"

broaden: $(VENV)/.test
	$(RUN) -m experiments.train --config=configs/seismic/signal_dit.py:tiny --workdir=$(BROADEN)
	$(RUN) -m jaxmodels.pipelines.broaden_package $(BROADEN) jaxmodels/pretrained/broaden \
		--card jaxmodels/pretrained/broaden/card.md --trained_on \
		"4,000 synthetic records (jaxmodels.data.synthetic_motions, seed 0) and no real one"
	$(RUN) -m jaxmodels.pipelines.broaden ridgecrest napa --output $(BROADEN)/example

picker: $(VENV)/.test
	@test -n "$(PICKS)" || { echo "make picker PICKS=./FOLDER: picked records in \
	SeisBench's format; results/phase_picking/README.md says which"; exit 2; }
	$(RUN) -m experiments.train --config=configs/seismic/phase_picking.py:tiny --workdir=$(PICKER) \
		--config.data.num_samples=3072 --config.data.highpass=1.0 \
		--config.data.synthetic.num_records=8000 --config.data.noise.dataset=$(PICKS) \
		--config.data.second.dataset=$(PICKS) --config.data.second.share=0.25 \
		--config.data.instruments.town=0.35 \
		--config.num_steps=3000 --config.optimizer.warmup_steps=200 \
		--config.optimizer.ema_decay=0.998
	$(RUN) -m jaxmodels.pipelines.pick_package $(PICKER) jaxmodels/pretrained/picker \
		--card jaxmodels/pretrained/picker/card.md --P_threshold 0.3 --S_threshold 0.3 --trained_on \
		"8,000 synthetic local earthquakes (jaxmodels.data.synthetic_motions), 76 real ones of Northern California with the noise before them"
	$(RUN) -m jaxmodels.pipelines.pick --example --output $(PICKER)/example

test: $(VENV)/.test
	$(RUN) -m pytest -n 2 -q

test-slow: $(VENV)/.test
	$(RUN) -m pytest -q -m slow

test-parity: $(VENV)/.parity
	$(RUN) -m pytest -q -m parity

benchmarks: $(VENV)/.parity
	$(RUN) -m experiments.benchmarks.linear_attention --output results/linear_attention
	$(RUN) -m experiments.benchmarks.training_step --output results/training_step
	$(RUN) -m experiments.benchmarks.decoding --output results/decoding
	$(RUN) -m experiments.benchmarks.signal_dit --output results/signal_dit_speed
	$(RUN) -m experiments.benchmarks.mlstm --output results/mlstm
	$(RUN) -m experiments.benchmarks.picking --output results/picking_speed

notebooks: $(VENV)/.notebooks
	$(RUN) notebooks/run.py

lint: $(VENV)/.test
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: $(VENV)/.test
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

clean:
	rm -rf $(VENV) .cache runs

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: setup.cfg constraints.txt | $(VENV)/bin/python
	$(INSTALL) --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.test $(VENV)/.parity $(VENV)/.notebooks: $(VENV)/.%: $(VENV)/.run
	$(INSTALL) --constraint constraints.txt --editable '.[test,text,seismic,$*]'
	@touch $@
