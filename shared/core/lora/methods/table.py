"""Every LoRA method."""

from collections.abc import Mapping

from shared.core.lora.methods import fedex, fedit, fedsb, ffa, flexlora, flora, rolora
from shared.core.lora.methods.method import Method

METHODS: Mapping[str, Method] = {
    "ffa": ffa.METHOD,
    "fedit": fedit.METHOD,
    "rolora": rolora.METHOD,
    "fedsb": fedsb.METHOD,
    "flora": flora.METHOD,
    "fedex": fedex.METHOD,
    "flexlora": flexlora.METHOD,
}
