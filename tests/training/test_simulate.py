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
rounds: {{count: 2, min_clients: 4{more}}}
aggregation: {{secure: {secure}}}
{evaluation}"""


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
    some = {"more": ", clients_per_round: 6", "evaluation": "evaluation: {every: 1}\n"}
    jobs = {"none": some, "oneshot": {"more": "", "evaluation": ""}}
    for secure, more in jobs.items():
        job = JOB.format(model=folder / "model", secure=secure, **more)
        (folder / f"{secure}.yaml").write_text(job)
    (folder / "refused.yaml").write_text(job.replace("count: 2,", "count: 2, selection: bandwidth,"))
    return folder


def run(folder, out, *options, secure="none", clients=8, data="data.jsonl"):
    arguments = ["simulate", str(folder / f"{secure}.yaml"), "--data", str(folder / data)]
    arguments += ["--clients", str(clients), "--out", str(folder / out), "--json", *options]
    return CliRunner().invoke(app, arguments)


def adapter(folder, out):
    return hashlib.sha256((folder / out / "adapter" / "adapter_model.safetensors").read_bytes()).hexdigest()


@pytest.mark.parametrize(("secure", "drop"), [("none", "0")])
def test_a_seed_gives_its_adapter_whatever_the_processes(folder, secure, drop):
    """Under `none` with six of eight clients asked and an evaluation."""
    for out, options in {
        f"{secure}-one": ("--processes", "1", "--seed", "3", "--drop", drop),
        f"{secure}-two": ("--processes", "2", "--seed", "3", "--drop", drop),
    }.items():
        ended = run(folder, out, *options, secure=secure)
        assert ended.exit_code == 0, ended.output
        outcome = json.loads(ended.stdout)
        assert (outcome["status"], outcome["clients"]) == ("completed", 8)
        assert ("it dropped out" in ended.stderr) == (drop != "0")
        assert (folder / out / "report.html").is_file()
    assert adapter(folder, f"{secure}-one") == adapter(folder, f"{secure}-two")
    if secure == "none":
        assert run(folder, "other", "--processes", "1", "--seed", "4").exit_code == 0
        assert adapter(folder, "other") != adapter(folder, "none-one")


@pytest.mark.parametrize(
    ("clients", "options", "secure", "said"),
    [
        (3, (), "none", "3 clients, the job wants 4"),
        (301, (), "none", "300 records for 301 clients"),
        (8, ("--partition", "zipf"), "none", "write iid"),
        (8, ("--partition", "by:nothing"), "none", "no column nothing"),
        (8, (), "refused", "rounds.selection"),
    ],
)
def test_a_mistake_is_said_in_a_line_before_anything_starts(folder, clients, options, secure, said):
    ended = run(folder, "never", *options, secure=secure, clients=clients)
    assert ended.exit_code == 2 and said in ended.output
    assert "Traceback" not in ended.output and len(ended.stderr.strip().splitlines()) <= 2
    assert not (folder / "never").exists()
