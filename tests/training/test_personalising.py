"""`fedlora personalise`, on a random BERT and a random Llama of two layers."""

import json
import re

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast
from typer.testing import CliRunner

from fedlora.__main__ import app
from fedlora.adapters import refuse_private
from fedlora.faults import Fault
from services.client.data import TokenRecord
from services.client.training.adapted_model import adapt
from services.client.training.layers import frozen_layers
from services.client.training.merging import load_adapter
from services.client.training.personalising import Training, personalise
from services.gateway.adapter import Parts, zipped_adapter
from shared.core.lora import to_safetensors
from shared.errors import Refused
from shared.job.loading import load_job
from shared.job.specification import Task
from tests.training.models import Padding, base, job, records
from tests.training.test_exports import unpacked

DEVICE = torch.device("cpu")
WORDS = [f"w{number}" for number in range(48)]
BERT = "{{base: {folder}/bert, task: sequence-classification, labels: [a, b, c]}}"
LLAMA = "{{base: {folder}/llama, task: causal-lm}}"
JOB = "name: notes\nmodel: {model}\ndata: {data}\nlora: {{rank: 4}}\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two models, an adapter of each, and records of one class in ten of eleven."""
    folder = tmp_path_factory.mktemp("personal")
    known = {"[PAD]": 0, "[UNK]": 1} | {word: number + 2 for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(known, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", eos_token="[UNK]"
    )
    for name, model, data in (
        ("bert", BERT, "{text: text, label: label}"),
        ("llama", LLAMA, "{text: text}"),
    ):
        base(name).save_pretrained(folder / name)
        fast.save_pretrained(folder / name)
        (folder / f"{name}.yaml").write_text(JOB.format(model=model.format(folder=folder), data=data))
        exported(load_job(folder / f"{name}.yaml"), name, folder / f"{name}-adapter")
    with (folder / "data.jsonl").open("w") as file:
        for number in range(110):
            text = " ".join(WORDS[(number * k) % 48] for k in range(1, 8))
            file.write(json.dumps({"text": text, "label": "b" if number % 11 == 0 else "c"}) + "\n")
    (folder / "empty.jsonl").write_text("")
    return folder


def exported(specification, family, path):
    model = adapt(base(family), Padding(), specification, DEVICE)
    parts = Parts(to_safetensors(model.trainable()))
    return unpacked(zipped_adapter(specification, model.layout, parts, "card"), path)


def run(folder, out, *options, of="bert", data="data.jsonl"):
    arguments = ["personalise", str(folder / f"{of}.yaml"), "--data", str(folder / data)]
    arguments += ["--adapter", str(folder / f"{of}-adapter"), "--out", str(folder / out), *options]
    return CliRunner().invoke(app, arguments)


@pytest.fixture(scope="module")
def personal(folder):
    """A head, trained by the command."""
    made = run(folder, "head", "--steps", "40", "--learning-rate", "0.02", "--json")
    assert made.exit_code == 0, made.output
    return json.loads(made.stdout)


def test_a_client_of_skewed_labels_gets_better_on_what_it_held_out(folder, personal):
    assert personal["kept"] == "after"
    assert personal["target"] == "head"
    assert personal["held_out"] + personal["trained_on"] == 110
    assert 10 <= personal["held_out"] <= 35
    assert personal["after"]["loss"] < 0.6 * personal["before"]["loss"]
    assert personal["after"]["accuracy"] > personal["before"]["accuracy"]


def test_the_folder_is_a_peft_adapter_that_says_it_is_private(folder, personal):
    out = folder / "head"
    assert (out / "README.md").read_text().startswith("PRIVATE: trained without privacy on one owner's")
    assert (out / "PRIVATE").exists()
    first, last = (
        load_file(folder / name / "adapter_model.safetensors") for name in ("bert-adapter", "head")
    )
    assert first.keys() == last.keys()
    moved = {name for name, tensor in first.items() if not torch.equal(tensor, last[name])}
    assert moved == {name for name in first if ".lora_" not in name}
    plain = AutoModelForSequenceClassification.from_pretrained(folder / "bert", num_labels=3)
    model = PeftModel.from_pretrained(plain, str(out))
    wanted = last["base_model.model.classifier.weight"]
    torch.testing.assert_close(model.base_model.model.classifier.weight.detach(), wanted)
    arguments = ["evaluate", str(folder / "bert.yaml"), "--data", str(folder / "data.jsonl"), "--json"]
    found = CliRunner().invoke(app, [*arguments, "--adapter", str(out)])
    assert json.loads(found.stdout)["value"] > 0.8


def test_a_private_folder_does_not_leave(folder, personal):
    for path in (folder / "head", folder / "head" / "adapter_model.safetensors"):
        made = CliRunner().invoke(app, ["job", "submit", str(folder / "bert.yaml"), "--start", str(path)])
        assert made.exit_code == 2
        assert "is PRIVATE" in made.stderr
    merged = CliRunner().invoke(
        app, ["merge", str(folder / "bert.yaml"), str(folder / "head"), str(folder / "merged")]
    )
    assert merged.exit_code == 0, merged.output
    with pytest.raises(Fault, match="PRIVATE"):
        refuse_private(folder / "merged")
    refuse_private(folder / "bert-adapter")


def test_a_language_model_trains_its_adapter(folder):
    made = run(folder, "lm", "--steps", "30", "--learning-rate", "0.01", "--json", of="llama")
    assert made.exit_code == 0, made.output
    found = json.loads(made.stdout)
    assert found["kept"] == "after"
    assert found["after"]["perplexity"] < found["before"]["perplexity"]
    assert found["target"] == "adapter"


def test_what_got_no_better_is_the_federation_s_adapter_and_said_so(folder):
    made = run(folder, "worse", "--steps", "20", "--learning-rate", "50")
    assert made.exit_code == 0, made.output
    assert "it got no better" in made.stdout
    assert "no lower" in (folder / "worse" / "README.md").read_text()
    first, last = (
        load_file(folder / name / "adapter_model.safetensors") for name in ("bert-adapter", "worse")
    )
    assert all(torch.equal(tensor, last[name]) for name, tensor in first.items())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"data": "empty.jsonl"}, "it holds no records"),
        ({"of": "llama", "options": ("--target", "head")}, "use --target adapter"),
        ({"out": "bert"}, "is not empty; name a new folder"),
        ({"data": "nowhere.jsonl"}, "is not a file"),
    ],
)
def test_a_mistake_is_one_line_and_makes_nothing(folder, options, said):
    out = options.get("out", "mistake")
    there = sorted((folder / out).iterdir()) if (folder / out).exists() else None
    given = {name: options[name] for name in ("of", "data") if name in options}
    made = run(folder, out, *options.get("options", ()), **given)
    assert made.exit_code == 2
    assert said in made.stderr
    assert re.fullmatch(r"[^\n]+\n", made.stderr)
    assert there == (sorted((folder / out).iterdir()) if (folder / out).exists() else None)


def test_too_few_records_to_hold_one_out_are_refused(tmp_path):
    model = load_adapter(base("bert"), exported(job("bert"), "bert", tmp_path / "a"), trainable=True)
    one: list[TokenRecord] = records("bert", [5])
    with pytest.raises(Refused, match="each side needs one"):
        personalise(model, one, Task.SEQUENCE_CLASSIFICATION, 0, Training("head", 1, 0.1, 0.2))


def test_a_changed_base_is_trained_on(tmp_path):
    specification = job("llama", method="fedex")
    adapter = exported(specification, "llama", tmp_path / "adapter")
    untouched = load_adapter(base("llama"), adapter)
    name, layer = next(iter(frozen_layers(untouched).items()))
    change = torch.ones_like(layer.loaded).numpy()
    (adapter / "base_change.safetensors").write_bytes(to_safetensors({name: change}))
    model = load_adapter(base("llama"), adapter, trainable=True)
    many = records("llama", [8] * 40)
    found = personalise(model, many, Task.CAUSAL_LM, 0, Training("adapter", 2, 0.001, 0.2))
    plain = personalise(untouched, many, Task.CAUSAL_LM, 0, Training("adapter", 2, 0.001, 0.2))
    assert found.before["loss"] != pytest.approx(plain.before["loss"])
    layers = frozen_layers(model)
    torch.testing.assert_close(layers[name].loaded, layer.loaded + layer.scale * torch.from_numpy(change))
