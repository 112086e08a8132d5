"""What a masked language model answers without any passage: masks after the question, the null passage beside it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from realm_train.batch import Sequences
from realm_train.data.corpus import Corpus
from realm_train.data.masked import padded
from realm_train.data.question_examples import question_sequences
from realm_train.models.encoder import encode_by_length
from realm_train.models.reader import Reader, joint_inputs
from realm_train.tasks.encode import autocast, evaluating


class ClosedBook:
    """The pretrained reader as `[CLS] question [MASK]… [SEP] [SEP]`: of 1 to `longest` masks, the number whose best
    pieces are likeliest on average. Not trained to answer; it says what the reader knows by heart."""

    name = "closed book"

    def __init__(
        self, reader: Reader, corpus: Corpus, *, query_length: int, longest: int = 3, precision: str = "32-true"
    ) -> None:
        self.reader, self.corpus = reader, corpus
        self.query_length, self.longest, self.precision = query_length, longest, precision

    def __call__(self, questions: Sequence[str]) -> list[str]:
        """One answer a question."""
        device = next(self.reader.parameters()).device
        with evaluating(self.reader), autocast(device, self.precision):
            tries = [self._filled(questions, masks, device) for masks in range(1, self.longest + 1)]
        best = torch.stack([mean for _, mean in tries]).argmax(dim=0).tolist()
        return [self.corpus.tokenizer.decode(tries[chosen][0][row].tolist()) for row, chosen in enumerate(best)]

    def _filled(
        self, questions: Sequence[str], masks: int, device: torch.device
    ) -> tuple[Int[Tensor, "B M"], Float[Tensor, " B"]]:
        """The likeliest pieces of so many masks, and their mean log p."""
        asked = self._with_masks(questions, masks).to(device)
        nothing = torch.zeros(len(asked), dtype=torch.int64, device=device)
        joint = joint_inputs(
            asked, nothing[:, None][:, :0], nothing, sep_id=self.corpus.sep_id, max_length=self.query_length + 1
        )
        pieces = torch.zeros(len(asked), masks, dtype=torch.int64)
        likelihood = torch.zeros(len(asked), masks)
        for rows, hidden in encode_by_length(self.reader.masked_lm.base_model, joint):
            places = asked.lengths[rows, None] - 1 - masks + torch.arange(masks, device=device)
            at_masks = hidden[torch.arange(len(rows), device=device)[:, None], places]
            logits = self.reader.head(at_masks.flatten(0, 1)).unflatten(0, places.shape).float()
            log_p = logits.log_softmax(dim=-1).masked_fill(~self._words.to(device), -torch.inf)
            log_p[:, 0] = log_p[:, 0].masked_fill(~self._starts.to(device), -torch.inf)
            best = log_p.max(dim=-1)
            pieces[rows.cpu()], likelihood[rows.cpu()] = best.indices.cpu(), best.values.cpu()
        return pieces, likelihood.mean(dim=1)

    def _with_masks(self, questions: Sequence[str], masks: int) -> Sequences:
        asked = question_sequences(self.corpus, questions, self.query_length - masks)
        rows = zip(asked.ids.numpy(), asked.lengths.tolist(), strict=True)
        ends = [self.corpus.mask_id] * masks + [self.corpus.sep_id]
        lengths = asked.lengths + masks
        ids = padded([np.concatenate([ids[: length - 1], ends]) for ids, length in rows], fill=self.corpus.pad_id)
        return Sequences(ids=ids, lengths=lengths, second=lengths)

    @cached_property
    def _words(self) -> Bool[Tensor, " V"]:
        """Pieces that may be part of an answer: letters and digits, no special ones."""
        count = self.reader.masked_lm.config.vocab_size
        allowed = torch.zeros(count, dtype=torch.bool)
        for piece, number in self.corpus.tokenizer.get_vocab(with_added_tokens=True).items():
            allowed[number] = not piece.startswith(("[", "<")) and any(letter.isalnum() for letter in piece)
        return allowed

    @cached_property
    def _starts(self) -> Bool[Tensor, " V"]:
        """Pieces that an answer may begin with."""
        starts = torch.from_numpy(self.corpus.word_starts)
        return torch.nn.functional.pad(starts, (0, len(self._words) - len(starts)))
