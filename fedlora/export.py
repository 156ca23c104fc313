"""`fedlora export`: a job's adapter as a folder."""

import io
import zipfile
from pathlib import Path

from fedlora.adapters import new_folder
from fedlora.api_client import GatewayClient
from fedlora.console import say


def export_adapter(job_id: str, folder: Path, gateway: str) -> None:
    """Write the adapter of `job_id` into `folder`. Raises: Fault when the folder is in use."""
    new_folder(folder)
    with GatewayClient(gateway) as client:
        content = client.adapter(job_id)
    unzip(content, folder)
    say(f"{folder}: " + ", ".join(sorted(file.name for file in folder.iterdir())))


def unzip(content: bytes, folder: Path) -> None:
    """Write the archive's files, by their plain names, into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for member in archive.namelist():
            (folder / Path(member).name).write_bytes(archive.read(member))
