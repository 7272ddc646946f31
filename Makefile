# The commands people type. Everything real is in meson.build and the scripts named here.
SHELL := /bin/bash
BUILD ?= build
ONESHOT ?= 0

.PHONY: deps build image images run test bench neighbour lint fuzz soak abuse abuse-long format clean help

help:
	@sed -n 's/^## //p' Makefile

## make deps    install what is missing (Debian 12, root) and make the user `bivouac`
deps:
	@scripts/deps.sh

## make build   compile into build/
build: deps
	@test -f $(BUILD)/build.ninja || meson setup $(BUILD) >/dev/null
	@ls runtimes/*/recipe | cmp -s - $(BUILD)/recipes || \
		{ meson setup --reconfigure $(BUILD) >/dev/null && ls runtimes/*/recipe >$(BUILD)/recipes; }
	@ninja -C $(BUILD)

## make image   build the Python image (cached by content)
image: build
	@$(BUILD)/bivouac image build

## make images  build the images of all runtimes
images: build
	@$(BUILD)/bivouac image build --runtime all

## make run     from nothing to a served session pool; ONESHOT=1 stops after the example
run: image
	@ONESHOT=$(ONESHOT) BUILD=$(BUILD) scripts/run.sh

## make test    everything that must pass
test: images
	@BUILD=$(BUILD) scripts/test.sh

## make bench   the numbers: a table, and build/bench.jsonl
bench: images
	@/usr/bin/python3 bench/run.py --install

## make neighbour  executions of one session while another one does its worst
neighbour: image
	@/usr/bin/python3 bench/neighbour.py --build $(BUILD)

## make lint    format, layering, static analysis
lint: build
	@BUILD=$(BUILD) scripts/lint.sh

## make soak    5000 create-execute-delete cycles
soak: image
	@BIVOUAC_SOAK=5000 BIVOUAC_BIN_DIR=$(abspath $(BUILD)) /usr/bin/python3 -m pytest -q tests/e2e/test_soak.py

## make abuse   the attack suite alone
abuse: image
	@BIVOUAC_BIN_DIR=$(abspath $(BUILD)) /usr/bin/python3 -m pytest -q -rs -p no:cacheprovider tests/abuse

## make abuse-long  its long version; random system calls for BIVOUAC_ABUSE_SECONDS (default 3600)
abuse-long: image
	@BUILD=$(BUILD) scripts/abuse-long.sh

## make fuzz    each fuzz target for FUZZ_SECONDS (default 60)
fuzz: deps
	@scripts/fuzz.sh $(or $(FUZZ_SECONDS),60)

## make format  clang-format over the C files
format:
	@clang-format -i $$(git ls-files 'src/*.[ch]' 'runtimes/*.[ch]' 'tests/*.[ch]' 'bench/*.[ch]')

clean:
	rm -rf build build-asan build-fuzz
