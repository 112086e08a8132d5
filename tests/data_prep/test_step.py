import errno
import json

import pytest

from data_prep import step
from data_prep.step import alone_in, fingerprint, run_step
from realm_train.errors import BadInput


@pytest.fixture
def make(tmp_path):
    """`make(text, **settings)`: runs a step that writes `text`, and counts how often it really worked."""

    def run(text, inputs=(), resumable=False, **settings):
        def work(aside):
            run.worked += 1
            (aside / "inner").mkdir(exist_ok=True)
            (aside / "inner" / "file").write_text(text)
            return {"count": len(text)}

        return run_step(
            name="write", kind="text", out=tmp_path / "out", inputs=list(inputs), settings=settings, work=work,
            resumable=resumable,
        )  # fmt: skip

    run.worked = 0
    run.file = tmp_path / "out" / "inner" / "file"
    return run


def test_the_same_step_works_once(make):
    first, made = make("one", width=3)
    again, remade = make("two", width=3)
    assert (made, remade, make.worked) == (True, False, 1)
    assert first == again == json.loads((make.file.parents[1] / "manifest.json").read_text())
    assert make.file.read_text() == "one"
    assert first["files"] == {"inner/file": 3} and first["settings"] == {"width": 3} and first["count"] == 3


def test_other_settings_make_it_again_and_keep_the_previous_version(make, tmp_path):
    make("one", width=3)
    assert make("two", width=4)[1]
    assert make.file.read_text() == "two"
    assert (tmp_path / "out.previous" / "inner" / "file").read_text() == "one"
    make("three", width=5)
    assert (tmp_path / "out.previous" / "inner" / "file").read_text() == "two"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.previous"]


def test_another_input_makes_it_again(make, tmp_path):
    source = tmp_path / "source.txt"
    source.write_text("a")
    make("one", inputs=[fingerprint(source)])
    assert not make("two", inputs=[fingerprint(source)])[1]
    source.write_text("b")
    assert make("two", inputs=[fingerprint(source)])[1]


@pytest.mark.parametrize("damage", [lambda file: file.unlink(), lambda file: file.write_text("longer")])
def test_a_damaged_folder_is_made_again(make, damage):
    make("one")
    damage(make.file)
    assert make("one")[1] and make.file.read_text() == "one"


def test_a_failure_leaves_the_old_version_and_no_litter(make, tmp_path):
    make("one", width=3)
    with pytest.raises(ZeroDivisionError):
        run_step(name="write", kind="text", out=tmp_path / "out", inputs=[], settings={}, work=lambda aside: 1 / 0)
    assert make.file.read_text() == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_full_disk_is_one_message(make, tmp_path):
    make("one", width=3)

    def work(aside):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(BadInput, match="the disk is full"):
        run_step(name="write", kind="text", out=tmp_path / "out", inputs=[], settings={}, work=work)
    assert make.file.read_text() == "one"


@pytest.mark.parametrize("resumable", [True, False])
def test_only_a_resumable_step_finds_what_a_failed_one_left(tmp_path, resumable):
    found = []

    def work(aside):
        found.append(sorted(path.name for path in aside.iterdir()))
        (aside / "shard").write_text("done")
        if len(found) == 1:
            raise KeyboardInterrupt
        return {}

    given = {"name": "s", "kind": "text", "out": tmp_path / "out", "inputs": [], "settings": {}, "work": work}
    with pytest.raises(KeyboardInterrupt):
        run_step(**given, resumable=resumable)
    run_step(**given, resumable=resumable)
    assert found == [[], ["shard"] if resumable else []]


@pytest.mark.parametrize("content", [None, "no json", '{"kind": "corpus"}'])
def test_a_folder_of_the_user_is_refused_and_untouched(make, tmp_path, content):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    if content is not None:
        (out / "manifest.json").write_text(content)
    before = {path: path.read_text() for path in out.iterdir()}
    with pytest.raises(BadInput, match="out="):
        make("one")
    assert {path: path.read_text() for path in out.iterdir()} == before and make.worked == 0


def test_two_processes_never_write_the_same_folder(tmp_path):
    aside = tmp_path / "x.partial" / "key"
    with alone_in(aside, resumable=True), pytest.raises(BadInput, match="another process"):
        alone_in(aside, resumable=True).__enter__()


def test_what_cannot_be_read_or_written_is_named(make, tmp_path):
    with pytest.raises(BadInput, match="missing.txt: cannot be read"):
        fingerprint(tmp_path / "missing.txt")
    (tmp_path / "out.partial").write_text("a file of the user")
    with pytest.raises(BadInput, match="cannot be made"):
        make("one")


def test_a_huge_file_is_named_by_size_and_time(tmp_path, monkeypatch):
    file = tmp_path / "huge"
    file.write_text("abc")
    assert set(fingerprint(file)) == {"path", "sha256"}
    monkeypatch.setattr(step, "HASHED_BYTES", 2)
    assert fingerprint(file) == {"path": str(file), "size": 3, "mtime_ns": file.stat().st_mtime_ns}
