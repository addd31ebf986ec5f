"""Checks what a job will need before it is submitted.

    python -m adapt_ray doctor [JOB] [RECIPE.yaml] [--FIELD VALUE ...]

JOB is mine, sensitivity, finetune, sweep (when none is named), stability, prompt or predict, and
what follows are its own arguments:

    python -m adapt_ray doctor sweep jobs/recipes/demo.yaml
    ray job submit --working-dir . -- python -m adapt_ray doctor sweep --storage s3://bucket/runs

Looks at versions, Ray, the storage from every node, devices, compiled kernels and the model, says
what is wrong, and prints what belongs into a bug report. Exit status 0: all is well.

    python -m adapt_ray onnx FOLDER

writes an exported model as ONNX into its folder, checked against torch.
"""

import sys

from adapt_ray import cli
from adapt_ray.config import (
    FinetuneJob,
    Job,
    MineJob,
    PredictJob,
    PromptJob,
    SensitivityJob,
    StabilityJob,
    SweepJob,
)

_JOBS: dict[str, type[Job] | type[PredictJob]] = {
    "mine": MineJob,
    "sensitivity": SensitivityJob,
    "finetune": FinetuneJob,
    "sweep": SweepJob,
    "stability": StabilityJob,
    "prompt": PromptJob,
    "predict": PredictJob,
}


def main() -> int:
    """Run the command that the arguments name."""
    if sys.argv[1:2] == ["onnx"]:
        from adapt_ray import onnx_export  # torch takes seconds, --help should not

        return onnx_export.main(sys.argv[2:])
    if sys.argv[1:2] != ["doctor"] or sys.argv[2:] in (["-h"], ["--help"]):
        asked = sys.argv[1:2] in (["doctor"], ["-h"], ["--help"])
        print(__doc__, file=sys.stdout if asked else sys.stderr)
        return 0 if asked else 2
    name = sys.argv[2] if len(sys.argv) > 2 and sys.argv[2] in _JOBS else "sweep"
    del sys.argv[1 : 3 if name in sys.argv[2:3] else 2]
    prog = f"python -m adapt_ray doctor {name}"
    cli.answer_early(_JOBS[name], __name__, prog)
    from adapt_ray.distributed.doctor import doctor  # Ray takes seconds, --help should not

    return cli.main(_JOBS[name], doctor, prog)


if __name__ == "__main__":
    raise SystemExit(main())
