# make demo               set up on first use, then run the main job on a real field
# make demo SLIDES=folder the same on your own slides
# make test               every check: style, types, import contracts, tests
# make lint               the checks that do not run the code
# make bench              CPU seconds and peak memory beside the peers and the limits (installs peers: 7 GB)
# make bench-review       a million cells on a slide of 10 gigapixels in napari: opening, panning, correcting
# make bench-fleet        what a folder of 10,000 slides takes on a cluster, simulated from measured tasks

SETUP := .venv/.coverslip-setup

.PHONY: help setup demo lint test bench bench-review bench-fleet

help:
	@sed -n 's/^# //p' Makefile

setup: $(SETUP)

$(SETUP): constraints.txt pyproject.toml tools/setup
	@tools/setup

demo: $(SETUP)
	@.venv/bin/python tools/demo.py $(if $(SLIDES),"$(SLIDES)")

lint: $(SETUP)
	@tools/lint

test: $(SETUP)
	@tools/test

bench: $(SETUP)
	@.venv/bin/python -m benchmarks $(BENCH)

bench-review: $(SETUP)
	@.venv/bin/python -m benchmarks.review $(BENCH)

bench-fleet: $(SETUP)
	@.venv/bin/python -m benchmarks.fleet $(BENCH)
