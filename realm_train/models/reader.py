"""The knowledge-augmented encoder: p(y|z,x) from the joint input `[CLS] x [SEP] body [SEP]` (REALM, section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import transformers
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from realm_train.batch import Sequences
from realm_train.errors import BadInput
from realm_train.models.encoder import checkpoint_activations, encode_by_length, load


class Reader(nn.Module):
    """A Hugging Face masked language model, whose vocabulary projection runs on the masked positions only."""

    def __init__(self, masked_lm: nn.Module) -> None:
        super().__init__()
        self.masked_lm = masked_lm
        self._head = _head_names(masked_lm)

    @classmethod
    def load(
        cls,
        name: str | None = None,
        *,
        config: Mapping | None = None,
        layers: int | None = None,
        dropout: float | None = None,
        attention: str | None = None,
        gradient_checkpointing: bool = False,
    ) -> Reader:
        """A reader from a hub name or local folder, or from a configuration; see `load_encoder`.

        Where the checkpoint holds an encoder but no head, the head starts as the identity over the tied embeddings.
        """
        masked_lm, missing = load(
            transformers.AutoModelForMaskedLM, name, config=config, layers=layers, dropout=dropout, attention=attention
        )
        reader = cls(masked_lm)
        if name is not None:
            reader._start_as_identity(missing)
        if gradient_checkpointing:
            checkpoint_activations(masked_lm)
        return reader

    def _start_as_identity(self, missing: set[str]) -> None:
        """Square matrices of the head that the checkpoint lacked become the identity."""
        for name, parameter in self.masked_lm.named_parameters():
            in_head = name.split(".")[0] in self._head
            if in_head and name in missing and parameter.dim() == 2 and parameter.shape[0] == parameter.shape[1]:
                nn.init.eye_(parameter)

    def head(self, hidden: Float[Tensor, "P H"]) -> Float[Tensor, "P V"]:
        """Vocabulary logits."""
        for name in self._head:
            hidden = getattr(self.masked_lm, name)(hidden)
        return hidden

    def forward(
        self,
        joint: Sequences,
        positions: Int[Tensor, "N M"],
        targets: Int[Tensor, "N M"],
        valid: Bool[Tensor, "N M"],
    ) -> Float[Tensor, "N M"]:
        """log p(y_j|z,x) in nats and fp32 for each masked position; 0 where there is no mask."""
        output = torch.zeros(positions.shape, dtype=torch.float32, device=positions.device)
        for rows, hidden in encode_by_length(self.masked_lm.base_model, joint):
            row, mask = valid[rows].nonzero(as_tuple=True)
            masked = rows[row], mask
            logits = self.head(hidden[row, positions[masked]])
            log_likelihood = -nn.functional.cross_entropy(logits.float(), targets[masked], reduction="none")
            output = output.index_put(masked, log_likelihood)
        return output


def _head_names(masked_lm: nn.Module) -> tuple[str, ...]:
    """The modules beside the encoder that make logits, in order; raises BadInput where they are no plain chain."""
    names = tuple(name for name, module in masked_lm.named_children() if module is not masked_lm.base_model)
    if len(names) == 1 or names == ("head", "decoder"):  # BERT's cls, RoBERTa's lm_head; ModernBERT's two
        return names
    raise BadInput(
        f"reader: {type(masked_lm).__name__} has the head modules {names}, expected one (as BERT and RoBERTa)"
        " or 'head' and 'decoder' (as ModernBERT); choose another encoder"
    )


def joint_inputs(
    queries: Sequences,
    bodies: Int[Tensor, "N L"],
    body_lengths: Int[Tensor, " N"],
    *,
    sep_id: int,
    max_length: int,
) -> Sequences:
    """`[CLS] x [SEP] body [SEP]`, row by row; the body is cut so that no row is longer than `max_length`.

    query   [CLS] x x x [SEP]                      segment 0, masks stand where they stood
    body                      z z z z z z [SEP]    segment 1
    """
    start = queries.lengths
    taken = torch.minimum(body_lengths, max_length - 1 - start)
    end = start + taken
    width = int(end.max()) + 1
    columns = torch.arange(width, device=start.device).expand(len(start), width)
    ids = nn.functional.pad(queries.ids, (0, max(0, width - queries.ids.shape[1])))[:, :width]
    in_body = (columns >= start[:, None]) & (columns < end[:, None])
    if bodies.shape[1]:
        column = (columns - start[:, None]).clamp(0, bodies.shape[1] - 1)
        ids = torch.where(in_body, bodies.gather(1, column), ids)
    ids = torch.where(columns == end[:, None], sep_id, ids)
    return Sequences(ids=ids, lengths=end + 1, second=start)
