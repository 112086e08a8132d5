"""A run opened to be asked: its configuration, corpus and models, its index, and what retrieves and answers with them.

Nothing here loads Lightning: a command that only answers starts in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from realm_train.build import build_open_qa, build_reader, build_towers, check_lengths, chosen_precision
from realm_train.checkpoints import ORDER, last_checkpoint, weights_up_to
from realm_train.data.corpus import Corpus
from realm_train.index.snapshot import tower_hash
from realm_train.models.open_qa import OpenQa
from realm_train.models.reader import Reader
from realm_train.models.span_reader import SpanReader
from realm_train.models.towers import Towers
from realm_train.once import check_tokenizer, own_corpus, progress_bar, refresher_of, run_config
from realm_train.ports import Index
from realm_train.tasks.answering import DenseRetriever, SpanAnswerer
from realm_train.tasks.closed_book import ClosedBook
from realm_train.tasks.encode import passage_encoder


@dataclass
class Trained:
    """The models of one stage of a run, on one device, in evaluation mode; `masked_lm` and `span_reader` are None where
    that stage, or one before it, has not trained them."""

    run: Path
    cfg: DictConfig
    stage: str
    step: int
    corpus: Corpus
    towers: Towers
    masked_lm: Reader | None
    qa: OpenQa | None
    null_bias: float | None
    device: str
    own: Corpus | None = field(default=None, repr=False)
    sharing: Trained | None = field(default=None, repr=False)

    @property
    def span_reader(self) -> SpanReader | None:
        """The reader of a fine-tuned run."""
        return None if self.qa is None else self.qa.span_reader

    @property
    def considered(self) -> int:
        """Passages that p(z|x) was trained over, without the null passage; 0 where it was over those of a batch."""
        counts = {"pretrain": self.cfg.pretrain.k - 1, "open_qa": self.cfg.get("open_qa", {}).get("beam")}
        return min(self.corpus.count, counts.get(self.stage, 0))

    @property
    def precision(self) -> str:
        """As it was trained."""
        return chosen_precision(self.cfg)

    @cached_property
    def index(self) -> Index:
        """The corpus as this passage tower sees it: the run's own version of these weights, or one that is encoded now
        and kept in the run."""
        tower = self.towers.passage
        if self.sharing is not None and self._sees_as(self.sharing):
            return self.sharing.index
        refresher = refresher_of(
            self.run, self.cfg, self.corpus, own=self.own, dim=tower.dim, stage=None if self._is_last else self.stage
        )
        known = tower_hash(tower.state_dict())
        version = refresher.store.of_tower(known, corpus=self.corpus.hash)
        if version is None:
            encode = passage_encoder(tower, self.corpus, max_length=self.cfg.passage_length, precision=self.precision)
            with progress_bar(f"encoding {self.corpus.folder}") as progress:
                version = refresher.refresh(encode, step=self.step, tower=known, progress=progress)["version"]
        structure = instantiate(self.cfg.index)
        _, index = refresher.store.open(version, structure, corpus=self.corpus.hash, tower=known, device=self.device)
        return index

    def _sees_as(self, other: Trained) -> bool:
        """Whether the other's passage tower has the same weights, and reads the same corpus."""
        hashes = [tower_hash(one.towers.passage.state_dict()) for one in (self, other)]
        return hashes[0] == hashes[1] and self.corpus.hash == other.corpus.hash

    @property
    def _is_last(self) -> bool:
        return self.stage == next(
            stage for stage in reversed(ORDER) if last_checkpoint(self.run, stage, required=False)
        )

    def retriever(self, name: str = "dense") -> DenseRetriever:
        """Passages by the towers of this stage."""
        return DenseRetriever(
            self.towers,
            self.index,
            self.corpus,
            query_length=self.cfg.query_length,
            null_bias=self.null_bias,
            precision=self.precision,
            name=name,
        )

    def answerer(self, depth: int | None = None) -> SpanAnswerer | None:
        """Answers by the span reader, from `depth` passages (None: as many as it was trained with); None for a run that
        was not fine-tuned."""
        if self.qa is None:
            return None
        return SpanAnswerer(
            self.qa,
            self.corpus,
            depth=depth or self.cfg.open_qa.read,
            query_length=self.cfg.query_length,
            body_length=self.cfg.passage_length,
            precision=self.precision,
        )

    def closed_book(self) -> ClosedBook | None:
        """Answers by the masked language model, without passages; None where none was trained."""
        if self.masked_lm is None:
            return None
        return ClosedBook(self.masked_lm, self.corpus, query_length=self.cfg.query_length, precision=self.precision)


def open_trained(
    run: str | Path,
    *,
    stage: str | None = None,
    corpus: str | Path | None = None,
    device: str | None = None,
    threads: int | None = None,
    sharing: Trained | None = None,
) -> Trained:
    """Opens the last stage of a run, or an earlier one, over the run's corpus or another one; the index of `sharing` is
    searched if it is of the same passage tower, as that of a run and of its fine-tuning are. Raises BadInput for a run
    or a stage without trained towers, and for a corpus of other word pieces."""
    run = Path(run)
    cfg = run_config(run)
    if threads:
        torch.set_num_threads(threads)
    opened = Corpus(cfg.corpus if corpus is None else corpus)
    check_lengths(opened, cfg.passage_length)
    own = own_corpus(run, cfg)
    check_tokenizer(opened, own=own)
    stage, step, weights = weights_up_to(run, stage)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    bias = weights.get("null_bias")
    qa = build_open_qa(cfg, opened, weights).to(device).eval() if "span_reader" in weights else None
    towers = build_towers(cfg, opened, weights) if qa is None else qa.towers
    masked_lm = build_reader(cfg, opened, weights).to(device).eval() if "reader" in weights else None
    return Trained(
        run=run,
        cfg=cfg,
        stage=stage,
        step=step,
        corpus=opened,
        towers=towers.to(device).eval(),
        masked_lm=masked_lm,
        qa=qa,
        null_bias=None if bias is None else float(bias[""]),
        device=device,
        own=own,
        sharing=sharing,
    )
