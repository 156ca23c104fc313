"""Frozen values that several events carry."""

import hashlib
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from shared.core.privacy import AdaptiveClipping, Mechanism, Pure, Skellam
from shared.events.ids import ClientId, ReservationId, Sha256
from shared.job.evaluation import evaluation_mechanism
from shared.job.plan import (
    mechanism_of,
)
from shared.job.specification import JobSpecification


class Value(BaseModel):
    """A frozen part of an event."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class BlobRef(Value):
    """Content in the blob store, named by what it is."""

    sha256: Sha256
    size_bytes: Annotated[int, Field(ge=0)]


class TensorSpec(Value):
    """One tensor of the adapter, under its PEFT state-dict name.

    A frozen tensor (FFA's A) is derived from the job's public seed and never travels.
    """

    name: Annotated[str, Field(max_length=300)]
    shape: tuple[PositiveInt, ...]
    trainable: bool


class Layout(Value):
    """The adapter's tensors in canonical order (sorted by name)."""

    tensors: tuple[TensorSpec, ...]

    @property
    def dimension(self) -> int:
        """Number of trained parameters d: the length of an update."""
        total = 0
        for tensor in self.tensors:
            if tensor.trainable:
                size = 1
                for extent in tensor.shape:
                    size *= extent
                total += size
        return total

    @property
    def trainable(self) -> tuple[TensorSpec, ...]:
        """The tensors that are trained, in the order in which an update is flattened."""
        return tuple(tensor for tensor in self.tensors if tensor.trainable)

    @property
    def sha256(self) -> str:
        """Digest of names, shapes and trainable flags: two clients agree iff these are equal."""
        lines = "".join(f"{t.name} {list(t.shape)} {t.trainable}\n" for t in self.tensors)
        return hashlib.sha256(lines.encode()).hexdigest()


class PoissonSampled(Value):
    """`steps` releases of a clipped sum over Poisson-sampled records plus noise.

    Attributes:
        kind: `poisson-gaussian`, a client's own; `poisson-skellam`, of a sum over clients, on integers;
            `pure`: (1 / `noise_multiplier`, 0)-private, of all records, whatever it is.
        sampling_rate: q, the probability that a record joins a step; the sample is secret.
        noise_multiplier: standard deviation of the noise over the clip norm, or over what a record moves the
            integers by; of everything that a step releases together.
        bits_noise_multiplier: of the clipping bits that adaptive clipping releases beside the sum, which
            then has the noise that is left of `noise_multiplier`; None without.
        l2_sensitivity: for integers: a record moves them by as much as so many steps in L2, at the least.
        steps: compositions.
    """

    kind: Literal["poisson-gaussian", "poisson-skellam", "pure"] = "poisson-gaussian"
    sampling_rate: Annotated[float, Field(gt=0, le=1)]
    noise_multiplier: Annotated[float, Field(gt=0)]
    bits_noise_multiplier: Annotated[float | None, Field(gt=0)] = None
    l2_sensitivity: Annotated[float | None, Field(gt=0)] = None
    steps: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def _of_its_kind(self) -> Self:
        if (self.kind == "poisson-skellam") != (self.l2_sensitivity is not None):
            raise ValueError("a sensitivity in steps belongs to integers, and they need one")
        if self.l2_sensitivity is not None and self.bits_noise_multiplier is not None:
            raise ValueError("no clipping bits are released beside integers")
        if self.kind == "pure" and (self.sampling_rate != 1 or self.bits_noise_multiplier is not None):
            raise ValueError("what is pure asks all records, and releases no clipping bits")
        return self

    @model_validator(mode="after")
    def _noise_is_left_for_the_sum(self) -> Self:
        bits = self.bits_noise_multiplier
        if bits is not None and bits <= self.noise_multiplier:
            raise ValueError("bits with so little noise leave none for the sum")
        return self

    @classmethod
    def of_round(cls, specification: JobSpecification, noise_multiplier: float) -> Self:
        """What one client releases in one round of the job."""
        return cls.of(mechanism_of(specification, noise_multiplier, specification.training.local_steps))

    @classmethod
    def of_evaluation(cls, specification: JobSpecification) -> Self:
        """What one client releases in one evaluation of the job."""
        return cls.of(evaluation_mechanism(specification))

    @classmethod
    def of(cls, mechanism: Mechanism) -> Self:
        """Inverse of `core`."""
        bits = mechanism.bits_noise_multiplier if isinstance(mechanism, AdaptiveClipping) else None
        moved = mechanism.l2_sensitivity if isinstance(mechanism, Skellam) else None
        by_integers = "poisson-gaussian" if moved is None else "poisson-skellam"
        return cls(
            kind="pure" if isinstance(mechanism, Pure) else by_integers,
            sampling_rate=mechanism.sampling_rate,
            noise_multiplier=mechanism.noise_multiplier,
            bits_noise_multiplier=bits,
            l2_sensitivity=moved,
            steps=mechanism.steps,
        )

    def core(self) -> Mechanism:
        """As the accountants take it."""
        basics = self.sampling_rate, self.noise_multiplier, self.steps
        if self.kind == "pure":
            return Pure(*basics)
        if self.l2_sensitivity is not None:
            return Skellam.of_any_dimension(*basics, self.l2_sensitivity)
        if self.bits_noise_multiplier is not None:
            return AdaptiveClipping(*basics, bits_noise_multiplier=self.bits_noise_multiplier)
        return Mechanism(*basics)


class Reservation(Value):
    """What one client may spend in one round, and where it stands if it does.

    Attributes:
        epsilon_after: the client's epsilon at `delta` over this job once the round is spent.
    """

    reservation_id: ReservationId
    client_id: ClientId
    mechanism: PoissonSampled
    epsilon_after: float
    epsilon_limit: float
    delta: float


class Member(Value):
    """A client of one group, as whoever sums its update must know it.

    Attributes:
        verify_key: Ed25519, of everything that it signs.
        sealing_key: what is sealed to it as a key holder in this job; empty when it holds none.
        sealing_signature: its own, over `sealing.key_message`.
        weight: public factor on its update, in (0, 1].
    """

    verify_key: Annotated[bytes, Field(min_length=32, max_length=32)]
    sealing_key: bytes = b""
    sealing_signature: bytes = b""
    weight: Annotated[float, Field(gt=0, le=1)] = 1.0
