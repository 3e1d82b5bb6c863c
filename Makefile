# make run: the whole pipeline, in starter.ipynb; make test: the tests; make lab: the notebook by hand;
# make check: lint and types; make bench, make soak: the figures, and what long work leaves behind
PYTHON := .venv/bin/python
CHECK := .venv-check/bin

# pip compiles every module of every package, a quarter of the installed size; Python compiles those in use by itself.
PIP_INSTALL := -m pip install --quiet --no-compile
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test images lab check bench soak clean

run: .venv/installed
	@$(PYTHON) -m scones.run

test: .venv/installed
	@mkdir -p build
	@rm -f build/.coverage*
	@.venv/bin/coverage run -m pytest
	@.venv/bin/coverage combine --quiet
	@.venv/bin/coverage report

images: run
	cp build/images/*.png images/
	cp build/starter.ipynb starter.ipynb

lab: .venv/lab
	@.venv/bin/jupyter lab starter.ipynb

check: .venv/installed .venv-check/installed
	$(CHECK)/ruff check
	$(CHECK)/ruff format --check
	$(CHECK)/mypy

bench: .venv/installed
	@$(PYTHON) benchmarks/bench.py

soak: .venv/installed
	@$(PYTHON) benchmarks/soak.py

.venv/installed: requirements.txt
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed, this is " + sys.version)'
	python3 -m venv .venv
	$(PYTHON) $(PIP_INSTALL) --requirement requirements.txt
	@touch $@

.venv/lab: .venv/installed
	$(PYTHON) $(PIP_INSTALL) 'jupyterlab>=4.2,<5'
	@touch $@

.venv-check/installed: requirements-check.txt
	python3 -m venv .venv-check
	$(CHECK)/python $(PIP_INSTALL) --requirement requirements-check.txt
	@touch $@

clean:
	rm -rf .venv .venv-check build data
