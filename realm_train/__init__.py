"""REALM and its kin: a store (what is looked up) x a fusion (where it is read) x an objective (how it learns).

Names are imported when first used, so that `import realm_train` is instant.
"""

from importlib import import_module

__version__ = "0.1.0"

_HOMES = {
    "BadInput": "errors",
    # records that cross floors, and what the rooms ask of each other
    "Sequences": "batch",
    "MaskedBatch": "batch",
    "IctBatch": "batch",
    "Neighbours": "batch",
    "Index": "ports",
    "Encoder": "ports",
    # how the retriever learns
    "marginal_log_likelihood": "objectives.marginal",
    "in_batch_softmax": "objectives.contrastive",
    "marginal_choice": "objectives.spans",
    # what a training example is
    "Corpus": "data.corpus",
    "Question": "data.questions",
    "read_questions": "data.questions",
    # what is trained
    "Tower": "models.towers",
    "Reader": "models.reader",
    "Realm": "models.realm",
    "SpanReader": "models.span_reader",
    "OpenQa": "models.open_qa",
    # where neighbours come from
    "ExactIndex": "index.exact",
    "IndexStore": "index.store",
    "Refresher": "index.refresher",
    # what a step is
    "IctTask": "tasks.ict",
    "PretrainTask": "tasks.pretrain",
    "OpenQaTask": "tasks.open_qa",
    # a run, opened to be asked
    "open_trained": "trained",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
