"""Tokenised records kept on the owner's disk, so that a restarted worker does not tokenise again."""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import astuple
from itertools import pairwise
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from services.client.data.reading import Record
from services.client.data.tokens import TokenRecord
from shared.job.specification import JobSpecification

KEPT = 4  # data sets; the oldest goes first


class TokenCache:
    """A folder that its owner alone may read: it holds private records."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def tokens(
        self,
        records: Sequence[Record],
        tokenizer: Any,  # noqa: ANN401 - transformers' tokenizers share no public type
        job: JobSpecification,
        make: Callable[[], list[TokenRecord]],
    ) -> list[TokenRecord]:
        """What `make()` gives, from disk where the same records were tokenised in the same way before."""
        path = self._folder / f"{_key(records, tokenizer, job)}.npz"
        found = _read(path)
        if found is not None:
            path.touch()
            return found
        made = make()
        self._write(path, made)
        return made

    def _write(self, path: Path, tokens: Sequence[TokenRecord]) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            ids, targets = [t.ids for t in tokens], [t.targets for t in tokens]
            np.savez(
                file,
                ids=_joined(ids),
                id_ends=_ends(ids),
                targets=_joined(targets),
                target_ends=_ends(targets),
            )
        partial.replace(path)
        kept = sorted(self._folder.glob("*.npz"), key=lambda p: p.stat().st_mtime, reverse=True)
        for old in kept[KEPT:]:
            old.unlink(missing_ok=True)


def _key(records: Sequence[Record], tokenizer: Any, job: JobSpecification) -> str:  # noqa: ANN401
    """Changes with anything that the tokens depend on."""
    digest = hashlib.sha256(f"{job.model.model_dump_json()}{job.training.loss_on}".encode())
    backend = getattr(tokenizer, "backend_tokenizer", None)
    vocabulary = backend.to_str() if backend is not None else repr(sorted(tokenizer.get_vocab().items()))
    digest.update(f"{vocabulary}{getattr(tokenizer, 'chat_template', '')}".encode())
    for record in records:
        digest.update(repr(astuple(record)).encode())
    return digest.hexdigest()


def _read(path: Path) -> list[TokenRecord] | None:
    """None when there is nothing, or nothing whole."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            ids = _parts(arrays["ids"], arrays["id_ends"])
            targets = _parts(arrays["targets"], arrays["target_ends"])
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None
    return [TokenRecord(*both) for both in zip(ids, targets, strict=True)]


def _joined(sequences: Sequence[Sequence[int]]) -> NDArray[np.int32]:
    return np.array([value for sequence in sequences for value in sequence], np.int32)


def _ends(sequences: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    return np.cumsum([len(sequence) for sequence in sequences], dtype=np.int64)


def _parts(values: NDArray[np.int32], ends: NDArray[np.int64]) -> list[tuple[int, ...]]:
    whole = values.tolist()
    return [tuple(whole[start:end]) for start, end in pairwise([0, *ends.tolist()])]
