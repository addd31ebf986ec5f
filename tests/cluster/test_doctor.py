"""The doctor's round over a real cluster, of which one node does not share the storage."""

from pathlib import Path

import pytest

from local import LocalCluster

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_the_doctor_finds_what_is_wrong_with_one_node(tmp_path: Path, tiny_model: str) -> None:
    storage = tmp_path / "shared"
    storage.mkdir()
    command = ["python", "-m", "adapt_ray", "doctor", "mine", f"--model.name={tiny_model}"]
    with LocalCluster() as cluster:
        well = cluster.run(*command, f"--storage={storage}", capture_output=True, cwd=tmp_path)
        assert well.returncode == 0, well.stdout + well.stderr
        assert "1 node(s), with token authentication" in well.stdout
        assert "PROBLEM" not in well.stdout
        assert "For a bug report" in well.stdout

        try:
            cluster.start_node(hide=storage)
        except RuntimeError:
            pytest.skip("hiding a folder from a node takes root on Linux")
        ill = cluster.run(*command, f"--storage={storage}", capture_output=True, cwd=tmp_path)
        assert ill.returncode == 1, ill.stdout + ill.stderr
        problems = [line for line in ill.stdout.splitlines() if line.startswith("PROBLEM")]
        assert len(problems) == 1
        assert f"{cluster.nodes[1].address} does not see there" in problems[0]
        assert ill.stderr.strip().endswith("error: 1 problem(s); see above")
