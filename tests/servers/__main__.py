"""Install the servers that the tests start: with apt as root, else unpacked beside the tests."""

import os
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.servers.process import UNPACKED, ServerMissing, program

PACKAGES = {
    "rabbitmq-server": "usr/lib/rabbitmq/bin/rabbitmq-server",
    "redis-server": "usr/bin/redis-server",
    "postgresql": "usr/lib/postgresql/*/bin",
}


def missing() -> list[str]:
    """Packages whose program is not there."""
    absent = []
    for package, path in PACKAGES.items():
        try:
            program(path)
        except ServerMissing:
            absent.append(package)
    return absent


def install(packages: list[str]) -> None:
    """With apt-get, without starting any system service."""
    policy = Path("/usr/sbin/policy-rc.d")
    created = not policy.exists()
    if created:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        command = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
        subprocess.run(command, check=True, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
    finally:
        if created:
            policy.unlink()


def unpack(packages: list[str]) -> None:
    """Download the packages and what they need, and unpack them without installing."""
    listed = subprocess.run(
        ["apt-get", "install", "-s", "--no-install-recommends", *packages],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    needed = re.findall(r"^Inst (\S+)", listed, flags=re.MULTILINE)
    UNPACKED.mkdir(exist_ok=True)
    with TemporaryDirectory() as folder:
        subprocess.run(["apt-get", "download", *needed], check=True, cwd=folder)
        for archive in sorted(Path(folder).glob("*.deb")):
            subprocess.run(["dpkg", "-x", archive, UNPACKED], check=True)
    for launcher in (UNPACKED / "usr/lib/erlang/bin").glob("erl"):  # its home is written into it
        text = re.sub(r"(?m)^ROOTDIR=.*$", f"ROOTDIR={UNPACKED / 'usr/lib/erlang'}", launcher.read_text())
        launcher.write_text(text)


def main() -> int:
    """Install what is missing; 0 when everything is there."""
    wanted = missing()
    if wanted:
        (install if os.getuid() == 0 else unpack)(wanted)
    left = missing()
    print("missing: " + ", ".join(left) if left else "every server is there")
    return bool(left)


if __name__ == "__main__":
    sys.exit(main())
