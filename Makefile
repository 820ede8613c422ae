# clip-csi. `make demo` and `make test` install what they need on a Debian 12 machine, as root.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

# What the product needs to build and run; what the demo adds; the tests' other real peers; what
# builds our container image.
PACKAGES := python3-venv python3-dev gcc pkg-config libfuse3-dev fuse3 ca-certificates
DEMO     := docker-registry
PEERS    := skopeo umoci buildah mmdebstrap containerd attr openssl apache2-utils libarchive-tools iproute2
BENCH    := nginx wrk
IMAGE    := buildah mmdebstrap

.PHONY: demo test fuzz soak lint bench bench-image-volumes e2e e2e-storage kube-demo cluster-programs cluster-down venv packages \
        proto clean
demo: $(VENV)/.product
	@$(BIN)/python -m demo

# In two processes: the tests wait more than they work. A module's stay together, since they share
# servers and images. PROCESSES=0 is one, for a debugger.
PROCESSES ?= 2
test: venv
	$(BIN)/python -m pytest -p tests.whole -n $(PROCESSES) --dist loadfile

# Each parser's fuzzer in turn; what adds coverage is kept in tests/fuzz/corpus.
FUZZ_SECONDS ?= 600
fuzz: venv
	$(BIN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS)

# Promises about minutes, kept for real minutes: fifteen of them, with a real kube-apiserver.
soak: venv cluster-programs
	$(BIN)/python -m tests.soak

lint: venv
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

# Beside nginx, and beside the containerd that `make cluster-programs` builds, or else Debian's.
bench: venv
	@.ci/packages $(BENCH)
	@$(BIN)/python -m compileall -q clipfs csi  # as an installation has it
	$(BIN)/python -m bench

# In a real Kubernetes of two nodes on this machine (tests/e2e/cluster), as root. Its programs are
# built once a machine, 12 minutes, into ~/.cache/clip-csi/cluster/bin, or CLUSTER_BIN if it is set.
CLUSTER_PACKAGES := $(IMAGE) docker-registry skopeo umoci openssl nftables iptables iproute2 \
                    busybox-static tini procps gcc pkg-config libseccomp-dev
CLUSTER          := $(BIN)/python -m tests.e2e.cluster

e2e: venv cluster-programs
	KUBECONFIG= $(BIN)/python -m pytest -m cluster -s tests/e2e

# Kubernetes' own storage tests (docs/conformance.md). Their program is built the first time; once
# it is there, `make e2e` runs them too.
e2e-storage: venv cluster-programs
	@$(CLUSTER) build e2e
	KUBECONFIG= $(BIN)/python -m pytest -m cluster -s tests/e2e/test_kubernetes_storage.py

# KEEP=1 leaves the cluster running, with the product and the pods; `make cluster-down` ends it.
kube-demo: venv cluster-programs
	@KUBECONFIG= $(BIN)/python -m tests.e2e.demo $(if $(KEEP),--keep)

.PHONY: manifests
manifests:  # of the chart; needs helm, in PATH or among the cluster's programs
	@charts/render >manifests/.new && mv manifests/.new manifests/clip-csi.yaml

# A pod's start, beside Kubernetes' own image volume.
bench-image-volumes: venv cluster-programs
	@KUBECONFIG= $(BIN)/python -m bench.image_volumes

cluster-programs: venv
	@.ci/packages $(CLUSTER_PACKAGES)
	@$(CLUSTER) build

cluster-down: venv
	@$(CLUSTER) down

# The demo needs no test tools: what it installs is done in a fraction of the time.
venv: $(VENV)/.dev

$(VENV)/.product: pyproject.toml Makefile .ci/packages
	@.ci/packages $(PACKAGES) $(DEMO)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	@echo "installing clip-csi into $(VENV)"
	@$(BIN)/pip install -qq --config-settings editable_mode=compat --editable .  # else a slow import hook
	@touch $@

$(VENV)/.dev: $(VENV)/.product
	@.ci/packages $(PEERS)
	@echo "installing the test tools into $(VENV)"
	@$(BIN)/pip install -qq --upgrade pip
	@$(BIN)/pip install -qq --group dev
	@touch $@

packages:
	@.ci/packages $(PACKAGES) $(DEMO) $(PEERS)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info

proto: venv
	$(BIN)/python -m grpc_tools.protoc -I. --plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc \
	  --python_out=. --grpc_python_out=. --mypy_out=. --mypy_grpc_out=. csi/proto/*.proto
