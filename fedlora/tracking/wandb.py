"""Weights & Biases: a run named after the job; offline where there is no key or WANDB_MODE says so."""

import os
from pathlib import Path
from typing import Literal

from fedlora.tracking.points import Point

PROJECT = "fedlora"


class WandB:
    """Figures of one job in one run. What is written is remembered beside the run's folder, since an
    offline run cannot be asked."""

    def __init__(self, job_id: str, folder: Path) -> None:
        import wandb  # noqa: PLC0415 - an extra

        folder.mkdir(parents=True, exist_ok=True)
        self._mark = folder / f"wandb-{job_id}.last"
        self.last = int(self._mark.read_text()) if self._mark.exists() else 0
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=job_id,
            name=job_id,
            dir=folder,
            mode=_mode(),
            resume="allow",
            settings=wandb.Settings(console="off", silent=True, x_disable_stats=True),
        )

    def write(self, point: Point) -> None:
        """Log the round at its number, then remember it."""
        self._run.log(dict(point.values), step=point.number, commit=True)
        self.last = point.number

    def close(self, over: bool) -> None:
        """Finish the run, which writes it, and then remember how far it is."""
        self._run.finish(exit_code=0)
        self._mark.write_text(str(self.last))


def _mode() -> Literal["online", "offline"]:
    asked = os.environ.get("WANDB_MODE", "")
    online = asked == "online" or (not asked and bool(os.environ.get("WANDB_API_KEY")))
    return "online" if online else "offline"
