"""From chunks, in any order, to whole uploads; a sender's mistakes are remembered with its name."""

from dataclasses import dataclass, field

from shared.core.secagg import chunks, sealing
from shared.errors import Rejected
from shared.events import UpdateSubmitted


@dataclass
class Pieces:
    """Of one session: chunks of incomplete uploads, and the digest of each complete one, by client."""

    incomplete: dict[str, tuple[str, dict[int, bytes]]] = field(default_factory=dict)
    complete: dict[str, str] = field(default_factory=dict)

    def take(self, event: UpdateSubmitted, size: int) -> bytes | None:
        """Take in one authentic chunk of an upload of `size` bytes; the upload once it is whole.

        Raises: Rejected for a chunk that does not fit, or one of a second upload with other contents.
        """
        client = event.client_id
        if client in self.complete:
            if self.complete[client] != event.upload_sha256:
                raise Rejected("a second upload with other contents")
            return None
        if event.count != chunks.count_for(size):
            raise Rejected(f"{event.count} chunks, {chunks.count_for(size)} expected")
        if event.index >= event.count or len(event.payload) != chunks.size_of(event.index, size):
            raise Rejected(f"chunk {event.index} holds {len(event.payload)} bytes")
        sha256, pieces = self.incomplete.setdefault(client, (event.upload_sha256, {}))
        if sha256 != event.upload_sha256:
            raise Rejected("two uploads with different contents")
        pieces[event.index] = event.payload
        if len(pieces) < event.count:
            return None
        del self.incomplete[client]
        whole = chunks.join(pieces, sha256)
        self.complete[client] = sha256
        return whole

    def drop(self, client: str) -> None:
        """Forget what an upload that is refused has left."""
        self.incomplete.pop(client, None)


def authenticate(event: UpdateSubmitted, verify_key: bytes) -> None:
    """Raises: Rejected unless the client signed this chunk."""
    sender = sealing.UploadContext(event.job_id, event.round_id, event.group_id, event.client_id)
    message = sealing.signing_message(sender, event.index, event.count, event.upload_sha256, event.payload)
    sealing.verify(verify_key, event.signature, message)
