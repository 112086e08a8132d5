import errno
import os

import pytest
import torch

from realm_train.errors import BadInput
from realm_train.index import aside
from realm_train.index.snapshot import (
    discard_snapshots_after,
    latest_snapshot,
    read_snapshot,
    tower_hash,
    write_snapshot,
)


def weights(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "projection.weight": torch.randn(4, 6, generator=generator),
        "norm.bias": torch.randn(4, generator=generator).bfloat16(),
        "scale": torch.tensor(2.5),
        "position_ids": torch.arange(7),
    }


@pytest.mark.parametrize("seed", [0, 1])
def test_what_is_read_is_what_was_written(tmp_path, seed):
    path = write_snapshot(tmp_path, step=100, tensors=weights(seed))
    snapshot = read_snapshot(path)
    assert path == tmp_path / "s000100" and snapshot.step == 100 and snapshot.tower == tower_hash(weights(seed))
    assert snapshot.tensors.keys() == weights().keys()
    for name, tensor in weights(seed).items():
        assert snapshot.tensors[name].dtype == tensor.dtype and torch.equal(snapshot.tensors[name], tensor)


def test_tied_strided_and_expanded_tensors_can_be_written(tmp_path):
    table = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    tensors = {"a": table, "tied": table, "transposed": table.T, "row": table[1], "expanded": table[:1].expand(4, 5)}
    read = read_snapshot(write_snapshot(tmp_path, step=1, tensors=tensors)).tensors
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())


def test_the_hash_does_not_depend_on_order_layout_or_gradient():
    plain = weights()
    shuffled = {name: plain[name] for name in reversed(plain)}
    assert tower_hash(plain) == tower_hash(shuffled)
    strided = plain | {"projection.weight": plain["projection.weight"].T.contiguous().T}
    assert tower_hash(plain) == tower_hash(strided)
    assert tower_hash(plain) == tower_hash(plain | {"scale": torch.nn.Parameter(plain["scale"])})


def test_the_hash_sees_names_dtypes_shapes_and_single_bits():
    plain = weights()
    table = plain["projection.weight"]
    nudged = table.clone()
    nudged[2, 3] = torch.nextafter(nudged[2, 3], torch.tensor(torch.inf))
    renamed = {("other" if name == "scale" else name): tensor for name, tensor in plain.items()}
    changed = [
        plain | {"projection.weight": nudged},
        plain | {"projection.weight": table.reshape(6, 4)},
        plain | {"projection.weight": table.view(torch.int32)},
        plain | {"another": torch.empty(0)},
        renamed,
    ]
    assert len({tower_hash(tensors) for tensors in [plain, *changed]}) == 1 + len(changed)


def test_the_latest_is_the_highest_step_beyond_the_one_known(tmp_path):
    assert latest_snapshot(tmp_path / "nothing here") is None
    write_snapshot(tmp_path, step=100, tensors=weights())
    write_snapshot(tmp_path, step=1_000_000, tensors=weights())
    assert latest_snapshot(tmp_path) == tmp_path / "s1000000"
    assert latest_snapshot(tmp_path, newer_than=999_999) == tmp_path / "s1000000"
    assert latest_snapshot(tmp_path, newer_than=1_000_000) is None


def test_the_newest_are_kept_and_nothing_else_is_touched(tmp_path):
    (tmp_path / "s00001").mkdir()
    (tmp_path / "s00001" / "manifest.json").write_text("mine")
    for step in (10, 20, 30, 40):
        write_snapshot(tmp_path, step=step, tensors=weights(step), keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s00001", "s000030", "s000040"]


def test_the_snapshot_just_written_stays_though_later_ones_are_there(tmp_path):
    for step in (200, 300, 100):
        write_snapshot(tmp_path, step=step, tensors=weights(step), keep=2)
    assert read_snapshot(tmp_path / "s000100").tower == tower_hash(weights(100))


def test_writing_a_step_again_replaces_it(tmp_path):
    write_snapshot(tmp_path, step=5, tensors=weights(0))
    write_snapshot(tmp_path, step=5, tensors=weights(1))
    assert read_snapshot(tmp_path / "s000005").tower == tower_hash(weights(1))
    assert [path.name for path in tmp_path.iterdir()] == ["s000005"]


def test_snapshots_beyond_the_step_of_a_resume_are_moved_aside(tmp_path):
    for step in (100, 200, 300):
        write_snapshot(tmp_path, step=step, tensors=weights(step), keep=3)
    moved = discard_snapshots_after(tmp_path, 150)
    assert latest_snapshot(tmp_path) == tmp_path / "s000100"
    assert [read_snapshot(path).step for path in moved] == [200, 300]


def test_refuses_damaged_and_missing_weights(tmp_path):
    path = write_snapshot(tmp_path, step=5, tensors=weights())
    file = path / "weights.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(BadInput, match="s000005: got weights with hash .* take a newer snapshot"):
        read_snapshot(path)
    file.write_bytes(whole[:-3])
    with pytest.raises(BadInput, match="s000005: cannot be read"):
        read_snapshot(path)
    with pytest.raises(BadInput, match="s000006: cannot be read"):
        read_snapshot(tmp_path / "s000006")


def test_a_full_disk_leaves_the_last_snapshot(tmp_path, monkeypatch):
    write_snapshot(tmp_path, step=5, tensors=weights())

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(aside, "write_synced", full)
    with pytest.raises(BadInput, match="disk full"):
        write_snapshot(tmp_path, step=6, tensors=weights())
    assert [path.name for path in tmp_path.iterdir()] == ["s000005"]
    assert read_snapshot(tmp_path / "s000005").tower == tower_hash(weights())
