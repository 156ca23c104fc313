"""Which job, round and client a message is about, read from its envelope alone."""

import re

from shared.events.base import Channel, Envelope

_ROUND = re.compile(r"(?P<job>.+)-r\d+")  # shared.events.ids.round_id_of


def subject_of(envelope: Envelope) -> dict[str, str]:
    """Some of `job_id`, `round_id` and `client_id`; the body is never looked at."""
    subject: dict[str, str] = {}
    correlation = envelope.correlation_id
    if match := _ROUND.fullmatch(correlation):
        subject = {"job_id": match["job"], "round_id": correlation}
    elif correlation:
        subject = {"job_id": correlation}
    words = envelope.routing_key.split(".")
    if envelope.channel is Channel.UP and len(words) > 1:
        subject["client_id"] = words[1]
    elif envelope.channel is Channel.DOWN:
        subject["client_id"] = words[-1]
    return subject
