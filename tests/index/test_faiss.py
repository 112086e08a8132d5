"""What is special to faiss: factory strings, training in bounds, calibration on real searches, files, threads."""

import errno
import os

import numpy as np
import pytest
import torch

from realm_train.errors import BadInput
from realm_train.index import calibration
from realm_train.index import faiss as module
from realm_train.index.exact import ExactIndex
from realm_train.index.faiss import Faiss

pytest.importorskip("faiss")
CPU = torch.device("cpu")


def clustered(seed=0, count=3000, dim=16):
    """Vectors around forty centres, as passages are around topics."""
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((40, dim))
    near = centres[generator.integers(0, 40, count)] + 0.7 * generator.standard_normal((count, dim))
    return near.astype(np.float32)


@pytest.fixture(autouse=True)
def one_thread():
    """Small searches by two threads wait for each other where other work goes on beside the tests."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def vectors():
    return clustered()


@pytest.fixture(scope="module")
def questions():
    return clustered(seed=1, count=400)


def opened(structure, vectors, folder, questions=None):
    search = structure.build(vectors, folder, questions)
    return search, structure.load(vectors, folder, search, CPU)


FACTORIES = ["Flat", "IVF32,Flat", "IVF16,PQ8x4", "HNSW16", "SQ8", "PCA12,IVF16,Flat", "IVF32,SQ8", "PQ8x4"]


@pytest.mark.parametrize("factory", FACTORIES)
def test_every_factory_reaches_its_target_on_questions_it_was_not_tuned_on(factory, vectors, questions, tmp_path):
    structure = Faiss(factory=factory, recall_target=0.9, recall_at=10, queries=200, train=1000)
    search, index = opened(structure, vectors, tmp_path, questions[:200])
    others = torch.from_numpy(questions[200:])
    truth, found = ExactIndex(vectors).search(others, 10), index.search(others, 10)
    recall = (found.ids[:, :, None] == truth.ids[:, None, :]).any(dim=2).float().mean().item()
    assert recall >= 0.9 - 0.03  # three standard errors of 2,000 places whose misses come in rows
    assert abs(recall - search["recall"]["10"]) < 0.04 and index.recall == search["recall"]["10"]
    expected = (torch.from_numpy(vectors)[found.ids].double() * others[:, None].double()).sum(dim=2).float()
    assert torch.equal(found.scores, expected)  # even where vectors are compressed


def test_effort_grows_with_the_recall_asked_for_and_less_than_everything_is_looked_at(vectors, questions, tmp_path):
    widths = []
    for target in (0.5, 0.9, 0.99):
        structure = Faiss(factory="IVF64,Flat", recall_target=target, recall_floor=0.3)
        search = structure.build(vectors, tmp_path, questions)
        widths.append(search["effort"]["width"])
    assert widths == sorted(widths) and 1 <= widths[0] < widths[2] < 64


def test_a_loaded_index_finds_what_the_built_one_found(vectors, questions, tmp_path):
    structure = Faiss(factory="IVF32,Flat")
    search, index = opened(structure, vectors, tmp_path)
    again = structure.load(vectors, tmp_path, search, CPU)
    (tmp_path / "index.faiss").unlink()  # what is loaded is in memory
    exclude = torch.arange(400)[:, None]
    one, other = (each.search(torch.from_numpy(questions), 7, exclude) for each in (index, again))
    assert torch.equal(one.ids, other.ids) and torch.equal(one.scores, other.scores)


def test_a_build_is_made_again_alike(vectors, tmp_path):
    contents = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        Faiss(factory="IVF32,SQ8").build(vectors, tmp_path / name)
        contents.append((tmp_path / name / "index.faiss").read_bytes())
    assert contents[0] == contents[1]


def test_no_more_of_the_map_is_copied_than_a_sample_and_a_piece(vectors, tmp_path, monkeypatch):
    taken = []

    class Watched(np.ndarray):
        def astype(self, dtype, *args, **kwargs):
            taken.append(len(self))
            return np.asarray(super().astype(dtype, *args, **kwargs))

    monkeypatch.setattr(module, "ADDED", 500)
    index = module._filled(module._trained("IVF4,Flat", vectors.view(Watched), sample=900), vectors.view(Watched))
    assert index.ntotal == len(vectors) and sum(taken) == 900 + len(vectors) and max(taken) == 900


def test_half_precision_embeddings_are_searched_as_they_are(vectors, questions, tmp_path):
    halves = vectors.astype(np.float16)
    _, index = opened(Faiss(factory="Flat"), halves, tmp_path)
    truth = ExactIndex(halves.astype(np.float32)).search(torch.from_numpy(questions), 9)
    found = index.search(torch.from_numpy(questions), 9)
    assert torch.equal(found.ids, truth.ids) and torch.equal(found.scores, truth.scores)


def test_deep_searches_go_beyond_the_cells_that_calibration_chose(vectors, questions, tmp_path):
    structure = Faiss(factory="IVF64,Flat", recall_target=0.3, recall_floor=0.0, recall_at=1)
    search, index = opened(structure, vectors, tmp_path)
    assert search["effort"]["width"] < 8  # some hundred passages
    found = index.search(torch.from_numpy(questions[:5]), len(vectors))
    truth = ExactIndex(vectors).search(torch.from_numpy(questions[:5]), len(vectors))
    assert torch.equal(found.ids, truth.ids)


@pytest.mark.parametrize(
    ("factory", "count", "message"),
    [
        ("IVFx,Flat", 3000, "index.factory=IVFx,Flat: faiss refuses it.*could not parse"),
        ("IVF4096,Flat", 3000, "4096 cells for 3000 passages; take about 219 cells"),
        ("PQ4", 100, "faiss refuses it for 100 passages"),
        ("IVF8,PQ7", 3000, "faiss refuses it"),
        ("LSH", 3000, "faiss refuses it"),
    ],
)
def test_refuses_factories_that_cannot_be_and_says_what_to_take(factory, count, message, vectors, tmp_path):
    with pytest.raises(BadInput, match=message):
        Faiss(factory=factory).build(vectors[:count], tmp_path)


def test_refuses_an_index_that_loses_too_much(tmp_path, monkeypatch):
    monkeypatch.setattr(calibration, "MOST_FETCH", 4)
    noise = np.random.default_rng(0).standard_normal((2000, 32)).astype(np.float32)
    structure = Faiss(factory="PQ1x4", recall_floor=0.9, queries=100)  # four bits for 32 numbers
    with pytest.raises(BadInput, match=r"recall@20 is 0.\d+ at best, below recall_floor=0.9"):
        structure.build(noise, tmp_path)


def test_refuses_vectors_that_are_not_finite(tmp_path):
    vectors = clustered(count=50)
    vectors[33, 2] = np.inf
    with pytest.raises(BadInput, match="NaN or infinite numbers among passages 0 to 49"):
        Faiss(factory="Flat").build(vectors, tmp_path)


def test_refuses_a_file_of_other_embeddings_and_one_that_is_no_index(vectors, tmp_path):
    structure = Faiss(factory="Flat")
    search = structure.build(vectors, tmp_path)
    with pytest.raises(BadInput, match="other embeddings"):
        structure.load(vectors[:-1], tmp_path, search, CPU)
    (tmp_path / "index.faiss").write_bytes(b"no index")
    with pytest.raises(BadInput, match="index.faiss: faiss cannot read"):
        structure.load(vectors, tmp_path, search, CPU)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_is_told_as_the_operating_system_tells_it(vectors, tmp_path):
    (tmp_path / "index.faiss").symlink_to("/dev/full")
    with pytest.raises(OSError) as full:
        Faiss(factory="Flat").build(vectors, tmp_path)
    assert full.value.errno == errno.ENOSPC


def test_faiss_takes_as_many_threads_as_torch():
    import faiss

    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            module._faiss()
            assert faiss.omp_get_max_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_says_how_to_install_faiss_where_it_is_missing(monkeypatch, vectors, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(BadInput, match=r"pip install -e '.\[faiss-cpu\]'"):
        Faiss().build(vectors, tmp_path)


def test_a_gpu_that_is_not_there_is_refused(vectors, tmp_path):
    structure = Faiss(factory="Flat", gpu=True)
    search = structure.build(vectors, tmp_path)
    with pytest.raises(BadInput, match="index.gpu=true: got device cpu"):
        structure.load(vectors, tmp_path, search, CPU)
