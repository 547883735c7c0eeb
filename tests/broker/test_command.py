"""`genre broker`: what it writes, with which modes, what it refuses, and that it never shows a password."""

from __future__ import annotations

import json
import stat
from datetime import datetime, timezone
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography import x509

from broker.command import broker
from services.errors import GenreError, UsageError


def run(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(broker, list(arguments), input=stdin)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    done = run("init", "--folder", str(tmp_path / "b"), "--host", "edge.local", "--host", "192.0.2.7")
    assert done.exit_code == 0, done.output
    return tmp_path / "b"


def users(folder: Path) -> dict[str, str]:
    clients = json.loads((folder / "dynamic-security.json").read_text())["clients"]
    return {client["username"]: client["roles"][0]["rolename"] for client in clients}


def test_secrets_are_readable_by_their_owner_alone(folder: Path) -> None:
    secret = ["ca.key", "server.key", "dynamic-security.json", "passwords/fetcher", "passwords/inference"]
    assert {name: stat.S_IMODE((folder / name).stat().st_mode) for name in secret} == dict.fromkeys(secret, 0o600)


def test_no_password_is_shown_or_stored_where_the_broker_reads(folder: Path) -> None:
    done = run("user", "kitchen", "--folder", str(folder))
    for file in (folder / "passwords").iterdir():
        password = file.read_text().strip()
        assert len(password) >= 32
        assert password not in done.output
        assert password not in (folder / "dynamic-security.json").read_text()
        assert password not in (folder / "mosquitto.conf").read_text()


def test_the_certificate_is_for_every_host_given(folder: Path) -> None:
    certificate = x509.load_pem_x509_certificate((folder / "server.crt").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["edge.local"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["192.0.2.7"]
    assert certificate.not_valid_after_utc > datetime.now(timezone.utc)


def test_a_second_init_keeps_the_ca_and_the_users(folder: Path) -> None:
    run("user", "kitchen", "--folder", str(folder))
    kept = ["ca.key", "ca.crt", "passwords/fetcher", "passwords/kitchen"]
    before, known = {name: (folder / name).read_bytes() for name in kept}, users(folder)
    entries = json.loads((folder / "dynamic-security.json").read_text())["clients"]
    assert run("init", "--folder", str(folder), "--host", "other.local").exit_code == 0
    assert {name: (folder / name).read_bytes() for name in kept} == before
    assert users(folder) == known
    assert json.loads((folder / "dynamic-security.json").read_text())["clients"] == entries


def test_renew_keeps_the_names_and_makes_a_new_key(folder: Path) -> None:
    key = (folder / "server.key").read_bytes()
    assert run("renew", "--folder", str(folder)).exit_code == 0
    assert (folder / "server.key").read_bytes() != key
    names = x509.load_pem_x509_certificate((folder / "server.crt").read_bytes())
    found = names.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "edge.local" in found.get_values_for_type(x509.DNSName)


def test_a_user_can_be_changed_and_removed(folder: Path) -> None:
    run("user", "kitchen", "--folder", str(folder))
    run(
        "user",
        "kitchen",
        "--role",
        "keeper",
        "--password-file",
        "-",
        "--folder",
        str(folder),
        stdin="correct horse battery\n",
    )
    assert users(folder)["kitchen"] == "keeper"
    assert (folder / "passwords" / "kitchen").read_text() == "correct horse battery\n"
    assert run("remove", "kitchen", "--folder", str(folder)).exit_code == 0
    assert "kitchen" not in users(folder)
    assert not (folder / "passwords" / "kitchen").exists()


def test_the_form_for_1_6_follows_every_change(tmp_path: Path) -> None:
    folder = str(tmp_path / "b")
    assert run("init", "--folder", folder, "--host", "edge.local", "--mosquitto-1.6").exit_code == 0
    run("user", "kitchen", "--folder", folder)
    passwords, access = tmp_path / "b" / "passwords.txt", tmp_path / "b" / "access.txt"
    assert passwords.read_text().count("\nkitchen:$6$") == 1
    assert "user kitchen\ntopic read genre/results" in access.read_text()
    assert stat.S_IMODE(passwords.stat().st_mode) == 0o600
    run("remove", "kitchen", "--folder", folder)
    assert "kitchen" not in passwords.read_text() + access.read_text()


@pytest.mark.parametrize(
    ("arguments", "stdin", "kind", "words"),
    [
        (["user", "a:b"], None, UsageError, "is no user name"),
        (["user", "../../etc/cron.d/x"], None, UsageError, "is no user name"),
        (["user", "kitchen", "--password-file", "-"], "short\n", UsageError, "less than 12"),
        (["remove", "nobody"], None, UsageError, "there is no user 'nobody'"),
        (["user", "kitchen\n"], None, UsageError, "is no user name"),
        (["user", "kitchen", "--password-file", "/bin/sh"], None, UsageError, "is not UTF-8"),
        (["init", "--host", "a b\nallow_anonymous true"], None, UsageError, "no host name"),
        *((["renew", "--host", host], None, UsageError, "no host name") for host in ("", "a\n", "\udcff")),
        *((["apply", "--host", host], None, UsageError, "no host name") for host in ("", "a\n", "\udcff")),
        (["init", "--host", "h", "--home-assistant-prefix", "ha/#"], None, UsageError, "is no beginning of a topic"),
    ],
)
def test_bad_input_is_named(folder: Path, arguments: list[str], stdin: str | None, kind: type, words: str) -> None:
    done = run(*arguments, "--folder", str(folder), stdin=stdin)
    assert isinstance(done.exception, kind)
    assert words in str(done.exception)


def test_a_folder_without_a_set_up_says_what_to_do(tmp_path: Path) -> None:
    done = run("user", "kitchen", "--folder", str(tmp_path))
    assert "run 'genre broker init" in str(done.exception)


def test_a_damaged_register_is_not_overwritten(folder: Path) -> None:
    (folder / "dynamic-security.json").write_text("{")
    done = run("user", "kitchen", "--folder", str(folder))
    assert isinstance(done.exception, GenreError)
    assert (folder / "dynamic-security.json").read_text() == "{"


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run("init", "--folder", str(tmp_path / "file" / "b"), "--host", "edge.local")
    assert isinstance(done.exception, GenreError)
    assert "can't be written" in str(done.exception)


def test_roles_are_about_the_root_that_init_was_given_and_stay_so(tmp_path: Path) -> None:
    folder = tmp_path / "b"
    assert run("init", "--folder", str(folder), "--host", "localhost", "--root", "home").exit_code == 0
    assert run("user", "kitchen", "--folder", str(folder)).exit_code == 0
    assert run("init", "--folder", str(folder), "--host", "localhost").exit_code == 0
    roles = json.loads((folder / "dynamic-security.json").read_text())["roles"]
    topics = {acl["topic"] for role in roles for acl in role["acls"]}
    assert "home/results" in topics and not any(topic.startswith("genre/") for topic in topics)


def test_without_an_option_the_root_is_that_of_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENRE_BROKER__ROOT", "cafe")
    assert run("init", "--folder", str(tmp_path), "--host", "localhost").exit_code == 0
    assert '"cafe/results"' in (tmp_path / "dynamic-security.json").read_text()


def test_a_root_that_is_no_level_of_a_topic_is_refused(tmp_path: Path) -> None:
    done = run("init", "--folder", str(tmp_path), "--host", "localhost", "--root", "home/#")
    assert isinstance(done.exception, UsageError) and "--root" in str(done.exception)


def test_client_certificates_are_made_for_every_user_and_go_with_them(tmp_path: Path) -> None:
    folder = tmp_path / "b"
    assert run("init", "--folder", str(folder), "--host", "localhost").exit_code == 0
    assert not (folder / "clients").exists()
    assert run("init", "--folder", str(folder), "--host", "localhost", "--client-certificates").exit_code == 0
    assert run("user", "kitchen", "--folder", str(folder)).exit_code == 0
    made = sorted(path.name for path in (folder / "clients").glob("*.key"))
    assert made == ["dashboard.key", "featurizer.key", "fetcher.key", "inference.key", "kitchen.key"]
    assert all(stat.S_IMODE((folder / "clients" / name).stat().st_mode) == 0o600 for name in made)
    assert "require_certificate true" in (folder / "mosquitto.conf").read_text()
    before = (folder / "clients" / "kitchen.crt").read_bytes()
    assert run("renew", "--folder", str(folder)).exit_code == 0
    assert (folder / "clients" / "kitchen.crt").read_bytes() != before
    assert run("remove", "kitchen", "--folder", str(folder)).exit_code == 0
    assert not list((folder / "clients").glob("kitchen.*"))
