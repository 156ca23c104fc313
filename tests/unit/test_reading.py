"""Every format of a client's data reads the same, and a bad file says what is wrong with it."""

import csv
import json

import pyarrow as pa
import pytest
from pyarrow import parquet

from services.client.data import Record, read_records
from services.client.trainer import DataError
from shared.job.specification import Data, Model

CLASSES = Model(base="b", task="sequence-classification", labels=("no", "yes"))
LANGUAGE = Model(base="b", task="causal-lm")
ROWS = [{"text": "good, really", "label": "yes"}, {"text": "bad", "label": "no"}]


def written(path, rows):
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        parquet.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("name", ["d.jsonl", "d.csv", "d.parquet"])
def test_a_table_reads_the_same_from_every_format(tmp_path, name):
    records, skipped = read_records(written(tmp_path / name, ROWS), Data(text="text", label="label"), CLASSES)
    assert records == [Record("", "good, really", 1), Record("", "bad", 0)]
    assert skipped == ()


@pytest.mark.parametrize("name", ["d.jsonl", "d.csv", "d.parquet"])
def test_prompts_and_responses_have_columns_of_their_own(tmp_path, name):
    path = written(tmp_path / name, [{"question": "hi?", "answer": "hello"}])
    records, _ = read_records(path, Data(prompt="question", response="answer"), LANGUAGE)
    assert records == [Record("hi?", "hello")]


def test_plain_text_is_one_record_a_line(tmp_path):
    path = tmp_path / "d.txt"
    path.write_text("first\n\n  \nsecond\n")
    assert [r.text for r in read_records(path, Data(text="text"), LANGUAGE)[0]] == ["first", "second"]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("d.xlsx", b"PK", "is not JSONL"),
        ("d.csv", b"text\n\xff\xfe\n", "not UTF-8"),
        ("d.parquet", b"nothing", "not Parquet"),
        ("d.jsonl", b"", "no records"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(tmp_path, name, content, reason):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=reason):
        read_records(path, Data(text="text"), LANGUAGE)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_records(tmp_path / "none.jsonl", Data(text="text"), LANGUAGE)
