# Every verb does its own set-up in .venv; stamps in .venv/stamps make the second run quick.

PYTHON ?= python3
JOBS   ?= $(shell nproc 2>/dev/null || echo 2)
VENV   := .venv
BIN    := $(VENV)/bin
STAMPS := $(VENV)/stamps
PIP    := $(BIN)/pip --quiet --quiet --disable-pip-version-check

C_SOURCES  := $(wildcard src_c/*.c src_c/*/*.c)
C_TESTS    := $(wildcard tests/c/*.c)
ENGINE     := setup.py pyproject.toml $(wildcard fastreg/*.pyx fastreg/*.pxd) $(C_SOURCES) \
              $(wildcard src_c/*.h src_c/*/*.h src_c/*/*.inc)

# The flags of setup.py; the C tests and the linters compile the same code without Python.
C_FLAGS    := -std=c11 -O3 -fno-math-errno -fno-trapping-math -fopenmp-simd -ffp-contract=off \
              -fvisibility=hidden -pthread -Isrc_c -Itests/c -Wall -Wextra -Werror
SANITIZE   := -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all

.PHONY: help build demo test bench roofline lint ctest ulp asan neon parity integration clean
.DELETE_ON_ERROR:

help:
	@echo "make demo     on handwritten digits: what each regularizer does, and what zeros buy; two pictures"
	@echo "make test     the tests, in Python and in C"
	@echo "make bench    kernels against the NumPy reference, then training steps against the peers"
	@echo "make roofline the engine's products beside what the machine can do, as a table and a picture"
	@echo "make lint     ruff, mypy, and the C sources under gcc and clang with -Werror"
	@echo "make ctest    the C core alone, without Python"
	@echo "make ulp      the vector math over every float and many doubles (an hour)"
	@echo "make asan     the same under the address and undefined-behaviour sanitizers"
	@echo "make neon     the C tests of the kernels, cross-compiled for AArch64 and run by qemu"
	@echo "make parity   trained weights against the installed Keras, PyTorch, scikit-learn, skglm"
	@echo "make integration  the estimators under Dask, and models as ONNX under onnxruntime"
	@echo "make build    compile the engine into .venv (the verbs above do it when it is needed)"
	@echo "make clean    remove what was built (.venv stays: rm -rf it to start from nothing)"

build: $(STAMPS)/engine

demo: $(STAMPS)/engine $(STAMPS)/demo
	$(BIN)/python -m fastreg demo
	$(BIN)/python -m fastreg sparsity

test: $(STAMPS)/engine $(STAMPS)/test
	$(BIN)/python -m pytest
	@$(MAKE) --no-print-directory ctest

bench: $(STAMPS)/engine $(STAMPS)/test $(STAMPS)/peers
	$(BIN)/python -m pytest bench --benchmark-columns=min,median,rounds
	$(BIN)/python -m bench

roofline: $(STAMPS)/engine $(STAMPS)/test
	@$(MAKE) --no-print-directory -j$(JOBS) build/roofline/library.so
	$(BIN)/python -m bench.roofline --plot build/roofline/roofline.png

parity: $(STAMPS)/engine $(STAMPS)/test $(STAMPS)/peers
	$(BIN)/python -m pytest tests/parity

integration: $(STAMPS)/engine $(STAMPS)/test $(STAMPS)/integration
	$(BIN)/python -m pytest tests/integration

lint: $(STAMPS)/build $(STAMPS)/lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@for cc in gcc clang; do \
	    if ! command -v $$cc >/dev/null; then echo "lint: $$cc is not installed, left out"; continue; fi; \
	    echo "$$cc -Wall -Wextra -Werror src_c tests/c"; \
	    $(MAKE) --no-print-directory -j$(JOBS) lint-$$cc || exit 1; \
	done

ctest:
	@$(MAKE) --no-print-directory -j$(JOBS) build/ctest/run
	build/ctest/run

ulp:
	@$(MAKE) --no-print-directory -j$(JOBS) build/ulp/run
	build/ulp/run math

asan:
	@$(MAKE) --no-print-directory -j$(JOBS) build/asan/run
	build/asan/run

# Debian: gcc-aarch64-linux-gnu, libc6-dev-arm64-cross, qemu-user. Of the other two suites qemu fails what
# forks while threads run and what limits the memory of a process.
neon:
	@$(MAKE) --no-print-directory -j$(JOBS) build/neon/run
	qemu-aarch64 build/neon/run math kernels guard

clean:
	rm -rf build dist *.egg-info .benchmarks .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find fastreg tests bench -name __pycache__ -prune -exec rm -rf {} +
	rm -f fastreg/*.so $(STAMPS)/engine

# --- C without Python: build/<kind>/<source>.o, and one test binary per kind -------------------

define c_kind # name, compiler, flags
build/$(1)/%.o: %.c Makefile
	@mkdir -p $$(@D)
	@echo "$(1): $$<"
	@$(2) $(3) -MMD -MP -c $$< -o $$@
$(1)_OBJECTS := $$(patsubst %.c,build/$(1)/%.o,$$(C_SOURCES) $$(C_TESTS))
-include $$($(1)_OBJECTS:.o=.d)
build/$(1)/run: $$($(1)_OBJECTS)
	@$(2) $(3) $$^ -lm -o $$@
endef
$(eval $(call c_kind,ctest,$(CC),$(C_FLAGS) -g))
$(eval $(call c_kind,asan,$(CC),$(C_FLAGS) $(SANITIZE)))
$(eval $(call c_kind,ulp,$(CC),$(C_FLAGS) -DSWEEP_STEP=1 -DRANDOM_VALUES=20000000))
$(eval $(call c_kind,neon,aarch64-linux-gnu-gcc,$(C_FLAGS) -static -DSWEEP_STEP=33103 -DRANDOM_VALUES=1000))
$(eval $(call c_kind,gcc,gcc,$(C_FLAGS)))
$(eval $(call c_kind,clang,clang,$(C_FLAGS)))

# The engine as bench/roofline.c opens it.
build/roofline/%.o: %.c Makefile
	@mkdir -p $(@D)
	@$(CC) $(C_FLAGS) -fPIC -MMD -MP -c $< -o $@
roofline_OBJECTS := $(patsubst %.c,build/roofline/%.o,bench/roofline.c $(C_SOURCES))
-include $(roofline_OBJECTS:.o=.d)
build/roofline/library.so: $(roofline_OBJECTS)
	@$(CC) $(C_FLAGS) -shared $^ -lm -o $@

.PHONY: lint-gcc lint-clang
lint-gcc: $(gcc_OBJECTS) build/gcc/bench/roofline.o
lint-clang: $(clang_OBJECTS) build/clang/bench/roofline.o

# --- set-up ------------------------------------------------------------------------------------

# The requirements that pyproject.toml lists for the build ("build"), or for an extra.
requirements = $$($(BIN)/python -c 'import tomllib; \
	t = tomllib.load(open("pyproject.toml", "rb")); p = t["project"]; \
	x = t["build-system"]["requires"] + p["dependencies"] if "$(1)" == "build" \
	else p["optional-dependencies"]["$(1)"]; \
	print("\n".join(r.replace(" ", "") for r in x))')

$(STAMPS)/venv:
	@.ci/system "$(PYTHON)"
	@test -x $(BIN)/pip || $(PYTHON) -m venv --clear $(VENV)
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/build $(STAMPS)/demo $(STAMPS)/test $(STAMPS)/lint $(STAMPS)/peers $(STAMPS)/integration: $(STAMPS)/venv pyproject.toml
	@echo "pip install what pyproject.toml lists for: $(@F)"
	@$(PIP) install $(call requirements,$(@F))
	@touch $@
$(STAMPS)/demo $(STAMPS)/test $(STAMPS)/lint $(STAMPS)/peers $(STAMPS)/integration: | $(STAMPS)/build

$(STAMPS)/engine: $(STAMPS)/build $(ENGINE)
	@echo "pip install --editable . (compiles the engine)"
	@$(PIP) install --no-build-isolation --no-deps --editable .
	@touch $@
