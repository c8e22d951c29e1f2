# make demo               set up on first use, then run the main job on a real field
# make demo SLIDES=folder the same on your own slides
# make test               every check: style, types, import contracts, tests
# make lint               the checks that do not run the code
# make bench              CPU seconds and peak memory of the main job, beside their limits

SETUP := .venv/.coverslip-setup

.PHONY: help setup demo lint test bench

help:
	@sed -n 's/^# //p' Makefile

setup: $(SETUP)

$(SETUP): constraints.txt pyproject.toml tools/setup
	@tools/setup

demo: $(SETUP)
	@.venv/bin/python tools/demo.py $(if $(SLIDES),"$(SLIDES)")

lint: $(SETUP)
	@tools/lint

test: lint
	@echo '== pytest'
	@.venv/bin/pytest -n 2 --dist loadfile

bench: $(SETUP)
	@.venv/bin/python benchmarks/main_job.py
