import gzip
import json

import pytest

from realm_train.data.questions import Question, read_questions
from realm_train.errors import BadInput

TWO = [Question("who is it?", ("Ada", "Ada Lovelace")), Question("when?", ("1843",))]


def written(path, content):
    """The path of a new file; `.gz` compresses it."""
    data = content.encode()
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)
    return path


AS = {
    "answers.jsonl": '{"question": "who is it?", "answers": ["Ada", "Ada Lovelace"]}\n\n'
    '{"question": "when?", "answers": ["1843"]}',
    "nq_open.jsonl": '\ufeff{"question": "who is it?", "answer": ["Ada", "Ada Lovelace"]}\r\n'
    '{"question": "when?", "answer": "1843"}\r\n',
    "zipped.jsonl.gz": '{"question": "who is it?", "answers": ["Ada", "Ada Lovelace"]}\n'
    '{"question": "when?", "answers": ["1843"]}\n',
    "lines.json": '{"question": "who is it?", "answers": ["Ada", "Ada Lovelace"]}\n'
    '{"question": "when?", "answers": "1843"}\n',
    "dpr.json": json.dumps(
        [
            {"question": "who is it?", "answers": ["Ada", "Ada Lovelace"], "positive_ctxs": [{"text": "x"}]},
            {"question": "when?", "answers": ["1843"], "positive_ctxs": []},
        ],
        indent=1,
    ),
    "dpr.tsv": "who is it?\t['Ada', \"Ada Lovelace\"]\nwhen?\t['1843']\n",
    "dpr.csv": 'who is it?\t"[\'Ada\', ""Ada Lovelace""]"\nwhen?\t[\'1843\']\n',  # DPR's .csv has tabs
    "dpr.csv.gz": "who is it?\t['Ada', 'Ada Lovelace']\nwhen?\t[\"1843\"]\n",
    "header.csv": 'Answers,Question\n"[""Ada"", ""Ada Lovelace""]",who is it?\n1843,when?\n',
}


@pytest.mark.parametrize("name", AS)
def test_every_format_says_the_same(tmp_path, name):
    assert read_questions(written(tmp_path / name, AS[name])) == TWO


def test_awkward_cells_of_a_table(tmp_path):
    cells = [
        ("plain", "tea, or coffee", ("tea, or coffee",)),
        ("quoted", "['O\\'Hara', \"D'Arcy\"]", ("O'Hara", "D'Arcy")),
        ("none", "[]", ()),
        ('what is "x"?', "['Ω', 'ω\\u0301']", ("Ω", "ω\u0301")),
    ]
    path = written(tmp_path / "a.tsv", "".join(f"{question}\t{cell}\n" for question, cell, _ in cells))
    assert [(one.text, one.answers) for one in read_questions(path)] == [(text, got) for text, _, got in cells]


def test_a_question_comes_back_as_it_was_written(tmp_path):
    questions = [
        Question('a "quote"\t?', ("\u00e9", "e\u0301"), id="7"),
        Question("when?", (r"17\d\d",), regex=True, id="x/1"),
        Question("none?", ()),
    ]
    path = written(tmp_path / "a.jsonl", "".join(f"{json.dumps(question.row())}\n" for question in questions))
    assert read_questions(path) == questions


def test_answers_are_stripped_given_once_and_never_blank(tmp_path):
    path = written(tmp_path / "a.jsonl", '{"question": " q ", "answers": [" a", "b", "a ", "", " ", "A"]}')
    assert read_questions(path) == [Question("q", ("a", "b", "A"))]


def test_ids_and_patterns(tmp_path):
    rows = '{"question": "q", "answer": "a+", "id": 3}\n{"question": "r", "answer": "b", "question_id": "r1"}\n'
    path = written(tmp_path / "a.jsonl", rows)
    assert [question.id for question in read_questions(path)] == ["3", "r1"]
    assert all(question.regex for question in read_questions(path, regex=True))
    assert not any(question.regex for question in read_questions(path))


def test_the_first_questions_are_read_alone(tmp_path):
    path = written(tmp_path / "a.jsonl", '{"question": "q", "answer": "a"}\nnot JSON\n')
    assert len(read_questions(path, limit=1)) == 1


MISTAKES = {
    "bad.jsonl": ('{"question": "q", "answer": "a"}\n{"question"\n', "bad.jsonl:2: not JSON"),
    "list.jsonl": ("[1]\n", "list.jsonl:1: got a list, expected an object"),
    "key.jsonl": ('{"query": "q", "answers": []}\n', "key.jsonl:1: no question, there are: query, answers"),
    "none.jsonl": ('{"question": "q"}\n', r"none.jsonl:1: no answers \(or answer\), there are: question"),
    "number.jsonl": ('{"question": "q", "answers": [1843]}\n', r"number.jsonl:1: answers are \[1843\], expected"),
    "truth.jsonl": ('{"question": "q", "answer": true}\n', "truth.jsonl:1: answers are True, expected"),
    "blank.jsonl": ('{"question": " ", "answers": []}\n', "blank.jsonl:1: question is ' ', expected a text"),
    "empty.jsonl": ("\n", "empty.jsonl: got no question"),
    "pattern.jsonl": ('{"question": "q", "answer": "(a", "regex": true}\n', r"pattern.jsonl:1: the answer '\(a' is no"),
    "item.json": ('[{"question": "q", "answers": []}, 3]', "item.json: question 2: got a int, expected an object"),
    "columns.tsv": ("q\t['a']\tmore\n", "columns.tsv:1: got 3 columns, expected question, answers"),
    "one.csv": ("q, ['a']\njust a question\n", "one.csv:2: got 1 columns"),
    "literal.tsv": ("q\t['a'\n", r"literal.tsv:1: cannot read the answers \"\['a'\""),
    "code.tsv": ("q\t[print('a')]\n", "code.tsv:1: cannot read the answers"),
    "notes.txt": ("q", "got a file .txt, expected one of .jsonl, "),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_name_the_file_and_the_line(tmp_path, name):
    content, said = MISTAKES[name]
    with pytest.raises(BadInput, match=said) as error:
        read_questions(written(tmp_path / name, content))
    assert str(error.value).startswith(str(tmp_path))


def test_broken_files_are_one_message(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"question": "\xff"}\n')
    with pytest.raises(BadInput, match=r"a\.jsonl:1: invalid UTF-8 at byte 15"):
        read_questions(tmp_path / "a.jsonl")
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"question": "q", "answer": "a"}\n' * 99)[:-12])
    with pytest.raises(BadInput, match=r"cut\.jsonl\.gz: cannot be read"):
        read_questions(tmp_path / "cut.jsonl.gz")
    with pytest.raises(BadInput, match="missing.tsv: not found"):
        read_questions(tmp_path / "missing.tsv")


@pytest.fixture
def prepared(tmp_path):
    """A folder as data_prep.questions makes it, with two splits."""
    (tmp_path / "manifest.json").write_text('{"kind": "questions"}')
    written(tmp_path / "dev.jsonl", '{"question": "in dev?", "answers": ["yes"]}\n')
    written(tmp_path / "train.jsonl", '{"question": "in train?", "answers": ["yes"]}\n')
    return tmp_path


def test_a_prepared_folder_has_splits(prepared):
    assert [question.text for question in read_questions(prepared)] == ["in dev?"]
    assert [question.text for question in read_questions(prepared, split="train")] == ["in train?"]
    with pytest.raises(BadInput, match="no split test, there are: dev, train"):
        read_questions(prepared, split="test")
    (prepared / "manifest.json").write_text('{"kind": "corpus"}')
    with pytest.raises(BadInput, match="kind 'corpus', expected 'questions'"):
        read_questions(prepared)


def test_data_sets_of_the_library(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    nq = datasets.Dataset.from_dict({"question": ["q"], "answer": [["a", "b"]]})
    value = {"value": "London", "aliases": ["London", "Londinium"], "normalized_value": "london"}
    trivia = datasets.Dataset.from_dict({"question": ["q"], "question_id": ["tc_1"], "answer": [value]})
    squad = datasets.Dataset.from_dict({"question": ["q"], "answers": [{"text": ["a", "a"], "answer_start": [1, 5]}]})
    nq.to_parquet(str(tmp_path / "nq.parquet"))
    trivia.save_to_disk(str(tmp_path / "trivia"))
    datasets.DatasetDict({"validation": squad, "train": nq}).save_to_disk(str(tmp_path / "squad"))
    assert read_questions(tmp_path / "nq.parquet") == [Question("q", ("a", "b"))]
    assert read_questions(tmp_path / "trivia") == [Question("q", ("London", "Londinium"), id="tc_1")]
    assert read_questions(tmp_path / "squad") == [Question("q", ("a",))]
    assert read_questions(tmp_path / "squad", split="train") == [Question("q", ("a", "b"))]
    with pytest.raises(BadInput, match="no split 'test', there are: validation, train"):
        read_questions(tmp_path / "squad", split="test")
    with pytest.raises(BadInput, match="nobody/nothing: cannot be loaded"):
        read_questions("nobody/nothing")
