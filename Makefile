# make run: the whole pipeline, in starter.ipynb; make test: the tests; make lab: the notebook by hand
PYTHON := .venv/bin/python

# pip compiles every module of every package, a quarter of the installed size; Python compiles those in use by itself.
PIP_INSTALL := $(PYTHON) -m pip install --quiet --no-compile
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test images lab clean

run: .venv/installed
	@$(PYTHON) -m scones.run

test: .venv/installed
	@$(PYTHON) -m pytest

images: run
	cp build/images/*.png images/
	cp build/starter.ipynb starter.ipynb

lab: .venv/lab
	@.venv/bin/jupyter lab starter.ipynb

.venv/installed: requirements.txt
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed, this is " + sys.version)'
	python3 -m venv .venv
	$(PIP_INSTALL) --requirement requirements.txt
	@touch $@

.venv/lab: .venv/installed
	$(PIP_INSTALL) 'jupyterlab>=4.2,<5'
	@touch $@

clean:
	rm -rf .venv build data
