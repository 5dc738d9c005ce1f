# Needs nothing but make and a Python from 3.10 to 3.13: `make test PYTHON=python3.12`.
# Everything else is installed into .venv and .venv-oldest; a stamp file in each says that it was.
PYTHON ?= python3
# On machines without a GPU, a CPU build of the same version does as well.
TORCH ?= torch==2.13.0
OLDEST_TRITON ?= triton==3.3.0
# The oldest NumPy that pyproject.toml allows, of each Python.
OLDEST_NUMPY ?= "numpy==1.26.0; python_version < '3.13'" "numpy==2.1.0; python_version >= '3.13'"
# Processes that share the tests.
JOBS ?= 2

VENV := .venv
OLDEST := .venv-oldest
TYPECHECK := build/typecheck
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check

.PHONY: demo test test-main test-oldest lint clean

demo: $(VENV)/.installed
	$(VENV)/bin/python -m detsample.cli demo

# In this order: what fails fastest comes first.
test:
	$(MAKE) lint
	$(MAKE) test-main
	$(MAKE) test-oldest

# mypy knows nothing of package-dir: it gets the layout of an installed package, made of links.
lint: $(VENV)/.installed-dev
	$(VENV)/bin/python -m ruff check .
	rm -rf $(TYPECHECK)
	mkdir -p $(TYPECHECK)/detsample
	ln -s $(CURDIR)/detsample/* $(CURDIR)/reference $(TYPECHECK)/detsample/
	cd $(TYPECHECK) && $(CURDIR)/$(VENV)/bin/python -m mypy --config-file $(CURDIR)/pyproject.toml

test-main: $(VENV)/.installed-dev
	$(VENV)/bin/python -m pytest -n $(JOBS) --dist loadgroup

# An older Triton is where a change of the language shows, an older NumPy one of the rules for types.
test-oldest: $(OLDEST)/.installed
	$(OLDEST)/bin/python -m pytest tests -m triton_contract
	$(OLDEST)/bin/python -m pytest tests/test_oracle.py tests/test_reference_*.py -m "not slow" -n $(JOBS)

$(VENV)/.created $(OLDEST)/.created:
	$(PYTHON) -m venv $(@D)
	touch $@

$(VENV)/.installed: $(VENV)/.created pyproject.toml
	$(VENV)/bin/python $(PIP_INSTALL) --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(VENV)/bin/python $(PIP_INSTALL) --editable '.[test,test-frameworks,lint]' '$(TORCH)'
	touch $@

$(OLDEST)/.installed: $(OLDEST)/.created pyproject.toml
	$(OLDEST)/bin/python $(PIP_INSTALL) --editable '.[test]' '$(OLDEST_TRITON)' $(OLDEST_NUMPY)
	touch $@

clean:
	rm -rf $(VENV) $(OLDEST) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
