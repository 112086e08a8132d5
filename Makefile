# Everything that a newcomer needs. It makes its own virtual environment in .venv and installs the tested versions once.
PYTHON ?= python3
EXTRAS ?= quickstart,mediawiki,faiss-cpu,web,dev
SEED ?= 1
PYTEST_WORKERS ?= 2
CORPUS ?= data/vital
RUN ?= runs/$(EXPERIMENT)-seed$(SEED)
QUESTIONS ?= data/questions/trivia

BIN := .venv/bin
INSTALLED := .venv/.installed
GPU_OR_CPU = $(shell $(BIN)/python -c "import torch; print('quickstart_gpu' if torch.cuda.is_available() else 'quickstart')")

FINE_TUNE = $(BIN)/python -m realm_train.train experiment=open_qa_quickstart questions=$(QUESTIONS) seed=$(SEED) ckpt_path=last

.DEFAULT_GOAL := help
.PHONY: help install quickstart report test lint bench clean-venv

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(INSTALLED) ## the virtual environment .venv with the versions of constraints.txt (PYTHON=python3.12 picks another Python)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $(PYTHON) is older than Python 3.11; say make PYTHON=python3.11" >&2; exit 2; }
	@echo "Installing into .venv; this happens once and takes some minutes"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

quickstart: $(INSTALLED) ## a retriever and a reader learn together from a small real Wikipedia, then answer trivia (SEED=1)
	$(eval EXPERIMENT ?= $(GPU_OR_CPU))
	$(BIN)/python -m data_prep.passages source=vital max_length=96 out=$(CORPUS)
	$(BIN)/python -m data_prep.spans corpus=$(CORPUS)
	$(BIN)/python -m realm_train.train experiment=$(EXPERIMENT) corpus=$(CORPUS) seed=$(SEED) run=$(RUN) ckpt_path=last
	$(BIN)/python -m realm_train.report run=$(RUN)
	$(BIN)/python -m data_prep.questions source=trivia out=$(QUESTIONS)
	$(FINE_TUNE) ckpt=$(RUN) run=$(RUN)-qa
	$(FINE_TUNE) ckpt=$(RUN) ckpt_stage=mlm run=$(RUN)-qa-ict
	$(BIN)/python -m realm_train.evaluate run=$(RUN)-qa versus=[$(RUN)-qa-ict] questions=$(QUESTIONS) baselines=[bm25,pretrain,oracle] read=5

report: $(INSTALLED) ## report.json and report.html of a run again (RUN=runs/quickstart-seed1)
	$(eval EXPERIMENT ?= $(GPU_OR_CPU))
	$(BIN)/python -m realm_train.report run=$(RUN)

test: lint ## style, floors, and every test (PYTEST_ARGS="-k marginal" picks some)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist loadfile $(PYTEST_ARGS)

lint: $(INSTALLED) ## style and floors alone
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

bench: $(INSTALLED) ## the benchmarks of tests/benchmarks, one JSON line each
	@for script in tests/benchmarks/*.py; do echo "$(BIN)/python $$script" >&2; $(BIN)/python $$script || exit 1; done

clean-venv: ## removes .venv, and nothing else
	rm -rf .venv
