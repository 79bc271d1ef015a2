# `make demo` and `make test` need Python 3.11+ and a package index, nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test check docs help lowest wheel clean

demo: $(STAMP)
	$(BIN)/qsd demo --out runs/demo

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

check: $(STAMP)
	$(BIN)/ruff check qsd tests benchmarks
	$(BIN)/ruff format --check qsd tests benchmarks
	$(BIN)/mypy qsd

docs: $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[docs]"
	$(BIN)/mkdocs build --quiet

help: $(STAMP)
	$(BIN)/python -m qsd.cli.help_pages

# The wheel, installed outside of the clone, goes the whole road on a miniature that ships inside of it, and runs the
# demo with fewer images.
wheel: $(STAMP)
	rm -rf build/wheel && mkdir -p build/wheel
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir build/wheel .
	$(BIN)/python -m pip install --quiet --no-deps --target build/wheel/site build/wheel/*.whl
	cd build/wheel && export OMP_NUM_THREADS=1 PYTHONPATH=site && \
	$(abspath $(BIN))/python -c "import qsd; assert '/site/qsd/' in qsd.__file__" && \
	$(abspath $(BIN))/python -m qsd.cli compress checkpoints/digits-dit --max-bits 3.6 --out small \
		--options '[uaq-3, uaq-4]' --evaluation.prompts datasets/digits/class_prompts.txt \
		--evaluation.num_images 8 --evaluation.steps 2 --evaluation.guidance 1.0 && \
	$(abspath $(BIN))/python -m qsd.cli demo --out demo --settings.verification_images 20 --settings.noise_seeds '[1]' \
		--settings.extra_labels 1 --settings.search.generations 5

# The lowest versions that pyproject.toml allows, in an environment of their own; torch is that of constraints.txt.
LOWEST_TESTS := tests/test_package.py tests/cli/test_flags.py tests/cli/test_fit.py tests/store tests/support \
	tests/bank tests/configs tests/quantizers tests/search tests/ranker/test_checkpoint.py \
	tests/export/test_export.py tests/runtime/test_layers.py tests/evaluation/test_images.py
lowest:
	rm -rf build/lowest && mkdir -p build && $(PYTHON) -m venv build/lowest
	$(PYTHON) .ci/lowest.py > build/lowest.txt
	build/lowest/bin/python -m pip install --quiet --upgrade pip
	build/lowest/bin/python -m pip install --quiet -c constraints.txt torch
	build/lowest/bin/python -m pip install --quiet -c build/lowest.txt -e . pytest pytest-timeout hypothesis
	OMP_NUM_THREADS=1 build/lowest/bin/python -m pytest -q --disable-warnings -m "not slow" $(LOWEST_TESTS)

# torch goes first and pinned: an unpinned torch may bring gigabytes of CUDA.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) runs lightning_logs build dist
