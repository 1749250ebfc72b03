"""Dockerfile, docker-compose.yml and .env.example say what docs/install.md and the seed promise."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE = (ROOT / "docker-compose.yml").read_text()
EXAMPLE = (ROOT / ".env.example").read_text()
VARIABLES = re.findall(r"^(\w+)=", EXAMPLE, re.MULTILINE)


def compose() -> list[str]:
    """The command that reads compose files here; skips if there is none."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]):
            done = subprocess.run([*command, "version"], capture_output=True, check=False)
            if done.returncode == 0:
                return command
    pytest.skip("no docker compose here (Debian: apt install docker-compose)")


def test_compose_file_is_valid_and_the_example_is_its_env(tmp_path):
    command = compose()
    shutil.copy(ROOT / "docker-compose.yml", tmp_path)
    shutil.copy(ROOT / ".env.example", tmp_path / ".env")
    done = subprocess.run(
        [*command, "config"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "VEILNET_CONFLUX_TOKEN: your-conflux-token" in done.stdout
    assert "privileged" not in done.stdout


def test_container_gets_one_capability_and_a_device_and_is_not_root():
    assert "privileged" not in re.sub(r"#.*", "", COMPOSE)
    assert re.findall(r"cap_(\w+):\n +- (\w+)\n", COMPOSE) == [
        ("drop", "ALL"),
        ("add", "NET_ADMIN"),
    ]
    assert re.search(r"devices:\n +- /dev/net/tun\n", COMPOSE)
    assert re.findall(r"^USER (\w+)$", DOCKERFILE, re.MULTILINE) == ["veilnet"]
    assert re.findall(r"setcap (\S+)", DOCKERFILE) == ["cap_net_admin=ep"]


def test_container_runs_up_in_the_foreground():
    assert re.search(r'^CMD \["up", "--foreground"\]$', DOCKERFILE, re.MULTILINE)


def test_example_names_the_variables_that_up_takes():
    from conflux.cli.up import up

    known = {option.envvar for option in up.params}
    assert {"VEILNET_CONFLUX_TOKEN", "VEILNET_GUARDIAN", "VEILNET_PORTAL"} == set(VARIABLES)
    assert set(VARIABLES) <= known


def test_images_are_named_without_a_registry():
    images = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    images += re.findall(r"^ +image: (\S+)$", COMPOSE, re.MULTILINE)
    assert images
    assert [image for image in images if "." in image.partition("/")[0]] == []
