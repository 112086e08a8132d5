"""From retrieved passages to the reader's scores of their spans."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from realm_train.batch import MISSING, Sequences
from realm_train.models.open_qa import OpenQa
from realm_train.tasks.question_retrieval import QuestionRetrieval


def read_passages(
    qa: OpenQa,
    retrieval: QuestionRetrieval,
    questions: Sequences,
    ids: Int[Tensor, "B R"],
    *,
    rows: list[int],
) -> tuple[Float[Tensor, "Q R L W"], int]:
    """The reader's span scores of the passages of some questions, -inf where there is no passage, and how many tokens
    were read. Only passages that are there are read, each with its question."""
    device, chosen = questions.ids.device, ids[rows]
    bodies, lengths = retrieval.corpus.bodies(chosen.flatten().numpy(), retrieval.body_length)
    bodies = pad(bodies, (0, int(not bodies.shape[1])))  # where no passage was found, there is a place for no span
    question, slot = (chosen != MISSING).nonzero(as_tuple=True)
    pair = question * chosen.shape[1] + slot
    row = torch.tensor(rows)[question].to(device)
    asked = Sequences(questions.ids[row], questions.lengths[row], questions.second[row])
    scores = torch.full((len(rows), chosen.shape[1], bodies.shape[1], qa.span_reader.max_span), -torch.inf)
    scores = scores.to(device)
    if not len(pair):
        return scores, 0
    found = qa.span_scores(asked, bodies[pair].to(device), lengths[pair].to(device))
    tokens = int(asked.lengths.sum()) + int(lengths[pair].sum()) + len(pair)
    return scores.index_put((question.to(device), slot.to(device)), found), tokens
