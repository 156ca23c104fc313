"""Seconds and memory of `fedlora simulate`: python -m benchmarks.simulate 100 1000, on a small random BERT.

Prints, for each number of clients and protocol: seconds of each round, and the largest resident set of
this process and of one of the pool, in MiB. What runs beside it on the machine counts in the seconds.
"""

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

MODEL = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
RECORDS_EACH = 10
JOB = """name: simulated
model: {{base: {model}, task: sequence-classification, labels: [a, b, c]}}
data: {{text: text, label: label}}
lora: {{rank: 4}}
training: {{local_steps: 2}}
rounds: {{count: 2, min_clients: 10}}
aggregation: {{secure: {secure}}}
"""


def prepare(folder: Path, clients: int) -> None:
    """The model, the records and a job for each protocol."""
    import torch  # noqa: PLC0415 - only the simulated processes keep it
    from tokenizers import Tokenizer, models, pre_tokenizers  # noqa: PLC0415
    from transformers import (  # noqa: PLC0415
        BertConfig,
        BertForSequenceClassification,
        PreTrainedTokenizerFast,
    )

    words = [f"w{number}" for number in range(44)]
    known = {"[PAD]": 0, "[UNK]": 1} | {word: number + 2 for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(known, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    fast.save_pretrained(folder / "model")
    torch.manual_seed(7)
    config = BertConfig(**MODEL, intermediate_size=24, max_position_embeddings=64, num_labels=3)
    BertForSequenceClassification(config).save_pretrained(folder / "model")
    with (folder / "data.jsonl").open("w", encoding="utf-8") as file:
        for number in range(clients * RECORDS_EACH):
            text = " ".join(words[number * k % 44] for k in range(1, 8))
            file.write(json.dumps({"text": text, "label": "abc"[number % 3]}) + "\n")
    for secure in ("none", "oneshot"):
        job = JOB.format(model=folder / "model", secure=secure)
        (folder / f"{secure}.yaml").write_text(job, encoding="utf-8")


def measure(folder: Path, clients: int, secure: str) -> str:
    """One line of figures."""
    command = ["fedlora", "simulate", f"{folder}/{secure}.yaml", "--data", f"{folder}/data.jsonl", "--json"]
    command += ["--clients", str(clients), "--out", f"{folder}/{secure}"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        return f"{clients} clients, {secure}: {ended.stderr.strip().splitlines()[-1]}"
    outcome = json.loads(ended.stdout)
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return (
        f"{clients} clients, {secure}: rounds {outcome['seconds_a_round']} s; {largest:.0f} MiB at the most"
    )


def main() -> None:
    """Measure."""
    for clients in map(int, sys.argv[1:] or ["100"]):
        for secure in ("none", "oneshot"):
            with tempfile.TemporaryDirectory() as place:
                prepare(Path(place), clients)
                print(measure(Path(place), clients, secure), flush=True)


if __name__ == "__main__":
    main()
