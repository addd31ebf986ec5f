"""What a command line does around its work, in processes of their own."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[1]
JOBS = sorted(path.stem for path in (ROOT / "jobs").glob("*.py"))
# None in sys.modules: importing it fails.
WITHOUT_SLOW_IMPORTS = """
import runpy, sys
sys.modules |= dict.fromkeys(("torch", "ray", "transformers"))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
LEAVES_A_CHILD = """
import subprocess, sys
from adapt_ray import cli
from adapt_ray.config import MineJob
from adapt_ray.errors import JobError

def body(job, dry_run):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    print(child.pid, flush=True)
    assert cli.end_at_once()
    raise JobError("no way on")

cli.main(MineJob, body, "test")
raise SystemExit("came back")
"""


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("job", JOBS)
def test_help_and_wrong_arguments_do_not_wait_for_imports(job: str) -> None:
    helped = python(WITHOUT_SLOW_IMPORTS, f"jobs/{job}.py", "--help")
    assert helped.returncode == 0, helped.stderr
    assert helped.stdout.startswith(f"usage: python jobs/{job}.py")
    refused = python(WITHOUT_SLOW_IMPORTS, f"jobs/{job}.py", "--no_such_field=1")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: unknown field 'no_such_field'")
    assert refused.stderr.count("\n") == 1


def test_a_forced_end_takes_child_processes_along_and_keeps_the_status() -> None:
    done = python(LEAVES_A_CHILD)
    assert (done.returncode, done.stderr) == (1, "error: no way on\n")
    _, alive = psutil.wait_procs(
        [psutil.Process(pid) for pid in map(int, done.stdout.split()) if psutil.pid_exists(pid)], 10
    )
    assert not alive
