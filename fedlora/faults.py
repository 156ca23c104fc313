"""How a command ends badly: one line that says what to do, and an exit code."""

from dataclasses import dataclass

from shared.errors import FedloraError

EXIT_TROUBLE = 1  # the world's fault: a service is away, a job failed
EXIT_MISTAKE = 2  # the person's: a file, an option, a job that cannot run


@dataclass(unsafe_hash=True)  # not frozen: Python sets __traceback__ on what is raised
class Fault(FedloraError):
    """Something a person must know: what is wrong, and what to do about it."""

    reason: str
    remedy: str = ""
    exit_code: int = EXIT_MISTAKE

    def __str__(self) -> str:
        return f"{self.reason}; {self.remedy}" if self.remedy else self.reason


def trouble(reason: str, remedy: str = "") -> Fault:
    """A fault that is not the person's."""
    return Fault(reason, remedy, EXIT_TROUBLE)
