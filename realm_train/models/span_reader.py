"""The reader of open-domain question answering: every short span of a passage is a possible answer (ORQA, section 3).

h = LayerNorm(relu(W_start h_start + W_end h_end))        score(span) = w . h
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from realm_train.batch import Sequences
from realm_train.errors import BadInput
from realm_train.models.encoder import encode_by_length


class SpanReader(nn.Module):
    """Scores the spans of up to `max_span` word pieces in the second segment of `[CLS] x [SEP] z [SEP]`."""

    def __init__(self, encoder: nn.Module, *, width: int = 256, max_span: int = 10) -> None:
        super().__init__()
        if max_span < 1:
            raise BadInput(f"open_qa.max_span: got {max_span}, expected at least 1 word piece")
        self.encoder, self.max_span = encoder, max_span
        self.projection = nn.Linear(encoder.config.hidden_size, 2 * width)  # of a span's start, and of its end
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, 1)

    def forward(self, joint: Sequences) -> Float[Tensor, "N T W"]:
        """fp32 score of the span from piece t to piece t + w, its end included; -inf where that is not in the body."""
        rows, width = joint.ids.shape
        scores = torch.full((rows, width, self.max_span), -torch.inf, device=joint.ids.device)
        for group, hidden in encode_by_length(self.encoder, joint):
            spans = self._scores(hidden)
            columns = torch.arange(hidden.shape[1], device=hidden.device)
            first, last = joint.second[group, None, None], joint.lengths[group, None, None] - 2  # [SEP] is no answer
            ends = columns[None, :, None] + torch.arange(self.max_span, device=hidden.device)
            inside = (columns[None, :, None] >= first) & (ends <= last)
            spans = spans.masked_fill(~inside, -torch.inf)
            scores = scores.index_put(
                (group,), nn.functional.pad(spans, (0, 0, 0, width - hidden.shape[1]), value=-torch.inf)
            )
        return scores

    def _scores(self, hidden: Float[Tensor, "G T H"]) -> Float[Tensor, "G T W"]:
        """Width by width, so that what is kept for the backward pass is no larger than it must be."""
        starts, ends = self.projection(hidden).float().chunk(2, dim=-1)
        ends = nn.functional.pad(ends, (0, 0, 0, self.max_span - 1))
        length = hidden.shape[1]
        with torch.autocast(hidden.device.type, enabled=False):  # in half precision many a span would score the same
            spans = [starts + ends[:, width : width + length] for width in range(self.max_span)]
            return torch.cat([self.output(self.norm(torch.relu(span))) for span in spans], dim=-1)
