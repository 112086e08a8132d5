"""The floors of .importlinter hold, and the check can fail."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def lint_imports(root: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([*command, "--no-cache"], cwd=root, env=environment, capture_output=True, text=True)


def test_no_room_imports_a_higher_floor_or_its_sibling():
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_model_that_knows_the_index_is_refused(tmp_path):
    for package in ("realm_train", "data_prep"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ".importlinter", tmp_path)
    with open(tmp_path / "realm_train" / "models" / "realm.py", "a") as file:
        file.write("\nimport faiss\nfrom realm_train.index import store\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1
    assert "realm_train.models.realm -> realm_train.index.store" in done.stdout
    assert "faiss stays in index BROKEN" in done.stdout
