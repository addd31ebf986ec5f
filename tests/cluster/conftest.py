"""What the tests of the cluster files and of documented commands share."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def root() -> Path:
    """Return the folder of the project."""
    return ROOT


@pytest.fixture(scope="session")
def pinned_ray() -> str:
    """Return the version of Ray that constraints.txt pins."""
    found = re.search(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M)
    assert found
    return found[1]
