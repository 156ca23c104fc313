"""MLflow: a run named after the job, in MLFLOW_TRACKING_URI or a SQLite file in DIR."""

import os
from pathlib import Path

from fedlora.tracking.points import Point

EXPERIMENT = "fedlora"
JOB_TAG = "fedlora.job"
WRITTEN = "fedlora.last_round"


class MLflow:
    """Metrics of one job in one run, found again by the job's tag."""

    def __init__(self, job_id: str, folder: Path) -> None:
        from mlflow.tracking import MlflowClient  # noqa: PLC0415 - an extra

        address = os.environ.get("MLFLOW_TRACKING_URI", "")
        if not address:
            folder.mkdir(parents=True, exist_ok=True)
            address = f"sqlite:///{(folder / 'mlflow.db').resolve()}"
        self._client = MlflowClient(address)
        known = self._client.get_experiment_by_name(EXPERIMENT)
        experiment = known.experiment_id if known else self._client.create_experiment(EXPERIMENT)
        found = self._client.search_runs([experiment], f"tags.`{JOB_TAG}` = '{job_id}'", max_results=1)
        run = (
            found[0]
            if found
            else self._client.create_run(experiment, run_name=job_id, tags={JOB_TAG: job_id})
        )
        self._run = run.info.run_id
        self.last = int(run.data.tags.get(WRITTEN, "0"))

    def write(self, point: Point) -> None:
        """Log the round's figures and then which round they are of, in one request."""
        from mlflow.entities import Metric, RunTag  # noqa: PLC0415 - an extra

        at = round(point.ended * 1000)
        metrics = [Metric(name, value, at, point.number) for name, value in sorted(point.values.items())]
        self._client.log_batch(self._run, metrics, tags=[RunTag(WRITTEN, str(point.number))])
        self.last = point.number

    def close(self, over: bool) -> None:
        """End the run when the job is over."""
        if over:
            self._client.set_terminated(self._run)
