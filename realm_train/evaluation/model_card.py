"""Model cards: what was exported, how it is used without this project, and the numbers of the run, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

HUB_TAGS = ("retrieval", "realm", "open-domain-question-answering")


def front_matter(*, library: str, task: str, base_model: str | None) -> str:
    """What the hub reads of a card."""
    lines = [f"library_name: {library}", f"pipeline_tag: {task}", f"tags: [{', '.join(HUB_TAGS)}]"]
    return "\n".join(["---", *lines, *([f"base_model: {base_model}"] if base_model else []), "---"])


def tower_card(
    *,
    about: str,
    role: str,
    dim: int,
    max_length: int,
    query_length: int,
    scale: float,
    pooling: str,
    head: Sequence[str],
    load_arguments: str,
    base_model: str | None,
) -> str:
    """The card of a tower; `role` is questions, passages, or both, `head` the lines of Python behind its pooling."""
    front = front_matter(library="sentence-transformers", task="sentence-similarity", base_model=base_model)
    asks, tells = role != "passages", role != "questions"
    inputs = ['["Who first saw the moons of Jupiter?"]'] if asks else []
    inputs += ['[("Galileo Galilei", "In 1610 he saw four moons of Jupiter.")]'] if tells else []
    scaled = "" if scale == 1 else f", times {scale:g}"
    said = {
        "questions": "a question is given as it is",
        "passages": "a passage is given as the pair (title, text)",
        "questions and passages": "a question is given as it is, a passage as the pair (title, text)",
    }[role]
    return f"""{front}

# {about}: {role}

{dim} numbers for each of the {role}; {said}. The score of a passage for a question is the inner product of their
vectors{scaled}, in training. {_cut(max_length, query_length, asks)}

## With sentence-transformers

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer(".")  # this folder
{chr(10).join(f"vectors = model.encode({one})" for one in inputs)}
```

## With transformers alone

```python
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")  # this folder
encoder = AutoModel.from_pretrained("."{load_arguments}).eval()
head = load_file("head.safetensors")
inputs = tokenizer({inputs[-1]}, padding=True, truncation=True, max_length={max_length}, return_tensors="pt")
with torch.no_grad():
    hidden = encoder(**inputs).last_hidden_state
    {_pooled(pooling)}
{chr(10).join(f"    {line}" for line in head)}
```
"""


def reader_card(*, about: str, query_length: int, passage_length: int, base_model: str | None) -> str:
    """The card of the masked language model that reads a passage beside a question."""
    front = front_matter(library="transformers", task="fill-mask", base_model=base_model)
    return f"""{front}

# {about}: reader

A masked language model that reads `[CLS] masked sentence [SEP] passage [SEP]`: at most {query_length} word pieces for
the sentence, {passage_length} for the passage, whose title is not read.

```python
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")  # this folder
model = AutoModelForMaskedLM.from_pretrained(".").eval()
sentence = f"The four largest moons of Jupiter were found by {{tokenizer.mask_token}}."
inputs = tokenizer(sentence, "In 1610 Galileo saw four moons of Jupiter.", return_tensors="pt")
with torch.no_grad():
    logits = model(**inputs).logits[0, inputs["input_ids"][0] == tokenizer.mask_token_id]
print(tokenizer.decode(logits.argmax(dim=-1)))
```
"""


def span_reader_card(*, about: str, query_length: int, max_span: int, eps: float, base_model: str | None) -> str:
    """The card of the reader that finds answers as spans of a passage."""
    front = front_matter(library="transformers", task="question-answering", base_model=base_model)
    return f"""{front}

# {about}: reader of answers

Scores every span of up to {max_span} word pieces of a passage as the answer to a question of at most {query_length}
word pieces (ORQA, section 3); to compare spans of several passages, the passages' scores are added.

```python
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")  # this folder
encoder = AutoModel.from_pretrained(".").eval()
head = load_file("head.safetensors")
inputs = tokenizer("Who saw four moons?", "In 1610 Galileo saw four moons of Jupiter.", return_tensors="pt")
first = int((inputs["input_ids"][0] == tokenizer.sep_token_id).nonzero()[0]) + 1  # of the passage
with torch.no_grad():
    hidden = encoder(**inputs).last_hidden_state[0, first:-1]
    starts, ends = F.linear(hidden, head["projection.weight"], head["projection.bias"]).chunk(2, dim=-1)
    spans = F.relu(starts[:, None] + ends[None])  # from piece i to piece j, both included
    spans = F.layer_norm(spans, spans.shape[-1:], head["norm.weight"], head["norm.bias"], eps={eps})
    scores = F.linear(spans, head["output.weight"], head["output.bias"]).squeeze(-1)
    length = torch.arange(len(hidden))[None] - torch.arange(len(hidden))[:, None]
    scores = scores.masked_fill((length < 0) | (length >= {max_span}), -torch.inf)
start, end = divmod(int(scores.argmax()), len(hidden))
print(tokenizer.decode(inputs["input_ids"][0, first + start : first + end + 1]))
```
"""


def export_card(
    *,
    about: str,
    folders: Mapping[str, str],
    facts: Mapping[str, object],
    numbers: Mapping[str, str],
    tables: Mapping[str, str],
    search: str | None,
) -> str:
    """The card of the whole export: its folders, where it comes from, what was measured, and how it is searched."""
    parts = [
        f"# {about}",
        "\n".join(f"- `{folder}/` {what}" for folder, what in folders.items()),
        "## Where it comes from",
        _table(("", ""), {name: str(value) for name, value in facts.items()}),
    ]
    if search:
        parts += ["## To search", f"```python\n{search}\n```"]
    if numbers:
        parts += ["## The run's report", _table(("figure", "value"), numbers)]
    for name, table in tables.items():
        parts += [f"## Evaluation: {name}", table.strip()]
    return "\n\n".join(parts) + "\n"


def search_code(*, query_folder: str, faiss_file: str) -> str:
    """Python that finds passages with sentence-transformers, datasets and faiss alone."""
    return f'''import datasets
from sentence_transformers import SentenceTransformer

passages = datasets.load_from_disk("passages")
passages.load_faiss_index("embeddings", "{faiss_file}")
question = SentenceTransformer("{query_folder}").encode("Who first saw the moons of Jupiter?")
scores, found = passages.get_nearest_examples("embeddings", question, k=5)
print(found["title"])'''


def _cut(max_length: int, query_length: int, asks: bool) -> str:
    cut = f"What is longer than {max_length} word pieces is cut"
    if not asks or query_length == max_length:
        return f"{cut}."
    return f"{cut}; in training a question was cut at {query_length}."


def _pooled(pooling: str) -> str:
    if pooling == "mean":
        return (
            'mask = inputs["attention_mask"].unsqueeze(-1)\n    vectors = (hidden * mask).sum(dim=1) / mask.sum(dim=1)'
        )
    return "vectors = hidden[:, 0]"


def _table(names: tuple[str, str], rows: Mapping[str, str]) -> str:
    lines = [f"| {name} | {value} |" for name, value in rows.items()]
    return "\n".join([f"| {names[0]} | {names[1]} |", "|---|---|", *lines])
