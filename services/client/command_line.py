"""What the worker's one-line commands share: a job, data, and mistakes as one line on stderr."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from services.client.trainer import DataError
from shared.core.privacy import NoiseNotFound
from shared.errors import Refused
from shared.job.loading import JobFileError


def parser(prog: str, data: str) -> argparse.ArgumentParser:
    """With --job and --data; `data` says what is read there."""
    made = argparse.ArgumentParser(prog=prog)
    made.add_argument("--job", type=Path, required=True, help="the job's YAML or JSON")
    made.add_argument("--data", type=Path, required=True, help=data)
    return made


def print_json(find: Callable[[], Mapping[str, Any]], mistake: int) -> int:
    """Print what `find()` gives as one line; the exit status, `mistake` for what a person can mend."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TQDM_DISABLE", "1")
    try:
        found = find()
    except (Refused, DataError, JobFileError, NoiseNotFound) as error:
        sys.stderr.write(f"{error}\n")
        return mistake
    sys.stdout.write(json.dumps(found) + "\n")
    return 0
