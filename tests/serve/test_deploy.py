"""The container, and Prometheus beside it: files that fit together and to the service. No image is built here."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

pytest.importorskip("fastapi", reason="the service needs the extra serve")

from duotone.cli.main import app
from duotone.serve.metrics import Metrics
from duotone.serve.settings import ServeConfig

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def instructions() -> list[tuple[str, str]]:
    """Name and arguments of each instruction of the Dockerfile, lines that go on joined."""
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    whole = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in whole.splitlines())]


def arguments(name: str) -> str:
    return next(rest for found, rest in instructions() if found == name)


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    return found


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def program(name: str) -> str:
    """A program of the environment of this Python, or of the system; the test is skipped without it."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def test_the_dockerfile_has_no_lint() -> None:
    run(program("hadolint"), str(DEPLOY / "Dockerfile"))


def test_what_is_copied_is_there_and_sent_to_the_builder() -> None:
    sent = {
        line[1:]
        for line in (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
        if line[:1] == "!"
    }
    copied = {source for name, rest in instructions() if name == "COPY" for source in rest.split()[:-1]}
    assert copied == sent and all((ROOT / source).exists() for source in copied)


def test_the_container_starts_the_service_as_this_version_takes_it(tmp_path: Path) -> None:
    command = [*json.loads(arguments("ENTRYPOINT")), *json.loads(arguments("CMD"))]
    assert command[0] == "duotone"
    tokens = tmp_path / "tokens"
    tokens.write_text("correct-horse-battery\n")
    at = command.index("--tokens") + 1
    assert command[at] == "/run/secrets/duotone_tokens"
    command[at] = str(tokens)
    done = CliRunner().invoke(app, [*command[1:], "--print-config"])
    assert done.exit_code == 0, done.output
    shown = yaml.safe_load(done.stdout)
    assert (shown["host"], shown["port"]) == ("0.0.0.0", int(arguments("EXPOSE"))) and "tokens" not in shown
    assert f"127.0.0.1:{shown['port']}/health" in arguments("HEALTHCHECK")
    assert arguments("USER").split(":")[0].isdecimal()


def test_the_parts_of_the_compose_file_fit_together() -> None:
    found = compose()
    services = found["services"]
    for service in services.values():
        for port in service["ports"]:
            assert port.startswith("127.0.0.1:"), "nothing is opened to other machines"
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (DEPLOY / source).is_file() if source.startswith("./") else source in found["volumes"]
        assert set(service["secrets"]) <= set(found["secrets"])
    build = services["duotone"]["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).samefile(DEPLOY / "Dockerfile")
    folders = {volume.split(":")[1] for volume in services["duotone"]["volumes"]}
    environment = next(rest for name, rest in instructions() if name == "ENV")
    written = dict(pair.split("=") for pair in environment.split())
    assert {written["DUOTONE_CACHE"], written["TMPDIR"]} <= folders  # the rest of the file system is read-only
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8")
    assert "/deploy/*token*.txt" in ignored and all("token" in each["file"] for each in found["secrets"].values())


def test_prometheus_asks_the_service_with_a_token() -> None:
    (job,) = yaml.safe_load((DEPLOY / "prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"]
    assert job["static_configs"][0]["targets"] == [f"duotone:{ServeConfig().port}"]
    secret = Path(job["authorization"]["credentials_file"])
    assert secret.parent == Path("/run/secrets") and secret.name in compose()["services"]["prometheus"]["secrets"]


def test_alerts_ask_for_figures_that_the_service_has() -> None:
    metrics = Metrics()
    metrics.sound("jam", 0.5)
    metrics.began("jam", 0.5)
    metrics.refused.labels("share").inc()
    shown = metrics.text().decode()
    (group,) = yaml.safe_load((DEPLOY / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    asked = {name for rule in group["rules"] for name in re.findall(r"duotone_\w+", rule["expr"])}
    assert len(asked) >= 4
    for name in asked:
        assert re.search(rf"^{name}[ {{]", shown, re.MULTILINE), name
    for rule in group["rules"]:
        for edge in re.findall(r'le="([^"]+)"', rule["expr"]):
            assert f'duotone_deadline_slack_seconds_bucket{{kind="jam",le="{edge}"}}' in shown
        for label in re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())):
            assert label == "instance" or re.search(rf"[{{,]{label}=", shown), label


def test_prometheus_takes_its_files(tmp_path: Path) -> None:
    promtool = program("promtool")
    run(promtool, "check", "rules", str(DEPLOY / "alerts.yml"))
    text = (DEPLOY / "prometheus.yml").read_text(encoding="utf-8")
    (tmp_path / "token").touch()
    here = text.replace("/etc/prometheus/alerts.yml", str(DEPLOY / "alerts.yml")).replace(
        "/run/secrets/metrics_token", str(tmp_path / "token")
    )
    (tmp_path / "prometheus.yml").write_text(here)
    run(promtool, "check", "config", str(tmp_path / "prometheus.yml"))
