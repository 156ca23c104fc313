"""compose.yaml and deploy/ against the code they start: names, settings, secrets, files."""

import importlib
import importlib.util
import inspect
import pkgutil
import re
from pathlib import Path

import pytest
import yaml
from pydantic_settings import BaseSettings

import services
from shared.adapters import infrastructure

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
CONTAINERS = COMPOSE["services"]
COLLECTOR = yaml.safe_load((ROOT / "deploy/otel/collector.yaml").read_text())
DOCKERFILE = (ROOT / "deploy/Dockerfile").read_text()


def environment(container):
    return CONTAINERS[container].get("environment", {})


def python_modules():
    """Container -> module of `python -m module`."""
    commands = {name: container.get("command", []) for name, container in CONTAINERS.items()}
    return {name: command[2] for name, command in commands.items() if command[:2] == ["python", "-m"]}


def variables_of(settings):
    """The environment variables that a settings class reads."""
    prefix = settings.model_config.get("env_prefix", "")
    return {f"{prefix}{field}".upper() for field in settings.model_fields}


def settings_classes():
    """Every settings class of the services and of the infrastructure they share."""
    modules = [infrastructure]
    for package in pkgutil.iter_modules(services.__path__):
        name = f"services.{package.name}.settings"
        if importlib.util.find_spec(name):
            modules.append(importlib.import_module(name))
    return {
        value
        for module in modules
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, BaseSettings) and value is not BaseSettings
    }


def test_every_service_of_the_map_is_started_and_exists():
    modules = set(python_modules().values())
    packages = {f"services.{package.name}" for package in pkgutil.iter_modules(services.__path__)}
    assert modules == packages
    for module in modules:
        assert importlib.util.find_spec(f"{module}.__main__"), module
    assert set(re.findall(r"services\.\w+", DOCKERFILE)) <= modules


def test_every_setting_given_is_one_that_the_code_reads():
    known = set().union(*map(variables_of, settings_classes()))
    given = {name for container in CONTAINERS for name in environment(container)}
    given |= set(re.findall(r"\bFEDLORA_\w+(?==)", DOCKERFILE))
    assert {name for name in given if name.startswith("FEDLORA_")} - known == set()


@pytest.mark.parametrize("path", ["compose.yaml", "deploy/Dockerfile"])
def test_no_secret_is_written_down(path):
    text = (ROOT / path).read_text()
    assert not re.search(r"://\w*:(?!\$\{)[^@/\s{}]+@", text), "a password within an address"
    for line in text.splitlines():
        if re.search(r"^\s*\w*(PASSWORD|PASS|SECRET|SECRET_ACCESS_KEY|CLI_AUTH)\w*\s*[:=]", line):
            assert re.search(r"\$\{\w+:\?", line), f"{line.strip()}: no demand for a value"


def test_the_passwords_that_compose_demands_are_those_that_new_env_writes():
    demanded = set(re.findall(r"\$\{(\w+_PASSWORD):\?", (ROOT / "compose.yaml").read_text()))
    (line,) = re.findall(r"for name in ([A-Z_ ]+);", (ROOT / "deploy/new_env.sh").read_text())
    assert demanded == set(line.split())


def test_whoever_is_waited_for_can_be_waited_for():
    for name, container in CONTAINERS.items():
        for needed, how in container.get("depends_on", {}).items():
            assert needed in CONTAINERS, f"{name} needs {needed}"
            if how["condition"] == "service_healthy":
                assert "healthcheck" in CONTAINERS[needed], f"{name} waits for the health of {needed}"


def test_mounted_files_exist_and_named_volumes_are_declared():
    for container in CONTAINERS.values():
        for volume in container.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("./"):
                assert (ROOT / source).is_file(), source
            elif not source.startswith("$"):
                assert source in COMPOSE["volumes"], source


def test_ports_are_published_on_this_machine_only():
    published = [port for container in CONTAINERS.values() for port in container.get("ports", [])]
    assert published and all(port.startswith("127.0.0.1:") for port in published)


def test_our_containers_run_without_rights():
    for name in python_modules():
        assert CONTAINERS[name]["cap_drop"] == ["ALL"] and CONTAINERS[name]["read_only"]
    for stage in ("service", "worker"):
        body = re.search(rf"^FROM runtime AS {stage}$(.*?)(?=^FROM|\Z)", DOCKERFILE, re.M | re.S)
        assert body and "USER 10001" in body[1]
        assert {CONTAINERS[name]["build"]["target"] for name in python_modules()} == {"service", "worker"}


def test_what_the_image_copies_is_in_the_build_context():
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.M):
        for source in sources.split():
            assert (ROOT / source).exists() and source.rstrip("/") in allowed, source


def test_the_collector_uses_what_it_declares_and_sends_to_containers_that_exist():
    for pipeline in COLLECTOR["service"]["pipelines"].values():
        for kind, names in pipeline.items():
            assert set(names) <= set(COLLECTOR[kind])
    assert COLLECTOR["exporters"]["otlp/jaeger"]["endpoint"].split(":")[0] in CONTAINERS
    endpoint = environment("coordinator")["OTEL_EXPORTER_OTLP_ENDPOINT"]
    port = COLLECTOR["receivers"]["otlp"]["protocols"]["http"]["endpoint"].split(":")[1]
    assert endpoint == f"http://otel-collector:{port}"
    prometheus = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    targets = [t for job in prometheus["scrape_configs"] for c in job["static_configs"] for t in c["targets"]]
    assert {target.split(":")[0] for target in targets} <= set(CONTAINERS)
    exported = COLLECTOR["exporters"]["prometheus"]["endpoint"].split(":")[1]
    assert f"otel-collector:{exported}" in targets


def test_the_broker_keeps_an_upload_unanswered_for_longer_than_a_round():
    lines = (ROOT / "deploy/rabbitmq/rabbitmq.conf").read_text().splitlines()
    settings = dict(re.split(r"\s*=\s*", line) for line in lines if line and not line.startswith("#"))
    assert int(settings["consumer_timeout"]) >= 12 * 3600 * 1000
    assert int(settings["tcp_listen_options.sndbuf"]) == int(settings["tcp_listen_options.recbuf"]) == 196_608
    assert int(settings["raft.wal_max_size_bytes"]) == 64 * 2**20
    plugins = (ROOT / "deploy/rabbitmq/enabled_plugins").read_text().strip()
    assert re.fullmatch(r"\[(rabbitmq_\w+,?)+\]\.", plugins) and "rabbitmq_prometheus" in plugins
