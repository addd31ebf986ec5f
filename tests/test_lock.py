"""The lock: everything has hashes, names no index, and says what constraints.txt says."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = (ROOT / "requirements.lock").read_text()
BY_BUILD = ("torch==", "triton==", "nvidia-", "cuda-")  # differ by the build of PyTorch


def entries() -> list[tuple[str, list[str]]]:
    """Return every requirement, its marker included, and the hashes of its files."""
    blocks = re.split(r"\n(?=\S)", LOCK.partition("\n")[2])
    return [
        (block.partition(" \\")[0].strip(), re.findall(r"--hash=sha256:([0-9a-f]{64})", block))
        for block in blocks
    ]


def test_every_file_has_a_hash() -> None:
    assert len(entries()) > 200
    for requirement, hashes in entries():
        assert re.match(r"[a-z0-9-]+==\S+( ; .+)?$", requirement)
        assert hashes


def test_no_index_is_named_and_pytorch_is_apart() -> None:
    assert "://" not in LOCK
    assert "--index" not in LOCK
    assert not [requirement for requirement, _ in entries() if requirement.startswith(BY_BUILD)]


def test_the_constraints_are_the_same_versions_and_pytorch() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    versions = [line for line in lines if not line.startswith("#")]
    torch = re.search(r'"(torch==[\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert torch
    assert sorted(versions) == sorted([*(requirement for requirement, _ in entries()), torch[1]])
