"""Encoders of others as towers: the same vectors as their own library gives, on real titles and texts."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
import transformers
from tiny_models import BERT, SIZE

from realm_train.build import build
from realm_train.command import CONF, compose
from realm_train.errors import BadInput
from realm_train.export import tokenizer_of
from realm_train.models.dpr import dpr_towers
from realm_train.models.encoder import load_encoder
from realm_train.models.exported_tower import save_tower
from realm_train.models.sentence_transformer import sentence_transformer_towers
from realm_train.tasks.encode import passage_encoder

WORDS = 30522
DPR = SIZE | {"vocab_size": WORDS, "max_position_embeddings": 160, "initializer_range": 0.2}
ROWS = np.arange(0, 60, 5)


@pytest.fixture(scope="module")
def dpr_folders(tmp_path_factory) -> dict[int, tuple[str, str]]:
    """Folders of DPR's passage and question encoder, without a projection (0) and with one of 12."""
    folders = {}
    for projection in (0, 12):
        config = transformers.DPRConfig(**DPR, projection_dim=projection)
        torch.manual_seed(projection)
        folder = tmp_path_factory.mktemp("dpr")
        transformers.DPRContextEncoder(config).save_pretrained(folder / "passage")
        transformers.DPRQuestionEncoder(config).save_pretrained(folder / "query")
        folders[projection] = (str(folder / "passage"), str(folder / "query"))
    return folders


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory) -> str:
    """A random BERT over MiniLM's word pieces, in a folder that could be a Contriever's."""
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("encoder")
    load_encoder(config=BERT | {"vocab_size": WORDS}).save_pretrained(folder)
    return str(folder)


def texts(corpus) -> list[tuple[str, str]]:
    """Titles and bodies of some passages."""
    return [(row["title"], row["text"]) for row in map(corpus.passage, ROWS.tolist())]


def vectors(tower, corpus) -> torch.Tensor:
    """The same passages through a tower of ours."""
    return passage_encoder(tower, corpus, max_length=96)(ROWS)


@pytest.mark.parametrize("segments", [False, True])
@pytest.mark.parametrize("projection", [0, 12])
def test_dpr_is_as_transformers_has_it(corpus, tokenizer, dpr_folders, projection, segments):
    passage, query = dpr_folders[projection]
    towers = dpr_towers(passage, query, segments=segments)
    inputs = tokenizer(texts(corpus), padding=True, return_tensors="pt")
    if not segments:
        del inputs["token_type_ids"]
    context, question = transformers.DPRContextEncoder, transformers.DPRQuestionEncoder
    with torch.no_grad():
        for tower, one in (
            (towers.passage, context.from_pretrained(passage)),
            (towers.query, question.from_pretrained(query)),
        ):
            torch.testing.assert_close(vectors(tower, corpus), one.eval()(**inputs).pooler_output, rtol=0, atol=1e-5)
    assert towers.dim == (projection or 32) and not towers.shared


def test_a_new_projection_of_dpr_takes_the_place_of_its_own(dpr_folders, corpus):
    towers = dpr_towers(*dpr_folders[12], dim=7, norm="layer_norm", layers=1)
    assert vectors(towers.passage, corpus).shape == (len(ROWS), 7)
    assert towers.passage.encoder.config.num_hidden_layers == 1


def test_a_question_encoder_is_no_passage_encoder(dpr_folders):
    passage, query = dpr_folders[0]
    with pytest.raises(BadInput, match="expected those of a DPRContextEncoder; passage= is"):
        dpr_towers(query, passage)


def test_contriever_is_the_mean_of_the_tokens(corpus, tokenizer, encoder_folder):
    cfg = compose("train", "model=contriever", f"model.name={encoder_folder}").model
    towers = build(cfg.towers)
    inputs = tokenizer(texts(corpus), padding=True, return_tensors="pt")
    inputs["token_type_ids"].zero_()
    with torch.no_grad():
        hidden = transformers.AutoModel.from_pretrained(encoder_folder).eval()(**inputs).last_hidden_state
    mask = inputs["attention_mask"][..., None]
    torch.testing.assert_close(vectors(towers.passage, corpus), (hidden * mask).sum(1) / mask.sum(1), rtol=0, atol=1e-5)
    assert towers.dim == 32 and not list(towers.passage.projection.parameters())


def library(name: str):
    """The library's own model."""
    sentence_transformers = pytest.importorskip("sentence_transformers")
    return sentence_transformers.SentenceTransformer(name, device="cpu")


def their_vectors(model, pairs: list) -> torch.Tensor:
    return torch.from_numpy(model.encode(pairs))


def test_a_real_sentence_transformer_gives_the_librarys_vectors(corpus, tokenizer_folder):
    theirs = library(tokenizer_folder)
    towers = sentence_transformer_towers(tokenizer_folder)
    found = vectors(towers.passage, corpus)
    torch.testing.assert_close(found, their_vectors(theirs, texts(corpus)), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(len(ROWS)))


def made_of(folder, encoder_folder: str, *parts, pooling: str):
    """A sentence-transformers model saved by the library."""
    library_modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    sentence_transformers = pytest.importorskip("sentence_transformers")
    transformer = library_modules.Transformer(encoder_folder)
    modules = [transformer, library_modules.Pooling(32, pooling), *(part(library_modules) for part in parts)]
    sentence_transformers.SentenceTransformer(modules=modules, device="cpu").save(str(folder))


def dense(activation: torch.nn.Module | None, *, wide: int = 32, bias: bool = True):
    return lambda library: library.Dense(wide, 20, bias=bias, activation_function=activation)


def layer_norm(library):
    layer = library.LayerNorm(20)
    torch.nn.init.normal_(layer.norm.weight)
    return layer


def normalize(library):
    return library.Normalize()


HEADS = {
    "cls": ("cls",),
    "cls-dense-layer_norm": ("cls", dense(None), layer_norm),
    "cls-tanh-normalize": ("cls", dense(torch.nn.Tanh()), normalize),
    "mean-two_dense": ("mean", dense(torch.nn.GELU(), bias=False), dense(None, wide=20), normalize),
    "mean-normalize-dense": ("mean", normalize, dense(torch.nn.Tanh())),
}


@pytest.mark.parametrize("head", HEADS)
def test_every_head_gives_the_librarys_vectors(tmp_path, corpus, tokenizer, encoder_folder, head):
    pooling, *parts = HEADS[head]
    tokenizer.save_pretrained(encoder_folder)
    torch.manual_seed(0)
    made_of(tmp_path / "theirs", encoder_folder, *parts, pooling=pooling)
    towers = sentence_transformer_towers(str(tmp_path / "theirs"))
    expected = their_vectors(library(str(tmp_path / "theirs")), texts(corpus))
    torch.testing.assert_close(vectors(towers.passage, corpus), expected, rtol=0, atol=1e-5)
    assert towers.dim == expected.shape[1]
    own = tokenizer_of(corpus, max_length=96, segments=True)
    save_tower(towers.passage, tmp_path / "ours", tokenizer=own, max_length=96)
    again = their_vectors(library(str(tmp_path / "ours")), texts(corpus))
    torch.testing.assert_close(again, expected, rtol=0, atol=1e-5)


def test_a_new_projection_follows_the_head(tokenizer_folder, corpus):
    towers = sentence_transformer_towers(tokenizer_folder, dim=7, shared=False, layers=1)
    found = vectors(towers.passage, corpus)
    assert found.shape == (len(ROWS), 7) and towers.query is not towers.passage
    torch.testing.assert_close(found.mean(dim=1), torch.zeros(len(ROWS)), rtol=0, atol=1e-5)  # LayerNorm


def test_dpr_has_two_towers(dpr_folders):
    with pytest.raises(BadInput, match="got shared=true, but DPR has two encoders"):
        dpr_towers(*dpr_folders[0], shared=True)


def test_other_poolings_and_parts_are_refused(tmp_path, tokenizer, encoder_folder):
    tokenizer.save_pretrained(encoder_folder)
    made_of(tmp_path / "max", encoder_folder, pooling="max")
    with pytest.raises(BadInput, match="got Pooling by max, expected Transformer, Pooling by cls or mean"):
        sentence_transformer_towers(str(tmp_path / "max"))
    made_of(tmp_path / "cnn", encoder_folder, lambda library: library.WordWeights(["a"], {"a": 1.0}), pooling="cls")
    with pytest.raises(BadInput, match="got the module WordWeights, expected"):
        sentence_transformer_towers(str(tmp_path / "cnn"))
    with pytest.raises(BadInput, match=r"modules.json cannot be read .* give the folder or the hub name"):
        sentence_transformer_towers(encoder_folder)


def test_prompts_are_not_passed_over_in_silence(tmp_path, tokenizer, encoder_folder):
    tokenizer.save_pretrained(encoder_folder)
    made_of(tmp_path / "theirs", encoder_folder, pooling="mean")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sentence_transformer_towers(str(tmp_path / "theirs"))
    (tmp_path / "theirs" / "config_sentence_transformers.json").write_text('{"prompts": {"query": "query: "}}')
    with pytest.warns(UserWarning, match="prompts {'query': 'query: '} are not put before"):
        sentence_transformer_towers(str(tmp_path / "theirs"))


def test_every_model_config_makes_towers_and_a_reader(dpr_folders, encoder_folder, tokenizer_folder):
    local = {
        "contriever": [f"model.name={encoder_folder}", f"model.reader.name={encoder_folder}"],
        "dpr": [
            f"model.name={encoder_folder}",
            *map("model.towers.{}={}".format, ("passage", "query"), dpr_folders[12]),
        ],
        "sentence_transformer": [f"model.name={encoder_folder}", f"model.towers.name={tokenizer_folder}"],
        "bert_base": [f"model.name={encoder_folder}"],
        "published": [f"model.name={encoder_folder}", "model.encoder.hidden_size=24", "model.layers=1"],
        "minilm": [],
        "scratch": [],
    }
    assert {path.stem for path in (CONF / "model").glob("*.yaml")} - {"of_ckpt"} == set(local)
    for name, overrides in local.items():
        cfg = compose("train", f"model={name}", "model.dropout=0.0", *overrides).model
        assert build(cfg.towers).passage.dropout == 0.0 == build(cfg.towers).query.dropout
        assert build(cfg.reader).masked_lm.config.hidden_dropout_prob == 0.0
