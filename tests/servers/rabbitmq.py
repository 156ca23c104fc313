"""A private RabbitMQ node with its own name, ports, cookie and data."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.servers.process import answers, free_port, program, running, stop


@dataclass
class RabbitServer:
    """A node that can be stopped and started again with its data, on the same port."""

    folder: Path
    port: int
    environment: dict[str, str]
    binaries: Path
    tls_port: int = 0
    management_port: int = 0
    process: subprocess.Popen[bytes] | None = None

    def url(self, vhost: str = "%2F", user: str = "guest", password: str = "guest") -> str:
        """AMQP URL of a virtual host."""
        return f"amqp://{user}:{password}@127.0.0.1:{self.port}/{vhost}"

    def management_url(self) -> str:
        """Of the HTTP API."""
        return f"https://guest:guest@localhost:{self.management_port}"

    def tls_url(self, vhost: str = "%2F") -> str:
        """AMQP URL of a virtual host, for a login by certificate."""
        return f"amqps://localhost:{self.tls_port}/{vhost}?auth=external"

    def control(self, *arguments: str) -> str:
        """rabbitmqctl on this node."""
        done = subprocess.run(
            [self.binaries / "rabbitmqctl", "-n", self.environment["RABBITMQ_NODENAME"], *arguments],
            check=False,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=90,
        )
        if done.returncode:
            raise RuntimeError(f"rabbitmqctl {arguments[0]}: {done.stderr or done.stdout}")
        return done.stdout

    def add_vhost(self, name: str) -> str:
        """A fresh virtual host; its URL."""
        self.evaluate(
            f'rabbit_vhost:add(<<"{name}">>, <<"tests">>), '
            f'rabbit_auth_backend_internal:set_permissions(<<"guest">>, <<"{name}">>, '
            '<<".*">>, <<".*">>, <<".*">>, <<"tests">>).'
        )
        return self.url(name)

    def evaluate(self, expression: str) -> str:
        """Run Erlang in the node."""
        return self.control("eval", expression)

    def stop(self) -> None:
        """Stop the node; what is durable stays."""
        if self.process is not None:
            stop(self.process)
            self.process = None

    def kill(self) -> None:
        """End the node without a chance to tidy up."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@dataclass(frozen=True)
class Certificates:
    """Files of the node's own certificate, and of the authority that its clients must be of."""

    authority: Path
    certificate: Path
    key: Path


@contextmanager
def rabbitmq_server(certificates: Certificates | None = None) -> Iterator[RabbitServer]:
    """A node while it runs: with default settings and the user guest; with certificates it listens for TLS 1.3
    alone, beside no other port, and lets nobody in but by a certificate."""
    binaries = program("usr/lib/rabbitmq/bin/rabbitmq-server").parent
    with TemporaryDirectory(prefix="fedlora-rabbitmq-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        server = RabbitServer(folder, free_port(), {}, binaries)
        server.environment = _environment(folder, server.port)
        if certificates is not None:
            server.tls_port, server.management_port = server.port, free_port()
            _demand_certificates(folder, server, certificates)
        with epmd(server), started(server):
            yield server


@contextmanager
def started(server: RabbitServer) -> Iterator[None]:
    """Run the node, again if need be, until the block ends or it is stopped."""
    command = [server.binaries / "rabbitmq-server"]
    with running(
        command, lambda: answers(server.port), log=server.folder / "log", env=server.environment
    ) as process:
        server.process = process
        try:
            yield
        finally:
            server.stop()


@contextmanager
def epmd(server: RabbitServer) -> Iterator[None]:
    """The node's own name daemon, which would otherwise outlive it."""
    port = server.environment["ERL_EPMD_PORT"]
    command = [program("usr/bin/epmd", "usr/lib/erlang/erts-*/bin/epmd"), "-port", port]
    with running(command, lambda: answers(int(port)), log=server.folder / "epmd.log", env=server.environment):
        yield


def _demand_certificates(folder: Path, server: RabbitServer, certificates: Certificates) -> None:
    files = {"cacertfile": certificates.authority, "certfile": certificates.certificate}
    files["keyfile"] = certificates.key
    management = "".join(f"management.ssl.{name} = {path}\n" for name, path in files.items())
    (folder / "rabbitmq.conf").write_text(
        f"listeners.tcp = none\nlisteners.ssl.default = 127.0.0.1:{server.tls_port}\n"
        f"management.ssl.ip = 127.0.0.1\nmanagement.ssl.port = {server.management_port}\n{management}"
        "management.ssl.versions.1 = tlsv1.3\nmanagement.ssl.verify = verify_peer\n"
        "management.ssl.fail_if_no_peer_cert = true\n"
        f"ssl_options.cacertfile = {certificates.authority}\n"
        f"ssl_options.certfile = {certificates.certificate}\n"
        f"ssl_options.keyfile = {certificates.key}\n"
        "ssl_options.versions.1 = tlsv1.3\nssl_options.verify = verify_peer\n"
        "ssl_options.fail_if_no_peer_cert = true\nssl_options.depth = 1\n"
        "auth_mechanisms.1 = EXTERNAL\nssl_cert_login_from = common_name\n"
        "log.console = false\nvm_memory_high_watermark.absolute = 1GB\ndisk_free_limit.absolute = 50MB\n"
        "raft.wal_max_size_bytes = 16777216\n"
    )
    (folder / "plugins").write_text("[rabbitmq_auth_mechanism_ssl,rabbitmq_management].\n")


def _environment(folder: Path, port: int) -> dict[str, str]:
    (folder / "rabbitmq.conf").write_text(
        f"listeners.tcp.default = 127.0.0.1:{port}\nlog.console = false\n"
        "vm_memory_high_watermark.absolute = 1GB\ndisk_free_limit.absolute = 50MB\n"
        "raft.wal_max_size_bytes = 16777216\n"
    )
    (folder / "plugins").write_text("[].\n")
    erlang = program("usr/bin/erl", "usr/lib/erlang/bin/erl").parent
    return {
        "PATH": f"{erlang}:{os.environ.get('PATH', '/usr/bin:/bin')}",
        "HOME": str(folder),
        "LANG": "C.UTF-8",
        "RABBITMQ_NODENAME": f"fedlora{port}@localhost",
        "ERL_EPMD_PORT": str(free_port()),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_MNESIA_BASE": str(folder / "data"),
        "RABBITMQ_LOG_BASE": str(folder / "logs"),
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "RABBITMQ_PID_FILE": str(folder / "pid"),
        "RABBITMQ_CONF_ENV_FILE": "/dev/null",
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2",
    }
