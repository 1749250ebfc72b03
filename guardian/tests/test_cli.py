"""The operator's commands: one id or token on standard output, one line when something is wrong."""

from __future__ import annotations

import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest
from click.testing import CliRunner, Result

from conflux.api import Signer, Unavailable
from conflux_crypto_openssl.driver import OpenSslCrypto
from veilnet_guardian.cli import main
from veilnet_guardian.keys import crypto_driver

PASSWORD = "correct horse battery"

Run = Callable[..., Result]


def runner(data_dir: Path) -> Run:
    environment = {"VEILNET_GUARDIAN_DATA_DIR": str(data_dir)}

    def invoke(*arguments: str, stdin: str = "", **more: str) -> Result:
        result = CliRunner().invoke(main, arguments, input=stdin, env=environment | more)
        # Anything but a clean exit would be a traceback on a terminal.
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result

    return invoke


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return runner(tmp_path / "guardian")


@pytest.fixture
def ready(peopled: Path, tmp_path: Path) -> Run:
    """Commands on a copy of the folder with users alice and bob, plane home, alice's team dev."""
    shutil.copytree(peopled, tmp_path / "guardian")
    return runner(tmp_path / "guardian")


def add_user(run: Run, email: str) -> Result:
    return run("user", "add", email, "--password-stdin", stdin=PASSWORD + "\n")


def conflux(run: Run, tag: str) -> Result:
    where = ("--user", "alice@example.com", "--plane", "home")
    return run("conflux", "create", *where, "--tag", tag)


def assert_one_line(result: Result, reason: str) -> None:
    assert result.exit_code != 0
    assert result.stdout == ""
    assert re.fullmatch(r"veilnet-guardian: [^\n]+\n", result.stderr), result.stderr
    assert re.search(reason, result.stderr), result.stderr


def test_each_command_prints_just_its_id(ready: Run) -> None:
    ids = [
        add_user(ready, "carol@example.com"),
        ready("plane", "create", "lab", "fd00:8::/64", "--owner", "bob@example.com"),
        ready("team", "create", "ops", "--owner", "bob@example.com"),
        ready("team", "add", "ops", "alice@example.com"),
    ]
    conflux(ready, "london")
    ids.append(ready("team", "attach", "dev", "london"))
    ids.append(ready("team", "detach", "dev", "london"))
    ids.append(ready("team", "attach", "dev", "--to-user", "bob@example.com"))
    ids.append(ready("team", "attach", "dev", "--to-plane", "home"))
    for result in ids:
        assert result.exit_code == 0, result.stderr
        UUID(result.stdout.removesuffix("\n"))
        assert result.stderr.count("\n") == 1


def test_tokens_are_printed_alone(ready: Run) -> None:
    where = ("--user", "alice@example.com", "--plane", "home")
    token = ready("token", "create", *where, "--days", "7")
    assert re.fullmatch(r"vnr_[A-Za-z0-9_-]{86}\n", token.stdout)
    assert "good for 7 days" in token.stderr
    made = conflux(ready, "london")
    assert re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+\n", made.stdout)
    assert re.search(r"conflux [0-9a-f-]{36}, tag london, has 10.8.0.1/24", made.stderr)


def test_plane_of_both_families_gives_a_conflux_two_addresses(ready: Run) -> None:
    made = ready("plane", "create", "both", "10.9.0.0/24,fd00:9::/64")
    UUID(made.stdout.strip())
    assert "plane both covers 10.9.0.0/24,fd00:9::/64" in made.stderr
    where = ("--user", "alice@example.com", "--plane", "both")
    assert "has 10.9.0.1/24, fd00:9::1/64" in ready("conflux", "create", *where).stderr


def test_password_is_prompted_for_twice(run: Run) -> None:
    added = run("user", "add", "alice@example.com", stdin=f"{PASSWORD}\n{PASSWORD}\n")
    assert added.exit_code == 0
    UUID(added.stdout.strip())
    assert PASSWORD not in added.output


def test_team_is_attached_by_id_and_by_tag(ready: Run) -> None:
    made = conflux(ready, "london")
    conflux_id = re.search(r"conflux ([0-9a-f-]{36})", made.stderr)
    assert conflux_id is not None
    for name in ("london", conflux_id[1]):
        assert ready("team", "attach", "dev", name).stdout.strip() == conflux_id[1]
    assert "already attached" in ready("team", "attach", "dev", "london").stderr


def test_plane_of_the_same_name_is_the_users_own_before_the_common_one(ready: Run) -> None:
    own = ("--owner", "alice@example.com")
    alices = ready("plane", "create", "lab", "10.7.0.0/24", *own).stdout.strip()
    common = ready("plane", "create", "lab", "10.6.0.0/24").stdout.strip()
    assert_one_line(ready("plane", "create", "lab", "10.5.0.0/24", *own), "plane lab exists")
    assert_one_line(ready("plane", "create", "lab", "10.5.0.0/24"), "plane lab exists")
    for email, network in (("alice", "10.7"), ("bob", "10.6")):
        user = ("--user", f"{email}@example.com")
        assert f"has {network}.0.1/24" in ready("conflux", "create", *user, "--plane", "lab").stderr
    attach = ("team", "attach", "dev", "--to-plane")
    several = ready(*attach, "lab")
    assert_one_line(several, "several planes are called lab: name one by its id, ")
    assert f"{alices} of alice@example.com" in several.stderr
    assert f"{common} of all" in several.stderr
    assert ready(*attach, common).stdout == f"{common}\n"
    # Another user's own, where the operator can mean no other.
    ready("plane", "create", "den", "10.4.0.0/24", *own)
    for words in (("token", "create"), ("conflux", "create")):
        assert ready(*words, "--user", "bob@example.com", "--plane", "den").exit_code == 0


def test_user_has_no_more_conflux_than_allowed(ready: Run) -> None:
    limit = {"VEILNET_GUARDIAN_MAX_CONFLUX": "2"}
    words = ("conflux", "create", "--user", "alice@example.com", "--plane", "home")
    for _ in range(2):
        assert ready(*words, **limit).exit_code == 0
    assert_one_line(ready(*words, **limit), "2 conflux already.*raise --max-conflux")
    assert ready(*words, "--max-conflux", "3", **limit).exit_code == 0
    assert ready(*words).exit_code == 0


def test_tag_of_several_conflux_asks_for_an_id(ready: Run) -> None:
    for _ in range(2):
        assert conflux(ready, "twin").exit_code == 0
    assert_one_line(ready("team", "attach", "dev", "twin"), "name one by its id")


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("plane create home 10.9.0.0/24", "plane home exists already"),
        ("plane create other 10.8.0.1/24", "is not an address range"),
        ("plane create two+words 10.9.0.0/24", "plane name 'two[+]words' cannot be used"),
        ("plane create lab 10.9.0.0/24 --owner eve@example.com", "no user eve@example.com"),
        ("team create dev --owner alice@example.com", "team dev exists already"),
        ("team create ops --owner eve@example.com", "no user eve@example.com"),
        ("team add nosuch alice@example.com", "no team nosuch"),
        ("team add dev eve@example.com", "no user eve@example.com: add it with"),
        ("team attach dev nosuch", "no conflux nosuch"),
        ("team attach dev", "name one of CONFLUX"),
        ("team attach dev a --to-plane home", "name one of CONFLUX"),
        ("team detach dev --to-plane home", "nothing to detach"),
        ("team attach user:alice@example.com x", "no team user:alice"),
        ("token create --user alice@example.com --plane nosuch", "no plane nosuch"),
        ("token create --user eve@example.com --plane home", "no user eve@example.com"),
        ("token create --user alice@example.com --plane home --days 0", "cannot live 0 days"),
        ("conflux create --user alice@example.com --plane nosuch", "no plane nosuch"),
        ("conflux create --user alice@example.com --plane home --tag a/b", "tag 'a/b' cannot"),
        ("user add nobody --password-stdin", "is not an e-mail address"),
        ("user add eve@example.com --password-stdin", "the password has 0 characters"),
        ("user add alice@example.com --password-stdin", "the password has 0 characters"),
        ("serve --listen nonsense:port", "--listen 'nonsense:port' is not HOST:PORT"),
        ("serve --listen :80/x", "is not HOST:PORT"),
        ("serve --master-listen 127.0.0.1:99999", "--master-listen .* is not HOST:PORT"),
        ("serve --master http://127.0.0.1", "is not a NATS URL"),
        ("serve --public-master-url nats://", "--public-master-url 'nats://' is not a NATS URL"),
        ("serve --listen 127.0.0.1:0 --tls-cert /nosuch.pem", "belong together: give both"),
        ("serve --listen 127.0.0.1:0 --tls-cert /x.pem --tls-key /x.pem", "No such file"),
        ("serve --listen 192.0.2.1:0", "cannot listen on 192.0.2.1:0"),
        ("serve --listen 127.0.0.1:0 --master-listen 192.0.2.1:0", "choose another .*--master-lis"),
    ],
)
def test_bad_input_gets_one_line_and_changes_nothing(
    ready: Run, tmp_path: Path, command: str, reason: str
) -> None:
    def saved() -> tuple[object, ...]:
        raw = sqlite3.connect(tmp_path / "guardian" / "guardian.db")
        try:
            return tuple(raw.iterdump())
        finally:
            raw.close()

    before = saved()
    assert_one_line(ready(*command.split()), reason)
    assert saved() == before


def test_user_that_exists_is_refused(ready: Run) -> None:
    assert_one_line(add_user(ready, "Alice@Example.com"), "user alice@example.com exists already")


def test_database_that_somebody_else_holds_gets_one_line(
    ready: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("veilnet_guardian.database.BUSY_TIMEOUT_MS", 50)
    holder = sqlite3.connect(tmp_path / "guardian" / "guardian.db", isolation_level=None)
    try:
        holder.execute("BEGIN IMMEDIATE")
        result = ready("plane", "create", "late", "10.9.0.0/24")
    finally:
        holder.close()
    assert_one_line(result, r"does not answer \(database is locked\): try again")
    assert ready("plane", "create", "late", "10.9.0.0/24").exit_code == 0


def test_missing_data_dir_option_names_its_variable(run: Run) -> None:
    result = run("plane", "create", "home", "10.8.0.0/24", VEILNET_GUARDIAN_DATA_DIR="")
    assert result.exit_code == 2
    assert "VEILNET_GUARDIAN_DATA_DIR" in result.stderr


def test_data_dir_that_cannot_be_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    below = str(tmp_path / "file" / "guardian")
    result = run("plane", "create", "home", "10.8.0.0/24", "--data-dir", below)
    assert_one_line(result, "is not a folder: choose another with --data-dir")


def test_unknown_crypto_driver_is_named(ready: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("veilnet_guardian.keys.crypto_driver", crypto_driver.__wrapped__)
    where = ("--user", "alice@example.com", "--plane", "home")
    result = ready("token", "create", *where, VEILNET_PLUGIN_CRYPTO="nosuch")
    assert_one_line(result, "nosuch")


def test_crypto_driver_that_knows_no_seeds_is_refused(
    ready: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Seedless(OpenSslCrypto):
        def load_signer(self, seed: bytes) -> Signer:
            raise Unavailable('no key from a seed: choose crypto "openssl"')

    monkeypatch.setattr("veilnet_guardian.keys.crypto_driver", lambda: Seedless({}))
    where = ("--user", "alice@example.com", "--plane", "home")
    result = ready("token", "create", *where)
    assert_one_line(result, 'choose crypto "openssl"')


def test_concurrent_first_commands_share_one_guardian(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "veilnet_guardian", "plane", "create"),
                *(f"p{n}", f"10.{n}.0.0/24", "--data-dir", str(tmp_path / "guardian")),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in range(2)
    ]
    outputs = [process.communicate(timeout=30) for process in processes]
    assert [process.returncode for process in processes] == [0] * 2, outputs
    assert len({UUID(out.strip()) for out, _ in outputs}) == 2
    left = {path.name for path in (tmp_path / "guardian").iterdir()}
    assert left == {"guardian.db", "migrate.lock"}


def test_help_does_not_load_the_database_machinery() -> None:
    script = (
        "import sys, veilnet_guardian.cli as c\n"
        "c.main(['--help'], standalone_mode=False)\n"
        "print({'sqlalchemy', 'fastapi', 'uvicorn', 'nats', 'alembic'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.splitlines()[-1] == "set()"
