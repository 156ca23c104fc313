"""A session's terms: one public document, kept as a blob, whose hash binds every message of the session."""

import hashlib
import math
from functools import cached_property, lru_cache

from pydantic import ValidationError

from shared.core.secagg import sealing
from shared.core.secagg.encoding import DividedNoise, Encoding
from shared.core.secagg.mpc3.terms import SKETCH_SIZES
from shared.core.secagg.mpc3.terms import Terms as Mpc3Terms
from shared.core.secagg.oneshot.packed_shamir import scheme_for
from shared.core.secagg.oneshot.terms import Terms as OneshotTerms
from shared.core.secagg.pairwise import graph
from shared.core.secagg.pairwise.terms import Terms as SecaggTerms
from shared.errors import Rejected
from shared.events.base import pack, unpack
from shared.events.ids import ClientId, GroupId, JobId, RoundId
from shared.events.plans import SessionPlan
from shared.events.values import BlobRef, Member, Value
from shared.job.plan import SECAGG_COLLUDING, SECAGG_LOST

DOMAIN = b"fedlora/session-terms/v1"
ROTATION_DOMAIN = b"fedlora/session-rotation/v1"
LARGEST_WEIGHT = 2**16  # of an update that a rule weighs: all weights are rounded to so many parts of it


class HolderKey(Value):
    """A key holder, and what shares for it are sealed to."""

    holder_id: ClientId
    verify_key: bytes
    sealing_key: bytes
    sealing_signature: bytes


class SessionTerms(Value):
    """What all parties of one session agree on.

    Attributes:
        members: every client that may take part.
        dimension: of an update.
        layout_sha256: of the adapter's layout.
        aggregation_key: what uploads are sealed to; one for each party of `mpc3`, one otherwise.
        server_key: Ed25519, signs survivor sets.
        public_seed: 32 random bytes, new for each session.
        committee: the key holders, in order; for oneshot.
        party_keys: Ed25519 of the parties 0, 1 and 2, the first is `server_key`; for mpc3.
    """

    job_id: JobId
    round_id: RoundId
    group_id: GroupId
    plan: SessionPlan
    members: dict[ClientId, Member]
    dimension: int
    layout_sha256: str
    aggregation_keys: tuple[bytes, ...]
    server_key: bytes
    public_seed: bytes
    committee: tuple[HolderKey, ...] = ()
    party_keys: tuple[bytes, ...] = ()

    def to_bytes(self) -> bytes:
        """msgpack, members in the order of their names."""
        fields = self.model_dump(mode="python")
        fields["members"] = dict(sorted(fields["members"].items()))
        return pack(fields)

    @classmethod
    def from_bytes(cls, content: bytes) -> "SessionTerms":
        """Inverse of `to_bytes`. Raises: Rejected for anything else.

        A session's terms are read at each of its stages, and by every client of one process: the last few
        are kept, by content. They are frozen.
        """
        return _read(content)

    @cached_property
    def digest(self) -> bytes:
        """32 bytes that stand for everything here: the protocols' public seed."""
        return hashlib.sha256(sealing.bind(DOMAIN, self.to_bytes())).digest()

    @cached_property
    def verify_keys(self) -> dict[str, bytes]:
        """By client."""
        return {client: member.verify_key for client, member in self.members.items()}

    def sender(self, participant: str) -> sealing.UploadContext:
        """What that participant's messages are bound to."""
        return sealing.UploadContext(self.job_id, self.round_id, self.group_id, participant)


@lru_cache(maxsize=8)
def _read(content: bytes) -> SessionTerms:
    try:
        return SessionTerms.model_validate(unpack(content))
    except ValidationError as error:
        raise Rejected(f"session terms: invalid {error.errors()[0]['loc']}") from None


@lru_cache(maxsize=4096)
def _verify(key: bytes, signature: bytes, message: bytes) -> None:
    """As `sealing.verify`; what held once holds again."""
    sealing.verify(key, signature, message)


def reference(content: bytes) -> BlobRef:
    """The name that a blob store gives to `content`."""
    return BlobRef(sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))


def check_committee(terms: SessionTerms) -> None:
    """Raises: Rejected unless the committee is as large as the job says and each holder signed its own
    sealing key, for this job or as a dedicated one.

    That `verify_key` is the holder's own is as true as the cohort's keys are.
    """
    dedicated = bool(terms.plan.committee)
    if dedicated and tuple(holder.holder_id for holder in terms.committee) != terms.plan.committee:
        raise Rejected("the committee is not the one that the job names")
    for holder in terms.committee:
        member = terms.members.get(holder.holder_id)
        if dedicated and member is not None:
            raise Rejected(f"{holder.holder_id} is a key holder and a client")
        if not dedicated and (member is None or member.verify_key != holder.verify_key):
            raise Rejected(f"key holder {holder.holder_id} is not in the cohort under this key")
        job_id = "" if dedicated else terms.job_id
        message = sealing.key_message(job_id, holder.holder_id, holder.sealing_key)
        try:
            _verify(holder.verify_key, holder.sealing_signature, message)
        except Rejected as error:
            raise Rejected(f"the sealing key of {holder.holder_id}: {error}") from None
    seats = min(terms.plan.holders, len(terms.members))
    if terms.plan.protocol == "oneshot" and not dedicated and len(terms.committee) != seats:
        raise Rejected(f"a committee of {len(terms.committee)} where {seats} of the cohort have a seat")


def encoding_of(terms: SessionTerms) -> Encoding:
    """How updates become small integers; the rotation, if any, is another one in each session.

    Raises: Refused where divided noise leaves no room.
    """
    plan, noise = terms.plan, terms.plan.noise
    seed = hashlib.sha256(sealing.bind(ROTATION_DOMAIN, terms.digest)).digest() if plan.rotate else None
    if noise is None:
        return Encoding(dimension=terms.dimension, bits=plan.bits, bound=plan.bound, rotation_seed=seed)
    divided = DividedNoise(noise.noise_multiplier, noise.sensitivity, noise.shares)
    return divided.encoding(terms.dimension, plan.bits, plan.bound, seed)


def oneshot_terms(terms: SessionTerms) -> OneshotTerms:
    """As protocol `oneshot` takes them.

    Raises: Refused for a combination that cannot work.
    """
    return OneshotTerms(
        job_id=terms.job_id,
        round_id=terms.round_id,
        group_id=terms.group_id,
        cohort=terms.verify_keys,
        holder_keys=tuple(holder.sealing_key for holder in terms.committee),
        server_key=terms.server_key,
        public_seed=terms.digest,
        dimension=encoding_of(terms).length,
        scheme=scheme_for(len(terms.committee)),
        fewest_survivors=terms.plan.fewest,
    )


def mpc3_terms(terms: SessionTerms) -> Mpc3Terms:
    """As protocol `mpc3` takes them: its group is named with the digest of these terms.

    Where a rule judges single updates there is a Gram matrix, for party 0, and a norm check, within whose
    bound every update of integers of so many bits is: no honest one is flagged.

    Raises: Refused for a combination that cannot work.
    """
    length, judged = encoding_of(terms).length, terms.plan.rule.single
    longest = (math.isqrt(length - 1) + 1) * 2 ** (terms.plan.bits - 1)
    return Mpc3Terms(
        job_id=terms.job_id,
        round_id=terms.round_id,
        group_id=f"{terms.group_id}/{terms.digest.hex()}",
        cohort=terms.verify_keys,
        party_keys=terms.party_keys,
        seal_keys=terms.aggregation_keys,
        dimension=length,
        sketch_size=SKETCH_SIZES[-1] if judged else 0,
        gram_opener=0,
        fewest_survivors=terms.plan.fewest,
        fewest_selected=terms.plan.selected,
        largest_weight=LARGEST_WEIGHT if judged else 1,
        norm_bound=longest if judged else None,
    )


def secagg_terms(terms: SessionTerms) -> SecaggTerms:
    """As protocol `secagg` takes them; who is whose neighbour follows from the cohort, for every party alike.

    Raises: Refused for a cohort that no graph suits.
    """
    return SecaggTerms(
        job_id=terms.job_id,
        round_id=terms.round_id,
        group_id=terms.group_id,
        cohort=terms.verify_keys,
        public_seed=terms.digest,
        dimension=encoding_of(terms).length,
        plan=_graph_of(len(terms.members)),
    )


@lru_cache(maxsize=64)
def _graph_of(clients: int) -> graph.Plan:
    return graph.plan(clients, SECAGG_LOST, SECAGG_COLLUDING)
