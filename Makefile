# One word per chore. `make demo` and `make test` do all their own set-up.
SHELL := /bin/bash
PY := .venv/bin/python
STAMP := .venv/.ready
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup redis web chromium screenshots tools demo test test-long control-plane e2e e2e-tools e2e-node images lint format lock lock-images lock-peers reference chart checkov bench bench-learning bench-closedloop bench-quick bench-regression bench-gate bench-operator bench-peers bench-training bench-growth bench-gateway bench-report clean

help: ## This list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(STAMP) redis web ## Python dependencies into .venv from the hash-pinned lock, redis-server and the web libraries if they are missing

$(STAMP): requirements/dev.txt requirements/uv.txt pyproject.toml
	@hack/setup python
	@touch $@

redis:
	@hack/setup redis

web: ## The dashboard's htmx and uPlot from their packages, into a folder that git ignores
	@hack/setup web

chromium:
	@hack/setup chromium

tools: $(STAMP) ## MinIO, etcd, Kubernetes, kwok, helm and skaffold built from their Go modules, cached by the hash of the module file
	@$(PY) hack/tools/build.py minio etcd kubernetes kube-scheduler kwok helm helm3 kubeconform skaffold helm-docs

demo: setup ## The whole loop on real digits, unattended, with a live view; writes out/demo/report.html
	@$(PY) -m continual_cli.demo --out out/demo

test: setup tools chromium ## Lint, types, import rules, then unit to cluster tests on real servers
	@$(MAKE) --no-print-directory lint
	@$(PY) -m pytest -m "not long" $(ARGS)

test-long: setup tools chromium ## More seeds and more mutations of the chaos and fault tests
	@$(PY) -m pytest -m "long" --timeout 3600 $(ARGS)

screenshots: setup chromium ## docs/images/dashboard-*.png taken anew from a real run (minutes)
	@$(PY) -m pytest tests/browser -m long -k pictures --screenshots docs/images $(ARGS)

control-plane: setup tools ## A real Kubernetes API server with the CRD on this machine, until Ctrl-C
	@$(PY) tests/cluster/control_plane.py

e2e: setup ## The whole story on a real one-node cluster with our images: install, train, canary, rollback, faults, uninstall (root)
	@hack/setup e2e
	@$(MAKE) --no-print-directory -j2 ARGS= e2e-tools images
	@$(PY) -m pytest -x tests/e2e $(ARGS)

e2e-tools: tools
	@$(PY) hack/tools/build.py kube-scheduler kubelet kube-proxy coredns helm

e2e-node: setup ## A real one-node cluster with containers on this machine, until Ctrl-C (root)
	@hack/setup e2e
	@$(PY) tests/e2e/node.py

images: setup ## Container images built with buildah on a Debian without a registry, tried, with their sizes (root; the first time minutes)
	@$(PY) hack/images.py build $(ARGS)

reference: $(STAMP) ## Write docs/resource.md from the CRD
	@$(PY) hack/reference.py > docs/resource.md

chart: $(STAMP) ## Write what the chart holds of others anew: its copy of the CRD, and its README from its values
	@cp crds/continualmodels.yaml charts/continual/files/continualmodels.yaml
	@"$$($(PY) hack/tools/build.py helm-docs)" --log-level warning --chart-search-root charts --sort-values-order file

checkov: $(STAMP) ## Security findings in the rendered chart, by checkov in an environment of its own
	@hack/checkov

lint: $(STAMP) ## ruff, mypy strict, import contracts, function lengths
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports --no-cache
	@$(PY) hack/function_lengths.py

format: $(STAMP) ## Rewrite the code as ruff likes it
	@.venv/bin/ruff format . && .venv/bin/ruff check --fix .

LOCK := .venv/bin/uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-header --no-annotate --python-version 3.11 pyproject.toml
CUDA := ^(torch|torchvision|triton|nvidia-[a-z0-9-]+|cuda-[a-z]+)==

lock: $(STAMP) ## Write requirements/*.txt anew: hashes, no index lines; each image's versions are the ones tested
	@.venv/bin/uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 --extra dev pyproject.toml -o requirements/dev.txt
	@grep -om1 '^checkov==[0-9.]*' requirements/checkov.txt | .venv/bin/uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-header --no-annotate --python-version 3.11 - -o requirements/checkov.txt
	@$(MAKE) --no-print-directory lock-images

lock-images: $(STAMP)
	@$(LOCK) -c requirements/dev.txt --extra operator -o requirements/operator.txt
	@$(LOCK) -c requirements/dev.txt --extra inference --extra evaluator -o requirements/inference.txt
	@$(LOCK) -c requirements/dev.txt --extra inference-gpu -o requirements/inference-gpu.txt
	@$(LOCK) -c requirements/dev.txt --extra gateway -o requirements/gateway.txt
	@$(LOCK) -c requirements/dev.txt --extra trainer > requirements/trainer.all
	@awk '/^[a-z]/ {torch = /$(CUDA)/} torch' requirements/trainer.all > requirements/torch.txt
	@awk '/^[a-z]/ {torch = /$(CUDA)/} !torch' requirements/trainer.all > requirements/trainer.txt
	@rm requirements/trainer.all

lock-peers: $(STAMP)
	@for peer in fastapi mlserver litserve bentoml ray; do \
	  .venv/bin/uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-header --no-annotate --python-version 3.11 - \
	    -o benchmarks/peers/$$peer.txt < benchmarks/peers/$$peer.in || exit 1; done

bench: setup ## Serving beside the seeds' loop and the bare runtime: ratios, goals, a plot in out/bench
	@$(PY) benchmarks/serving/run.py $(ARGS)

bench-quick: setup ## The same on a tenth of the load, once
	@$(PY) benchmarks/serving/run.py --quick $(ARGS)

bench-regression: setup ## Fails when serving has lost a fifth of its ratio to the seeds' loop (CI runs it); ARGS="--record" makes this run the reference
	@$(PY) benchmarks/serving/regression.py $(ARGS)

bench-operator: setup tools ## 500 models on one operator: idle requests, memory, how soon a change is applied; ARGS="--models 2000"
	@$(PY) benchmarks/operator/run.py $(ARGS)

bench-peers: setup ## Beside MLServer, LitServe, BentoML, Ray Serve and FastAPI at their best settings: ratios, goals, a plot; ARGS="--only mlserver"
	@$(PY) benchmarks/peers/run.py $(ARGS)

bench-training: setup ## The trainer's epoch beside a bare torch loop, and what a second core brings
	@$(PY) benchmarks/training/run.py $(ARGS)

bench-growth: setup ## Cost per request as batch, payload and number of models grow; memory; int8: curves and a table
	@$(PY) benchmarks/serving/growth.py $(ARGS)

bench-gateway: setup ## The gateway beside plain FastAPI and ONNX Runtime, 64 requests outstanding, each at its best setting; ARGS="--rounds 3"
	@$(PY) benchmarks/serving/gateway.py $(ARGS)

bench-report: $(STAMP) ## Write the tables of docs/performance.md from what the benchmarks left in out/
	@$(PY) -m benchmarks.report $(ARGS)

bench-gate: setup ## The gate simulated: false promotions, labels to promote and to roll back
	@$(PY) -m continual_workers.evaluation.simulate --runs 10000

bench-learning: $(STAMP) ## Every learning goal on real digits: table, CSV, JSON, plots in out/bench-learning; ARGS="--only ROW", "--quick", "--data DIR"
	@$(PY) -m benchmarks.learning $(ARGS)

bench-closedloop: setup ## Twelve drifts through the real `continual local`, beside retraining unguarded: table, CSV, plot (half an hour); ARGS="--only SCENARIO", "--quick", "--cached"
	@$(PY) -m benchmarks.closedloop $(ARGS)

clean: ## Remove what `make demo` and the linters wrote; keep .venv
	rm -rf out .mypy_cache .ruff_cache .pytest_cache .hypothesis
