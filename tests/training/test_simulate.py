"""`fedlora simulate` as people run it, on a random BERT of two layers."""

import hashlib
import json

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast
from typer.testing import CliRunner

from fedlora.__main__ import app

JOB = """name: simulated
model: {{base: {model}, task: sequence-classification, labels: [a, b, c]}}
data: {{text: text, label: label}}
lora: {{rank: 4}}
training: {{local_steps: 2}}
rounds: {{count: 2, min_clients: 10}}
aggregation: {{secure: {secure}}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulate")
    words = [f"w{number}" for number in range(44)]
    known = {"[PAD]": 0, "[UNK]": 1} | {word: number + 2 for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(known, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    fast.save_pretrained(folder / "model")
    torch.manual_seed(7)
    small = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(**small, intermediate_size=24, max_position_embeddings=64, num_labels=3)
    BertForSequenceClassification(config).save_pretrained(folder / "model")
    with (folder / "data.jsonl").open("w") as file:
        for number in range(300):
            text = " ".join(words[number * k % 44] for k in range(1, 8))
            file.write(json.dumps({"text": text, "label": "abc"[number % 3]}) + "\n")
    for secure in ("none", "oneshot"):
        (folder / f"{secure}.yaml").write_text(JOB.format(model=folder / "model", secure=secure))
    return folder


def run(folder, out, *options, secure="none", clients=30):
    arguments = ["simulate", str(folder / f"{secure}.yaml"), "--data", str(folder / "data.jsonl")]
    arguments += ["--clients", str(clients), "--out", str(folder / out), "--json", *options]
    return CliRunner().invoke(app, arguments)


def adapter(folder, out):
    return hashlib.sha256((folder / out / "adapter" / "adapter_model.safetensors").read_bytes()).hexdigest()


def test_a_seed_gives_its_adapter_whatever_the_order_and_another_seed_another(folder):
    for out, options in {
        "one": ("--processes", "1", "--seed", "3"),
        "two": ("--processes", "2", "--seed", "3"),
        "other": ("--processes", "2", "--seed", "4"),
    }.items():
        ended = run(folder, out, *options)
        assert ended.exit_code == 0, ended.output
    assert adapter(folder, "one") == adapter(folder, "two") != adapter(folder, "other")
    assert (folder / "one" / "report.html").is_file()


def test_clients_drop_out_of_a_secure_sum_and_the_rounds_complete(folder):
    ended = run(folder, "dropped", "--drop", "0.1", "--processes", "1", secure="oneshot")
    assert ended.exit_code == 0, ended.output
    outcome = json.loads(ended.stdout)
    assert (outcome["status"], outcome["rounds"], outcome["clients"]) == ("completed", 2, 30)
    assert "it dropped out" in ended.stderr


@pytest.mark.parametrize(
    ("clients", "options", "said"),
    [
        (5, (), "5 clients, the job wants 10"),
        (301, (), "300 records for 301 clients"),
        (30, ("--partition", "zipf"), "write iid"),
    ],
)
def test_a_mistake_is_said_before_anything_starts(folder, clients, options, said):
    ended = run(folder, "never", *options, clients=clients)
    assert ended.exit_code == 2 and said in ended.output
    assert not (folder / "never").exists()
