"""Records as token ids, with the positions that are learnt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from services.client.data.reading import Record
from services.client.trainer import Progress
from shared.job.specification import JobSpecification

IGNORED = -100  # a position without loss
PROGRESS_EVERY = 500


@dataclass(frozen=True)
class TokenRecord:
    """One record; `targets` are aligned with `ids` for a language model, or one class index."""

    ids: tuple[int, ...]
    targets: tuple[int, ...]


def tokenise(
    records: Sequence[Record],
    tokenizer: Any,  # noqa: ANN401 - transformers' tokenizers share no public type
    job: JobSpecification,
    progress: Progress = lambda phase, done, of: None,
) -> list[TokenRecord]:
    """Token ids cut to the job's `max_length`; a record without a learnt position learns nothing."""
    opening = _opening(tokenizer) if any(record.prompt for record in records) else []
    made = []
    for number, record in enumerate(records):
        if number % PROGRESS_EVERY == 0:
            progress("tokenising", number, len(records))
        made.append(_tokenise(record, tokenizer, job, opening))
    return made


def _tokenise(
    record: Record,
    tokenizer: Any,  # noqa: ANN401
    job: JobSpecification,
    opening: Sequence[Mapping[str, str]],
) -> TokenRecord:
    longest = job.model.max_length
    if record.label is not None:
        ids = tokenizer(record.text, truncation=True, max_length=longest)["input_ids"]
        return TokenRecord(tuple(ids), (record.label,))
    prompt, response = _parts(record, tokenizer, opening)
    response = response[: longest - 1] if prompt else response[:longest]
    prompt = prompt[max(0, len(prompt) + len(response) - longest) :]
    learnt_prompt = prompt if job.training.loss_on == "all" else [IGNORED] * len(prompt)
    return TokenRecord((*prompt, *response), (*learnt_prompt, *response))


def _parts(
    record: Record,
    tokenizer: Any,  # noqa: ANN401
    opening: Sequence[Mapping[str, str]],
) -> tuple[list[int], list[int]]:
    """(prompt ids, response ids with the end-of-text token)."""
    end = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    response = list(tokenizer(record.text, add_special_tokens=False)["input_ids"]) + end
    if not record.prompt:
        start = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else end
        return start, response
    if getattr(tokenizer, "chat_template", None):
        prompt = _chat(tokenizer, [*opening, {"role": "user", "content": record.prompt}])
    else:
        prompt = f"{record.prompt}\n"
    return list(tokenizer(prompt, add_special_tokens=False)["input_ids"]), response


def _opening(tokenizer: Any) -> list[dict[str, str]]:  # noqa: ANN401
    """An empty system message where the template would put a long one of its own before every record."""
    if not getattr(tokenizer, "chat_template", None):
        return []
    empty, user = {"role": "system", "content": ""}, {"role": "user", "content": "?"}
    try:
        shorter = len(_chat(tokenizer, [empty, user])) < len(_chat(tokenizer, [user]))
    except TemplateError:  # a template without a system role
        return []
    return [empty] if shorter else []


def _chat(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> str:  # noqa: ANN401
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
