"""The command line: `fedlora ...` or `python -m fedlora ...`."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from fedlora import authority, clients, hub, jobs, ledger, limits
from fedlora.adapters import frames, merge
from fedlora.api_client import DEFAULT_URL
from fedlora.audit import audit
from fedlora.console import complain
from fedlora.demo import demo
from fedlora.faults import EXIT_MISTAKE, EXIT_TROUBLE, Fault
from fedlora.jobs import AsJson, GatewayUrl, JobName
from fedlora.personalising import personalise
from fedlora.plan import plan
from fedlora.reporting import report
from fedlora.rules import rules
from fedlora.simulation.command import simulate_command
from fedlora.tracking.command import track
from fedlora.up import up
from fedlora.workers import worker
from shared.errors import FedloraError, Refused
from shared.job.loading import JobFileError


class Commands(TyperGroup):
    """Commands whose expected errors are one clear line and an exit code, never a traceback."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - typer's own types vary between its versions
        """Run the command; say what went wrong."""
        try:
            return super().invoke(ctx)
        except Fault as fault:
            complain(f"fedlora: {fault}")
            raise typer.Exit(fault.exit_code) from None
        except (JobFileError, Refused) as mistake:
            complain(str(mistake))
            raise typer.Exit(EXIT_MISTAKE) from None
        except FedloraError as error:
            complain(f"fedlora: {error}")
            raise typer.Exit(EXIT_TROUBLE) from None


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Federated, private LoRA fine-tuning of language models.",
)
app.add_typer(authority.app, name="ca")
app.add_typer(jobs.app, name="job")
app.add_typer(clients.app, name="client")
app.add_typer(hub.app, name="hub")
app.add_typer(ledger.app, name="ledger")
app.add_typer(limits.app, name="limits")
app.command()(audit)
app.command()(frames)
app.command()(merge)
app.command()(demo)
app.command()(personalise)
app.command()(plan)
app.command()(report)
app.command()(rules)
app.command("simulate")(simulate_command)
app.command()(track)
app.command()(up)
app.command()(worker)


@app.command()
def init() -> None:
    """Make queues and tables for services that run on their own; reads the FEDLORA_ variables."""
    from fedlora.console import say  # noqa: PLC0415 - starts the command line faster
    from fedlora.topology import prepare  # noqa: PLC0415 - as above
    from shared.adapters.infrastructure import Endpoints  # noqa: PLC0415 - as above

    prepare(Endpoints())
    say("queues and tables are there")


@app.command("trace")
def trace_(
    round_id: Annotated[str, typer.Argument(metavar="ROUND", help="id of a round, such as JOB-r1")],
    file: Annotated[
        Path | None, typer.Option(help="span file; default: traces.jsonl of the federation's home")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Draw a round's trace: every service and worker, with durations."""
    from fedlora import trace  # noqa: PLC0415 - starts the command line faster
    from fedlora.console import emit_json, out, say  # noqa: PLC0415 - as above
    from shared.adapters.infrastructure import Endpoints  # noqa: PLC0415 - as above

    found = trace.load(file or Endpoints().traces_path, round_id)
    if as_json:
        emit_json(trace.as_json(found))
    elif out.is_terminal:
        out.print(trace.draw(found, title=round_id))
    else:
        say(trace.plain(found))


@app.command()
def export(
    job_id: JobName,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="a folder that is made")],
    gateway: GatewayUrl = DEFAULT_URL,
) -> None:
    """Write a job's adapter as a folder that `PeftModel.from_pretrained` loads."""
    from fedlora.export import export_adapter  # noqa: PLC0415 - starts the command line faster

    export_adapter(job_id, folder, gateway)


@app.command()
def evaluate(
    file: Annotated[Path, typer.Argument(help="the job file")],
    data: Annotated[Path, typer.Option(help="held-out records, in the job's columns")],
    adapter: Annotated[Path | None, typer.Option(help="adapter folder; without it, the base model")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure perplexity or accuracy on held-out records."""
    from fedlora.evaluation import evaluate_command  # noqa: PLC0415 - starts the command line faster

    evaluate_command(file, data, adapter, as_json)


def main() -> None:
    """The entry point."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
