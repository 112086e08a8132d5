"""A run opened to be asked: every stage with what it has trained, and an index of its very own weights."""

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from tiny_run import ON_CPU, overrides, pretrained, questions_file, spans_folder, threads, weights  # noqa: F401

from realm_train.checkpoints import weights_up_to
from realm_train.command import compose
from realm_train.errors import BadInput
from realm_train.index.snapshot import tower_hash
from realm_train.index.store import IndexStore
from realm_train.trained import open_trained

TEXTS = ["Who was it?", "Where is the city that was built there?"]


@pytest.fixture(scope="module")
def tuned(pretrained, questions_file, tmp_path_factory):  # noqa: F811
    """The pretrained run, fine-tuned for two steps."""
    from realm_train.train import main

    run, before = tmp_path_factory.mktemp("tuned") / "run", torch.get_num_threads()
    words = [f"ckpt={pretrained}", f"questions={questions_file}", f"dev_questions={questions_file}", *ON_CPU]
    words += ["open_qa.steps=2", "open_qa.batch_size=4", "open_qa.micro_batch_size=4", "open_qa.beam=20"]
    main(compose("train", "experiment=open_qa", f"run={run}", *words, "open_qa.heldout=4", "refresh=inline"))
    torch.set_num_threads(before)
    return run


def is_of(module: torch.nn.Module, run, stage: str, part: str) -> bool:
    """Whether a module has the weights of a part of a stage's last checkpoint."""
    mine, theirs = module.state_dict(), weights(run, stage)
    names = {name: key for key in theirs for name in [key.partition(f"{part}.")[2]] if f".{part}." in f".{key}"}
    return mine.keys() == names.keys() and all(torch.equal(mine[name], theirs[key]) for name, key in names.items())


def test_every_stage_is_opened_with_what_it_has_trained(pretrained, tuned):  # noqa: F811
    ict, realm, qa = (
        open_trained(run, stage=stage, device="cpu")
        for run, stage in ((pretrained, "ict"), (pretrained, None), (tuned, None))
    )
    assert [(one.stage, one.step) for one in (ict, realm, qa)] == [("ict", 2), ("pretrain", 3), ("open_qa", 2)]
    assert is_of(ict.towers, pretrained, "ict", "towers") and is_of(realm.towers, pretrained, "pretrain", "towers")
    assert is_of(realm.masked_lm, pretrained, "pretrain", "reader") and is_of(qa.towers, tuned, "open_qa", "towers")
    assert is_of(qa.span_reader, tuned, "open_qa", "span_reader")
    assert [one.masked_lm is None for one in (ict, realm, qa)] == [True, False, True]
    assert [one.span_reader is None for one in (ict, realm, qa)] == [True, True, False]
    assert [one.closed_book() is None for one in (ict, realm, qa)] == [True, False, True]
    assert [one.answerer() is None for one in (ict, realm, qa)] == [True, True, False]
    assert qa.null_bias == float(weights(tuned, "open_qa")["qa.null_bias"]) != 0
    assert not any(module.training for one in (ict, realm, qa) for module in one.towers.modules())
    assert all(isinstance(answer, str) and answer for answer in realm.closed_book()(TEXTS))


def test_it_retrieves_by_its_own_vectors_and_answers_from_its_corpus(tuned):
    trained = open_trained(tuned, device="cpu")
    retriever, answerer = trained.retriever(name="mine"), trained.answerer()
    assert retriever.name == "mine" and retriever.recall == 1.0 and answerer.depth == trained.cfg.open_qa.read
    found = retriever(TEXTS, 6)
    for spans, ids in zip(answerer(TEXTS, found), found.ids.tolist(), strict=True):
        assert spans and {span.passage for span in spans} <= set(ids[: answerer.depth])
        for span in spans:
            assert span.text == trained.corpus.passage(span.passage)["text"][span.start : span.end]
    assert trained.answerer(depth=2).depth == 2


def test_each_stage_has_an_index_of_its_own_tower_that_is_encoded_once(pretrained, tuned, tmp_path):  # noqa: F811
    import shutil

    run = shutil.copytree(pretrained, tmp_path / "run")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    last = open_trained(run, device="cpu")
    known = IndexStore(run / "index").versions()
    assert last.index.count == len(last.corpus) and IndexStore(run / "index").versions() == known  # refresh.final's
    ict = open_trained(run, stage="ict", device="cpu")
    vectors = ict.index.vectors
    store = IndexStore(run / "index-ict")
    assert store.versions() == [0] and IndexStore(run / "index").versions() == known
    manifest = store.manifest(0)
    assert manifest["tower"] == tower_hash(ict.towers.passage.state_dict()) and manifest["trained_step"] == 2
    assert not torch.equal(vectors, last.index.vectors)
    again = open_trained(run, stage="ict", device="cpu")
    assert torch.equal(again.index.vectors, vectors) and store.versions() == [0]
    kept = {path: path.read_bytes() for path in before if path.name != "pins.json"}
    assert all(kept[path] == before[path] for path in kept)
    texts = [ict.corpus.sequences(np.array([passage]), ict.cfg.passage_length) for passage in (0, 7)]
    with torch.no_grad():
        alone = torch.cat([ict.towers.passage(text) for text in texts])
    torch.testing.assert_close(vectors[[0, 7]].float(), alone, rtol=1e-2, atol=1e-2)  # stored in half precision
    assert IndexStore(tuned / "index").versions() == [0]


def test_an_index_that_is_gone_is_made_again(tuned, tmp_path):
    import shutil

    run = shutil.copytree(tuned, tmp_path / "run")
    expected = open_trained(run, device="cpu").retriever()(TEXTS, 5)
    shutil.rmtree(run / "index")
    trained = open_trained(run, device="cpu")
    found = trained.retriever()(TEXTS, 5)
    assert IndexStore(run / "index").manifest(0)["encoded"] == len(trained.corpus)
    assert torch.equal(found.ids, expected.ids)
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-2, atol=1e-2)


def test_a_stage_that_is_none_or_was_not_trained_is_refused(pretrained, tuned, tmp_path):  # noqa: F811
    for run, stage, said in (
        (pretrained, "itc", "stage: got 'itc', expected one of ict, mlm, pretrain, open_qa"),
        (pretrained, "open_qa", "no checkpoint of open_qa; train it first"),
        (tuned, "ict", "no checkpoint of ict; train it first"),
        (tmp_path, None, "config.yaml: not found"),
    ):
        with pytest.raises(BadInput, match=said):
            open_trained(run, stage=stage, device="cpu")
    (tmp_path / "empty").mkdir()
    OmegaConf.save(OmegaConf.load(pretrained / "config.yaml"), tmp_path / "empty" / "config.yaml")
    with pytest.raises(BadInput, match="no trained towers; train ict, pretrain or open_qa first"):
        open_trained(tmp_path / "empty", device="cpu")


def test_weights_up_to_a_stage_are_those_of_the_stages_before_it(pretrained):  # noqa: F811
    stage, step, ict = weights_up_to(pretrained, "ict")
    assert (stage, step, set(ict)) == ("ict", 2, {"towers"})
    stage, step, everything = weights_up_to(pretrained)
    assert (stage, step) == ("pretrain", 3) and {"towers", "reader"} <= set(everything)
    assert any(not torch.equal(value, everything["towers"][name]) for name, value in ict["towers"].items())
