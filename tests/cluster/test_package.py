"""What `ray job submit --working-dir .` sends to a cluster, by Ray's own packaging."""

import logging
import os
import subprocess
import sys
import zipfile
from pathlib import Path

from ray._private.runtime_env.packaging import _zip_files

ROOT = Path(__file__).resolve().parents[2]
SENT = {"adapt_ray", "jobs", "cluster", "pyproject.toml", "constraints.txt"}


def package(folder: Path) -> Path:
    target = folder / "package.zip"
    quiet = logging.getLogger("packaging")
    _zip_files(str(ROOT), [], str(target), include_gitignore=True, logger=quiet)
    return target


def test_the_package_is_small_and_holds_code_alone(tmp_path: Path) -> None:
    sent = package(tmp_path)
    assert sent.stat().st_size < 1_500_000  # Ray does not compress
    with zipfile.ZipFile(sent) as archive:
        names = archive.namelist()
    first = {name.split("/")[0] for name in names}
    documents = {name for name in first if name.endswith((".md", ".yml", ".yaml"))}
    others = {"LICENSE", "Makefile", *documents, *(n for n in first if n.startswith("."))}
    assert first <= SENT | others
    kinds = {Path(name).suffix for name in names if not name.endswith("/")}
    assert not kinds & {".parquet", ".safetensors", ".pyc", ".ipynb", ".png", ".so"}


def test_a_job_runs_from_the_package_alone(tmp_path: Path) -> None:
    with zipfile.ZipFile(package(tmp_path)) as archive:
        archive.extractall(tmp_path / "there")
    code = "import adapt_ray, jobs.sweep; print(adapt_ray.__file__)"
    there = tmp_path / "there"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=there,
        env=os.environ | {"PYTHONPATH": str(there)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(there)
