"""Classify any corpus with an exported model; labels are not needed.

python jobs/predict.py --model models/demo --data.source texts.jsonl --output predictions
python jobs/predict.py --model s3://bucket/model --data.source s3://bucket/texts.parquet \\
    --data.columns '[id]' --output s3://bucket/predictions --resources.workers 8
"""

from adapt_ray import cli
from adapt_ray.config import PredictJob

cli.answer_early(PredictJob, __name__)  # before torch and Ray, which take seconds to import

from adapt_ray.distributed.predict import Prediction
from adapt_ray.distributed.session import Session


def predict(job: PredictJob, dry_run: bool) -> None:
    """Classify what is not yet, and say where it lies and how well it went."""
    with Session(job.resources, output=job.output) as session:
        prediction = Prediction(job, session)
        if dry_run:
            print(cli.table(prediction.status()))
            return
        prediction.run()
        print(cli.table(prediction.result()))


if __name__ == "__main__":
    raise SystemExit(cli.main(PredictJob, predict))
