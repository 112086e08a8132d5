"""REALM pretraining: retrieve, read, marginalise; the loss teaches reader and retriever together."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from realm_train.batch import Candidates, MaskedBatch
from realm_train.models.realm import Realm, RealmOutput
from realm_train.models.towers import Towers
from realm_train.objectives.counts import global_sum, world_size
from realm_train.objectives.marginal import Granularity, entropy, marginal_log_likelihood
from realm_train.tasks.encode import evaluating, search_vectors
from realm_train.tasks.optimizer import Optimization
from realm_train.tasks.retrieval import Retrieval, leaks
from realm_train.tasks.task import Task


class PretrainTask(Task):
    """One step of masked language modelling with retrieved passages (REALM, section 3).

    The index, possibly stale, only chooses the candidates; query and candidates are embedded with the live weights. The
    question is embedded once where its vector does not depend on dropout; where it does, a second time, in evaluation
    mode, for the search.
    """

    def __init__(
        self, realm: Realm, retrieval: Retrieval, optimization: Optimization, *, per: Granularity = "token"
    ) -> None:
        super().__init__(optimization)
        self.realm, self.retrieval, self.per = realm, retrieval, per
        self._sums = HealthSums()
        self.keep_vectors = False  # of the candidates, for an index that takes them back
        self._kept: list[tuple[Tensor, Tensor]] = []

    def training_step(self, batch: MaskedBatch, batch_idx: int) -> Tensor:
        """Minus the marginal log-likelihood, over the masks of all ranks and micro-batches of the step."""
        queries = self.realm.towers.query(batch.queries)
        on_cpu = batch.to("cpu")
        searched = search_vectors(self.realm.towers.query, batch.queries, queries)
        candidates = self.retrieval.candidates(searched, on_cpu)
        self._sums.leaks += leaks(candidates, on_cpu)
        candidates = candidates.to(self.device)
        output = self.realm(batch, candidates, queries)
        log_p = self.log_marginal(output, batch)
        self._sums.add(output, candidates, batch, log_p.detach(), self.log_null(output, batch).detach())
        if self.keep_vectors:
            self._kept.append(candidates.of_passages(output.vectors.detach()))
        self.step_tokens = self._sums.tokens
        # DDP and gradient accumulation both average what must be one sum over one count
        masks = global_sum(batch.step_masks, self.device)
        return -log_p.sum() * (world_size() * self.trainer.accumulate_grad_batches / masks)

    @property
    def towers(self) -> Towers:
        """What the refresh encodes with."""
        return self.realm.towers

    def kept_vectors(self) -> tuple[Int[Tensor, " N"], Float[Tensor, "N D"]]:
        """Ids and vectors of the passages that were read since the last call, as training embedded them."""
        kept, self._kept = self._kept, []
        ids, vectors = zip(*kept, strict=True)
        return torch.cat(ids), torch.cat(vectors)

    def log_marginal(self, output: RealmOutput, batch: MaskedBatch) -> Float[Tensor, " B"]:
        """log p(y|x) in nats, summed over each question's masks."""
        return marginal_log_likelihood(output.log_prior, output.log_likelihood, batch.valid, batch.spans, self.per)

    def log_null(self, output: RealmOutput, batch: MaskedBatch) -> Float[Tensor, " B"]:
        """log p(y|x, null passage) in nats, summed over each question's masks."""
        return torch.where(batch.valid, output.log_likelihood[:, 0], 0.0).sum(dim=1)

    def on_train_batch_end(self, outputs: object, batch: MaskedBatch, batch_idx: int) -> None:
        """Logs the health of the whole optimiser step once its last micro-batch is done."""
        if self.is_last(batch_idx):
            self.log_dict(self._sums.metrics(), sync_dist=world_size() > 1)
            self._sums = HealthSums()

    @torch.no_grad()
    def evaluate(self, batch: MaskedBatch, candidates: Candidates | None = None) -> tuple[Candidates, RealmOutput]:
        """Candidates and what the model makes of them, in evaluation mode; retrieves unless candidates are given."""
        with evaluating(self), self.trainer.precision_plugin.forward_context():
            batch = batch.to(self.device)
            queries = self.realm.towers.query(batch.queries)
            if candidates is None:
                candidates = self.retrieval.candidates(queries, batch.to("cpu"))
            return candidates, self.realm(batch, candidates.to(self.device), queries)

    def configure_optimizers(self) -> dict:
        """The towers', the reader's and the learned null score's learning rates; see `Optimization`."""
        rates, realm = self.optimization, self.realm
        groups = [(realm.towers, rates.peak_retriever), (realm.reader, rates.lr), (realm, rates.lr_null)]
        return rates.configure(groups, precision=self.trainer.precision)


class HealthSums:
    """What one optimiser step says of reader and retriever, summed over its micro-batches."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.passages: set[int] = set()
        self.leaks = self.tokens = 0

    def add(
        self,
        output: RealmOutput,
        candidates: Candidates,
        batch: MaskedBatch,
        log_p: Float[Tensor, " B"],
        log_null: Float[Tensor, " B"],
    ) -> None:
        """Counts one micro-batch; the null slot is left out of what describes retrieved passages."""
        prior, present = output.log_prior.detach(), output.present[:, 1:]
        spread = torch.stack(
            [
                row[keep].std(correction=0) if keep.sum() > 1 else row.new_zeros(())
                for row, keep in zip(output.scores[:, 1:].detach().float(), present, strict=True)
            ]
        )
        values = {
            "masks": batch.valid.sum(),
            "questions": torch.tensor(len(batch)),
            "log_p": log_p.sum(),
            "log_null": log_null.sum(),
            "p_null": prior[:, 0].exp().sum(),
            "entropy": entropy(prior).sum(),
            "score_std": spread.sum(),
        }
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0) + value.float().cpu()
        self.passages.update(candidates.ids[:, 1:][present].tolist())
        self.tokens += int(batch.queries.lengths.sum() + candidates.passages.lengths.sum())
        self.tokens += int(
            ((batch.queries.lengths[:, None] + candidates.body_lengths[candidates.rows] + 1) * candidates.present).sum()
        )

    def metrics(self) -> Mapping[str, float]:
        """The metrics of DESIGN's health line; `loss` and utility are in nats a mask."""
        sums = {name: float(value) for name, value in self.sums.items()}
        masks, questions = max(1.0, sums["masks"]), sums["questions"]
        return {
            "loss": -sums["log_p"] / masks,
            "retrieval/utility": (sums["log_p"] - sums["log_null"]) / masks,
            "retrieval/p_null": sums["p_null"] / questions,
            "retrieval/entropy": sums["entropy"] / questions,
            "retrieval/score_std": sums["score_std"] / questions,
            "retrieval/unique_passages": float(len(self.passages)),
            "retrieval/leaks": float(self.leaks),
        }
