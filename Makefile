# Every target makes .venv from requirements.lock if need be; nothing else is needed
# but git, make and a Python of at least 3.11.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { command -v $$p; break; }; done)
BIN := .venv/bin
STAMP := .venv/.made
# What `make demo` and `make test` are given besides: make demo ARGS='--seconds 60'
ARGS ?=
# Test processes that run side by side, each on services of its own
WORKERS ?= 2
PARALLEL := -n $(WORKERS) --dist worksteal

.PHONY: help setup demo test test-fast soak gameday lint bench conformance matrix docs screenshots clean

help:  ## Show this list
	@sed -n 's/^\([a-z-]*\):.*  ## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

setup: $(STAMP)  ## Make .venv

$(STAMP): requirements.lock
	@test -n "$(PYTHON)" || { echo "make: no Python of at least 3.11 found; name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "Making .venv with $(PYTHON) (about a minute, once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@touch $@

demo: $(STAMP)  ## Run the whole system under load, with live figures
	@$(BIN)/python manage.py demo $(ARGS)

test: $(STAMP)  ## Run the tests, on real services that are started for them
	@$(BIN)/python -m pytest -q $(PARALLEL) $(ARGS)

test-fast: $(STAMP)  ## Run the tests that need no server (20 seconds)
	@$(BIN)/python -m pytest -q $(PARALLEL) tests/unit tests/properties tests/typing $(ARGS)

# For how many seconds `make soak` checks each mode of reading, and writes each family of models at random. The
# drains are checked four times as long, and then during this number of changes of types, nodes and code
SECONDS ?= 60

soak: $(STAMP)  ## Check reads and writes for SECONDS each, with everything killed; more schedules, hostile records, interruptions
	@$(BIN)/python -m tests.live.checker --seconds $(SECONDS)
	@$(BIN)/python -m tests.live.list_checker --seconds $(SECONDS)
	@$(BIN)/python -m tests.live.checker --cluster --seconds $(SECONDS) --modes commit triggers strict near cleared
	@$(BIN)/python -m tests.live.list_checker --cluster --seconds $(SECONDS) --modes broken near
	@$(BIN)/python -m tests.live.ring_growth
	@$(BIN)/python -m tests.live.drain_checker --seconds $$((4 * $(SECONDS)))
	@$(BIN)/python -m tests.live.drain_checker --cluster --seconds $$((2 * $(SECONDS)))
	@$(BIN)/python -m tests.live.change_checker --faults $(SECONDS)
	@FUZZ=50 $(BIN)/python -m pytest -q -s tests/fuzz
	@FUZZ_SECONDS=$(SECONDS) $(BIN)/python -m pytest -q -s tests/differential
	@INTERRUPT=all $(BIN)/python -m pytest -q tests/integration/test_interrupts.py tests/integration/test_interrupted_writes.py
	@EXPLORE=all SERVERS=all $(BIN)/python -m pytest -q tests/interleavings tests/integration/test_failures.py \
		tests/live/test_servers.py

# make gameday ARGS='--only "node hung" --pictures FOLDER' plays one incident, takes pictures, and writes no table
gameday: $(STAMP)  ## Play incidents on a small running site (15 minutes); writes a table into docs/production.md
	@$(BIN)/python -m tests.gameday $(or $(ARGS),--write)

lint: $(STAMP)  ## Check style, types, layers, spelling and plain language
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/typos
	@$(BIN)/python -m docs.plain_language

# RING=cluster make test, or conformance: on a cluster instead of a ring of three nodes
conformance: $(STAMP)  ## Run Django's own cache tests, unmodified, on a three-node ring
	@$(BIN)/python -m tests.conformance $(ARGS)

# make matrix ONLY=redis runs the cells whose name holds the word, and keeps the results of the others in
# docs/matrix.json. MATRIX_SERVERS names more servers of nodes, as paths separated by colons
ONLY ?=

matrix: $(STAMP)  ## Run tests on each Python, Django, pooler and server that can be had; writes docs/matrix.md
	@$(BIN)/python -m tests.matrix $(if $(ONLY),--only '$(ONLY)')

# make bench QUICK=1 takes fewer rounds and writes nothing; `python -m benchmarks.goals --update hits rows`
# measures some subjects and keeps the figures of the others
QUICK ?=

bench: $(STAMP)  ## Measure, beside what people use today; writes docs/benchmarks.md
	@$(BIN)/python -m benchmarks.ring
	@$(BIN)/python -m benchmarks.outage; missed=$$?; \
	$(BIN)/python -m benchmarks.goals $(if $(QUICK),--quick) && exit $$missed

docs: $(STAMP)  ## Write the generated parts of the pages and build the site; warnings are errors
	@$(BIN)/python -m docs.generated
	@$(BIN)/python -m sphinx -W --keep-going -q -b html -d .cache/doctrees docs docs/_build
	@echo docs/_build/index.html

screenshots: $(STAMP)  ## Take the screenshots of the ring page again, under load (about 5 minutes)
	@$(BIN)/python -m tests.browser.screenshots $(ARGS)

clean:  ## Remove .venv and what tools left
	rm -rf docs/_build .venv .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
