"""Tokenised records are read back as they were, by their owner alone, and only for the same job and data."""

import json

import pytest

from services.client.data import Record, TokenCache, TokenRecord
from shared.job.specification import JobSpecification

RECORDS = [Record("", "one two"), Record("ask", "answer")]
TOKENS = [TokenRecord((1, 2, 3), (-100, 2, 3)), TokenRecord((4,), (4,))]


class Tokenizer:
    """As much of a tokenizer as the cache looks at."""

    chat_template = None

    def __init__(self, words=("a", "b")):
        self._words = words

    def get_vocab(self):
        return {word: number for number, word in enumerate(self._words)}


def job(**changed):
    value = {
        "name": "t",
        "model": {"base": "m", "task": "causal-lm", "max_length": changed.pop("max_length", 32)},
        "data": {"text": "text"},
        **changed,
    }
    return JobSpecification.model_validate(value)


@pytest.fixture
def made():
    calls = []

    def make():
        calls.append(1)
        return TOKENS

    make.calls = calls
    return make


def test_the_second_time_they_come_from_disk(tmp_path, made):
    cache = TokenCache(tmp_path / "tokens")
    for _ in range(2):
        assert cache.tokens(RECORDS, Tokenizer(), job(), made) == TOKENS
    assert len(made.calls) == 1


@pytest.mark.parametrize(
    "other",
    [
        (RECORDS[:1], Tokenizer(), job()),
        (RECORDS, Tokenizer(("a", "c")), job()),
        (RECORDS, Tokenizer(), job(max_length=16)),
        (RECORDS, Tokenizer(), job(training={"loss_on": "all"})),
    ],
    ids=["records", "vocabulary", "length", "loss"],
)
def test_anything_that_they_depend_on_makes_them_anew(tmp_path, made, other):
    cache = TokenCache(tmp_path)
    cache.tokens(RECORDS, Tokenizer(), job(), made)
    cache.tokens(*other, made)
    assert len(made.calls) == 2


@pytest.mark.parametrize("cut", [0, 10, -1])
def test_a_damaged_file_is_made_anew(tmp_path, made, cut):
    cache = TokenCache(tmp_path)
    cache.tokens(RECORDS, Tokenizer(), job(), made)
    (path,) = tmp_path.glob("*.npz")
    path.write_bytes(path.read_bytes()[:cut])
    assert cache.tokens(RECORDS, Tokenizer(), job(), made) == TOKENS
    assert len(made.calls) == 2


def test_only_the_owner_may_read_them(tmp_path, made):
    TokenCache(tmp_path / "tokens").tokens(RECORDS, Tokenizer(), job(), made)
    (path,) = (tmp_path / "tokens").glob("*.npz")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_old_ones_are_removed(tmp_path, made):
    cache = TokenCache(tmp_path)
    for length in range(8, 18):
        cache.tokens(RECORDS, Tokenizer(), job(max_length=length), made)
    assert len(list(tmp_path.glob("*"))) == 4


def test_no_text_is_in_the_name(tmp_path, made):
    TokenCache(tmp_path).tokens(RECORDS, Tokenizer(), job(), made)
    (path,) = tmp_path.glob("*.npz")
    assert len(path.stem) == 64
    assert "two" not in json.dumps(path.name)
