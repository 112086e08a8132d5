"""Any Hugging Face encoder, whole or its first layers, from a hub name, a local folder, or a configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
import transformers
from jaxtyping import Float
from torch import Tensor, nn

from realm_train.batch import Sequences
from realm_train.errors import BadInput

DROPOUTS = (  # BERT's two, DistilBERT's, ModernBERT's
    *("hidden_dropout_prob", "attention_probs_dropout_prob"),
    *("dropout", "attention_dropout", "embedding_dropout", "mlp_dropout"),
)


def load_encoder(
    name: str | None = None,
    *,
    config: Mapping | None = None,
    layers: int | None = None,
    dropout: float | None = None,
    attention: str | None = None,
    gradient_checkpointing: bool = False,
    pooler: bool = False,
    subfolder: str = "",
) -> nn.Module:
    """An encoder with the weights of `name`, or with random ones from `config` (which names its `model_type`).

    `layers` keeps the first layers only; `dropout` replaces the model's own; `attention` names the implementation
    (`sdpa`, `eager`, …; None: the library's choice); `pooler` keeps what the family has behind [CLS]; `subfolder` is
    where in the folder of `name` it lies. Raises BadInput if it cannot be had.
    """
    settings = {"config": config, "layers": layers, "dropout": dropout, "attention": attention, "subfolder": subfolder}
    encoder, missing = load(transformers.AutoModel, name, **settings)
    if pooler and name is not None and any(weight.startswith("pooler.") for weight in missing):
        raise BadInput(
            f"encoder {name}: got pooler=true, but its checkpoint has no weights of a pooler; set it to false"
        )
    if not pooler and getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None  # the tower projects [CLS] itself; a layer without gradient would stop DDP
    if gradient_checkpointing:
        checkpoint_activations(encoder)
    return encoder


def load(
    auto_class: type,
    name: str | None,
    *,
    config: Mapping | None,
    layers: int | None,
    dropout: float | None,
    attention: str | None = None,
    subfolder: str = "",
) -> tuple[nn.Module, set[str]]:
    """A model of `auto_class` and the names of its weights that the checkpoint did not hold."""
    if (name is None) == (config is None):
        raise BadInput(f"encoder: got name={name!r} and config={config!r}, expected exactly one of them")
    if name is None:
        model_type = dict(config).pop("model_type", "bert")
        values = {key: value for key, value in config.items() if key != "model_type"}
        settings = _settings(transformers.AutoConfig.for_model(model_type), layers, dropout)
        model = auto_class.from_config(
            transformers.AutoConfig.for_model(model_type, **(values | settings)), attn_implementation=attention
        )
        return model, set(model.state_dict())
    with _quiet():
        try:
            found = transformers.AutoConfig.from_pretrained(name, subfolder=subfolder)
            if layers is not None and layers > found.num_hidden_layers:
                raise BadInput(f"encoder {name}: got layers={layers}, but it has {found.num_hidden_layers}")
            settings = _settings(found, layers, dropout)
            model, info = auto_class.from_pretrained(
                name,
                output_loading_info=True,
                dtype=torch.float32,
                attn_implementation=attention,
                subfolder=subfolder,
                **settings,
            )
        except OSError as error:
            raise BadInput(
                f"encoder {name}: no such local folder and the hub could not give it ({str(error).splitlines()[0]});"
                " check the name, or give the path of a folder with config.json and weights"
            ) from error
    return model, set(info["missing_keys"])


def checkpoint_activations(model: nn.Module) -> None:
    """Activations are computed again in the backward pass instead of being kept."""
    settings = {"use_reentrant": False}
    if hasattr(model, "activation_checkpointing_enable"):  # its name in newer releases of transformers
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=settings)
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings)


def dropouts(config: transformers.PretrainedConfig) -> dict[str, float]:
    """The encoder's dropout probabilities by the names that its family gives them."""
    return {name: float(getattr(config, name)) for name in DROPOUTS if getattr(config, name, None) is not None}


def _settings(config: transformers.PretrainedConfig, layers: int | None, dropout: float | None) -> dict:
    """What of a configuration is replaced."""
    settings = {} if layers is None else {"num_hidden_layers": layers}
    return settings if dropout is None else settings | dict.fromkeys(dropouts(config), dropout)


@contextmanager
def _quiet():
    """Hides the loading report: weights left out or missing are expected here, and handled by the caller."""
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(verbosity)
        transformers.logging.enable_progress_bar()


def encode_by_length(
    encoder: nn.Module, sequences: Sequences, *, segments: bool = True
) -> Iterator[tuple[Tensor, Float[Tensor, "G T H"]]]:
    """Groups of rows of like length, and the encoder's last hidden states of each group without needless padding.

    The word embeddings are looked up once for all groups: the gradient of each look-up is as large as the vocabulary.
    Without `segments` the encoder is not told where the second one begins.
    """
    embedded = encoder.get_input_embeddings()(sequences.ids)
    for rows in length_buckets(sequences.lengths):
        lengths, second = sequences.lengths[rows], sequences.second[rows]
        width = int(lengths.max())
        columns = torch.arange(width, device=embedded.device)
        inputs = {"inputs_embeds": embedded[rows, :width], "attention_mask": (columns < lengths[:, None]).long()}
        if segments and has_segments(encoder):
            inputs["token_type_ids"] = (columns >= second[:, None]).long() * inputs["attention_mask"]
        yield rows, encoder(**inputs).last_hidden_state


def has_segments(encoder: nn.Module) -> bool:
    """Whether an encoder can tell a second segment from the first."""
    return getattr(encoder.config, "type_vocab_size", 0) >= 2


def length_buckets(lengths: Tensor, *, max_tokens: int | None = None, waste: float = 0.1) -> list[Tensor]:
    """Rows grouped longest first, so that padding is at most `waste` of a group and a group has at most `max_tokens`.

    Groups smaller than 8 rows are not closed for their padding: a tiny kernel costs more than it saves. By default
    groups without a backward pass are small on the CPU: they pad less, and its cache still has what one layer hands on.
    """
    if max_tokens is None:
        max_tokens = 2048 if lengths.device.type == "cpu" and not torch.is_grad_enabled() else 16384
    order = torch.argsort(lengths, descending=True, stable=True)
    widths = lengths[order].tolist()
    groups, start, tokens = [], 0, 0
    for row, length in enumerate(widths):
        padded = widths[start] * (row - start + 1)
        wasteful = row - start >= 8 and padded - tokens - length > waste * padded
        if row > start and (padded > max_tokens or wasteful):
            groups.append(order[start:row])
            start, tokens = row, 0
        tokens += length
    groups.append(order[start:])
    return [group for group in groups if len(group)]
