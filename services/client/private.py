"""A folder of what was trained without privacy says so, in a file that other commands look for."""

from pathlib import Path

MARKER = "PRIVATE"
WARNING = "PRIVATE: trained without privacy on one owner's records; do not publish or upload."


def mark(folder: Path) -> None:
    """Make `folder` and mark it, before anything private is written into it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).write_text(f"{WARNING}\n", encoding="utf-8")
