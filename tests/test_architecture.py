"""What may import what."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "adapt_ray"
COMMAND = PACKAGE / "__main__.py"  # like those in jobs/, it may name the distributed layer
CORE = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if "distributed" not in path.parts and path != COMMAND
)


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_core_imports_with_ray_absent() -> None:
    imports = "\n".join(f"import {name}" for name in CORE)
    run(f"import sys\nsys.modules['ray'] = None\n{imports}")


def test_only_the_distributed_layer_names_ray() -> None:
    for path in PACKAGE.rglob("*.py"):
        if "distributed" in path.parts or path == COMMAND:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                assert name.split(".")[0] != "ray", f"{path} imports {name}"
                assert not name.startswith("adapt_ray.distributed"), f"{path} imports {name}"


@pytest.mark.parametrize("heavy", ["torch", "ray", "transformers", "datasets"])
def test_mining_needs_nothing_heavy(heavy: str) -> None:
    code = (
        f"import sys; sys.modules[{heavy!r}] = None\n"
        "from adapt_ray import mine_closed\n"
        "print(mine_closed([[1, 2], [1, 9, 2]], min_support=2))"
    )
    assert run(code) == "{(1, 2): 2}"
