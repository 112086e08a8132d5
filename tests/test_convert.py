"""A run made of a published REALM checkpoint computes what the checkpoint's own classes do, worked out by hand."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from published import (
    CONFIG,
    embedder,
    encoder,
    hidden_by_hand,
    logits_by_hand,
    open_qa,
    saved,
    span_by_hand,
    vector_by_hand,
)

from realm_train.build import build_towers
from realm_train.checkpoints import last_checkpoint, weights_of
from realm_train.command import compose
from realm_train.convert import convert, main
from realm_train.errors import BadInput
from realm_train.index.snapshot import tower_hash
from realm_train.models.published_realm import BERT_KEYS, read_published
from realm_train.models.reader import joint_inputs
from realm_train.trained import Trained, open_trained

ROWS = np.array([0, 7, 30])


@pytest.fixture
def converted(corpus, tmp_path):
    """`converted(folder, …)`: the run that the folders become, opened."""

    def make(*sources, words: tuple[str, ...] = ()) -> tuple[str, Trained]:
        places = [f"corpus={corpus.folder}", f"run={tmp_path / 'run'}", f"source=[{','.join(map(str, sources))}]"]
        cfg = compose("convert", *places, "passage_length=96", "query_length=32", "trainer.precision=32-true", *words)
        run, stage = convert(cfg, sources)
        return stage, open_trained(run, device="cpu")

    return make


def rows_of(sequences) -> list[tuple[list[int], int]]:
    """Word pieces of every row, and where its second segment begins."""
    return [
        (ids[:length].tolist(), int(second))
        for ids, length, second in zip(sequences.ids, sequences.lengths, sequences.second, strict=True)
    ]


def by_hand(function, state, sequences) -> torch.Tensor:
    return torch.stack([function(state, ids, second) for ids, second in rows_of(sequences)])


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.safetensors", "model.pt"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_an_embedder_is_both_towers(converted, corpus, tmp_path, file, prefix):
    state = embedder(seed=0)
    source = saved(tmp_path / "published", {f"{prefix}{name}": value for name, value in state.items()}, file=file)
    stage, trained = converted(source)
    passages = corpus.sequences(ROWS, 96)
    with torch.no_grad():
        found = trained.towers.passage(passages)
    torch.testing.assert_close(found, by_hand(vector_by_hand, state, passages), rtol=0, atol=1e-5)
    assert stage == "ict" and trained.towers.shared and trained.towers.dim == CONFIG["retriever_proj_size"]
    assert trained.masked_lm is None and trained.span_reader is None


def test_embedder_and_encoder_are_a_pretrained_run(converted, corpus, tmp_path):
    towers, masked_lm = embedder(seed=0), encoder(seed=1)
    stage, trained = converted(saved(tmp_path / "embedder", towers), saved(tmp_path / "encoder", masked_lm))
    passages = corpus.sequences(ROWS, 96)
    with torch.no_grad():
        found = trained.towers.query(passages)
        for ids, second in rows_of(passages):
            row = {"input_ids": torch.tensor([ids]), "token_type_ids": (torch.arange(len(ids))[None] >= second).long()}
            logits = trained.masked_lm.masked_lm(**row).logits[0]
            torch.testing.assert_close(logits, logits_by_hand(masked_lm, ids, second), rtol=0, atol=1e-5)
    torch.testing.assert_close(found, by_hand(vector_by_hand, towers, passages), rtol=0, atol=1e-5)
    assert (stage, trained.stage, trained.step) == ("pretrain", "pretrain", 0)


def test_a_fine_tuned_checkpoint_asks_with_its_own_tower_and_reads_spans(converted, corpus, tmp_path):
    tuned, before = open_qa(seed=2), embedder(seed=0)
    stage, trained = converted(saved(tmp_path / "openqa", tuned), saved(tmp_path / "embedder", before))
    assert stage == trained.stage == "open_qa" and not trained.towers.shared
    inner = {part: {n.removeprefix(f"{part}."): v for n, v in tuned.items()} for part in ("embedder", "reader")}
    passages = corpus.sequences(ROWS, 96)
    with torch.no_grad():
        asked, told = trained.towers.query(passages), trained.towers.passage(passages)
    torch.testing.assert_close(asked, by_hand(vector_by_hand, inner["embedder"], passages), rtol=0, atol=1e-5)
    torch.testing.assert_close(told, by_hand(vector_by_hand, before, passages), rtol=0, atol=1e-5)
    bodies, lengths = corpus.bodies(ROWS, 40)
    questions = corpus.sequences(ROWS, 20)
    joint = joint_inputs(questions, bodies, lengths, sep_id=corpus.sep_id, max_length=64)
    with torch.no_grad():
        scores = trained.span_reader(joint)
    widest = CONFIG["max_span_width"]
    for row, (ids, second) in enumerate(rows_of(joint)):
        hidden, last = hidden_by_hand(inner["reader"], ids, second), len(ids) - 2
        expected = torch.full_like(scores[row], -torch.inf)
        for start in range(second, last + 1):
            for end in range(start, min(start + widest, last + 1)):
                expected[start, end - start] = span_by_hand(inner["reader"], hidden, start, end)
        torch.testing.assert_close(scores[row], expected, rtol=0, atol=2e-5)


def test_the_question_tower_alone_embeds_passages_with_a_warning(converted, tmp_path):
    source = saved(tmp_path / "openqa", open_qa(seed=2))
    with pytest.warns(UserWarning, match="fine-tuned for questions, and now embeds the passages too; add the one"):
        stage, trained = converted(source)
    assert stage == "open_qa" and trained.towers.shared


def test_other_commands_go_on_from_it(converted, corpus, tmp_path):
    _, trained = converted(saved(tmp_path / "embedder", embedder(seed=0)), saved(tmp_path / "encoder", encoder(seed=1)))
    found = trained.retriever()(["Who wrote it?"], 5)
    with torch.no_grad():
        every = trained.towers.passage(corpus.sequences(np.arange(len(corpus)), 96))
        question = corpus.tokenizer.encode("Who wrote it?", add_special_tokens=False).ids
        ids = [corpus.cls_id, *question, corpus.sep_id]
    scores = every @ vector_by_hand(embedder(seed=0), ids, len(ids))
    assert found.ids[0].tolist() == scores.topk(5).indices.tolist()
    weights = weights_of(last_checkpoint(trained.run), "towers", "reader")
    assert {*weights} == {"towers", "reader"}
    passage = {k.removeprefix("passage."): v for k, v in weights["towers"].items() if k.startswith("passage.")}
    assert tower_hash(passage) == tower_hash(trained.towers.passage.state_dict())


def test_training_goes_on_from_it_with_the_model_of_that_name(converted, corpus, tmp_path):
    _, trained = converted(saved(tmp_path / "embedder", embedder(seed=0)))
    sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "max_position_embeddings")
    words = [f"model.encoder.{name}={CONFIG[name]}" for name in sizes]
    cfg = compose("train", f"corpus={corpus.folder}", "model=published", "model.towers.dim=10", *words)
    towers = build_towers(cfg, corpus, weights_of(last_checkpoint(trained.run), "towers")).eval()
    passages = corpus.sequences(ROWS, 96)
    with torch.no_grad():
        assert torch.equal(towers.passage(passages), trained.towers.passage(passages))
    made, configured = (tower.passage.encoder.config.to_dict() for tower in (trained.towers, towers))
    assert {name: made[name] for name in BERT_KEYS} == {name: configured[name] for name in BERT_KEYS}


def test_the_index_of_another_corpus_is_not_even_read(tmp_path):
    parts = read_published(saved(tmp_path / "openqa", open_qa(seed=2)))
    assert parts.keys() == {"question_embedder", "reader", "span_reader"}
    assert not any("block_emb" in name for part in parts.values() for name in part.state)


def test_a_scorer_with_two_embedders_gives_untied_towers(converted, corpus, tmp_path):
    inside = {"embedder": embedder(seed=0), "query_embedder": embedder(seed=3)}
    state = {f"{part}.{name}": value for part, its in inside.items() for name, value in its.items()}
    _, trained = converted(saved(tmp_path / "scorer", state))
    passages = corpus.sequences(ROWS, 96)
    with torch.no_grad():
        for tower, part in ((trained.towers.passage, "embedder"), (trained.towers.query, "query_embedder")):
            expected = by_hand(vector_by_hand, inside[part], passages)
            torch.testing.assert_close(tower(passages), expected, rtol=0, atol=1e-5)


def test_what_cannot_be_converted_is_told_and_leaves_nothing(converted, tmp_path):
    first, second = (saved(tmp_path / f"embedder{seed}", embedder(seed=seed)) for seed in (0, 1))
    alone = saved(tmp_path / "encoder", encoder(seed=1))
    other = saved(tmp_path / "bert", {"bert.embeddings.word_embeddings.weight": torch.zeros(2, 2)})
    broken = saved(tmp_path / "broken", {})
    (broken / "pytorch_model.bin").write_bytes(b"not weights")
    unsaid = saved(tmp_path / "unsaid", {})
    (unsaid / "config.json").unlink()
    for sources, said in (
        ((first, second), "both have: embedder; give one"),
        ((alone,), r"got reader alone, expected an embedder too: source=\[embedder,reader\]"),
        ((other,), "got weights named bert.embeddings.word_embeddings.weight, …, expected those of RealmEmbedder"),
        ((broken,), "pytorch_model.bin: cannot be read as weights"),
        ((unsaid,), "config.json: cannot be read .* put the checkpoint's config.json there"),
        ((tmp_path,), "no model.safetensors, pytorch_model.bin or"),
    ):
        with pytest.raises(BadInput, match=said):
            converted(*sources)
    assert not (tmp_path / "run").exists() and not (tmp_path / "run.partial").exists()
    converted(first)
    with pytest.raises(BadInput, match="exists already; give another name="):
        converted(first)


def test_the_command_says_where_the_run_is(corpus, tmp_path, monkeypatch, capsys):
    source = saved(tmp_path / "published", embedder(seed=0))
    words = [f"source={source}", f"corpus={corpus.folder}", f"run={tmp_path / 'run'}", "seed=5"]
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(sys, "argv", ["convert", *words])
    main()
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'run'}: towers as after the stage ict;")
    trained = open_trained(tmp_path / "run", device="cpu")
    assert trained.cfg.seed == 5 and "source" not in trained.cfg
