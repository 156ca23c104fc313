"""Sessions, one a group: what is durable of them. The rest are held messages, which the broker repeats."""

from typing import ClassVar

from pydantic import AwareDatetime

from shared.events import HolderSeen
from shared.events.values import BlobRef
from shared.ports import State
from shared.sessions.terms import HolderKey

UPLOAD = "upload"
SUMMED, FAILED, ABORTED = "summed", "failed", "aborted"


class Session(State):
    """One group's session.

    Attributes:
        protocol: a name in the table of protocols.
        groups: of the round.
        enough: complete uploads that end the upload stage; None: all are waited for, until the deadline.
        stage: of the protocol, or how it ended.
        decided: stage -> the clients who go on from it; never changed once it is there.
        declined: client -> why it sends nothing.
        refused: client -> what was wrong with what it sent.
    """

    kind: ClassVar[str] = "session"

    job_id: str
    round_id: str
    group_id: str
    groups: int = 1
    protocol: str
    terms: BlobRef
    deadline: AwareDatetime
    enough: int | None = None
    opened_at: AwareDatetime | None = None
    stage: str
    decided: dict[str, tuple[str, ...]] = {}
    declined: dict[str, str] = {}
    refused: dict[str, str] = {}

    @property
    def key(self) -> tuple[str, ...]:
        """Job, round, group."""
        return (self.job_id, self.round_id, self.group_id)

    @property
    def open(self) -> bool:
        """Whether it still takes messages."""
        return self.stage not in (SUMMED, FAILED, ABORTED)

    @property
    def early(self) -> bool:
        """Whether the upload stage ended with enough, and not with all or at the deadline."""
        return self.enough is not None and len(self.decided.get(UPLOAD, ())) >= self.enough

    @property
    def out(self) -> dict[str, str]:
        """Who is not waited for, and why."""
        return {**self.declined, **self.refused}


class Relayed(State):
    """Whose shares were passed on to the committee."""

    kind: ClassVar[str] = "relayed"

    session: tuple[str, ...]
    clients: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, ...]:
        """The session."""
        return self.session


class RoundOver(State):
    """A round was aborted, perhaps before its session was asked for."""

    kind: ClassVar[str] = "round-over"

    job_id: str
    round_id: str

    @property
    def key(self) -> tuple[str, ...]:
        """Job, round."""
        return (self.job_id, self.round_id)


class KeyHolder(State):
    """A dedicated key holder; its verify key is the one it first came with."""

    kind: ClassVar[str] = "key-holder"

    holder: HolderKey

    @property
    def key(self) -> tuple[str, ...]:
        """Its name."""
        return (self.holder.holder_id,)

    @classmethod
    def of(cls, event: HolderSeen) -> "KeyHolder":
        """As it announced itself."""
        return cls(
            holder=HolderKey(
                holder_id=event.client_id,
                verify_key=event.verify_key,
                sealing_key=event.sealing_key,
                sealing_signature=event.sealing_signature,
            )
        )
