"""TensorBoard: event files in DIR/JOB."""

from pathlib import Path

from fedlora.tracking.points import Point


class TensorBoard:
    """Scalars of one job in event files."""

    def __init__(self, job_id: str, folder: Path) -> None:
        from tensorboard.backend.event_processing.event_accumulator import (  # noqa: PLC0415 - an extra
            SCALARS,
            EventAccumulator,
        )
        from tensorboard.summary.writer.event_file_writer import EventFileWriter  # noqa: PLC0415 - as above

        where = folder / job_id
        where.mkdir(parents=True, exist_ok=True)
        written = EventAccumulator(str(where), size_guidance={SCALARS: 0})
        written.Reload()
        self.last = max(
            (point.step for tag in written.Tags()["scalars"] for point in written.Scalars(tag)), default=0
        )
        self._events = EventFileWriter(str(where))

    def write(self, point: Point) -> None:
        """One event with every figure of the round."""
        from tensorboard.compat.proto.event_pb2 import Event  # noqa: PLC0415 - an extra
        from tensorboard.compat.proto.summary_pb2 import Summary  # noqa: PLC0415 - as above

        values = [Summary.Value(tag=name, simple_value=value) for name, value in sorted(point.values.items())]
        self._events.add_event(Event(step=point.number, wall_time=point.ended, summary=Summary(value=values)))
        self._events.flush()
        self.last = point.number

    def close(self, over: bool) -> None:
        """Close the event file."""
        self._events.close()
