"""Error feedback: what a round did not send is added to the next update."""

import numpy as np
from numpy.typing import NDArray

from shared.core.compression.random_k import RandomK, compress, expand
from shared.errors import Refused

FIELD = "compression.feedback"


def refuse_feedback(compression: RandomK, *, secure: bool) -> None:
    """Raises: Refused where error feedback has no guarantee.

    Under secure aggregation an update would carry what earlier rounds left over: no clip norm bounds one
    record's part in the sum, and noise that was shared out for one sum would have to cover several.
    Multiplied by d / k, what is left over can grow from round to round.
    """
    if secure:
        raise Refused(
            FIELD, "an upload would carry earlier rounds, which no clip norm bounds", "set it to false"
        )
    if compression.unbiased:
        raise Refused(FIELD, "its memory can grow when values are multiplied by d / k", "set unbiased: false")


def with_feedback(
    compression: RandomK, update: NDArray[np.float32], memory: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What a client uploads, and what it keeps for its next round.

    Args:
        compression: of the round, accepted by `refuse_feedback`.
        update: (d,), of the round.
        memory: (d,), from its last round; zero before its first. A client whose upload was lost goes on with
            the memory that it had, and its update is lost.

    Returns: (k,) and (d,); expanded, the first adds to the second to make `update + memory`.
    Raises: Rejected for another length.
    Source: Stich et al. 2018, arXiv:1809.07599, Algorithm 1; Karimireddy et al. 2019, arXiv:1901.09847.
    """
    whole = update + memory
    sent = compress(compression, whole)
    return sent, whole - expand(compression, sent)
