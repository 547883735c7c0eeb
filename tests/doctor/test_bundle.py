"""The support bundle holds what is needed and no secret."""

from __future__ import annotations

import stat
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.doctor import bundle
from services.doctor.bundle import REMOVED, Redactor, write
from services.errors import GenreError, UsageError

SECRET = "hunter2-correct-horse"


@pytest.mark.parametrize(
    "text",
    [
        "https://user:hunter2-correct-horse@host/x.m3u8",
        "https://host/x.m3u8?token=hunter2-correct-horse&b=1",
        "https://host/hunter2-correct-horse/x.m3u8",
        "GET https://host:8443/live/hunter2-correct-horse/128k/seg-1.ts HTTP/1.1",
        "'http://host/listen/hunter2-correct-horse'",
        "https://host/hunter2-correct-horse-and-more.m3u8",
        "wss://user@host/hunter2-correct-horse",
        "password = hunter2-correct-horse",
        'GENRE_BROKER__PASSWORD="hunter2-correct-horse"',
        "remote_password hunter2-correct-horse",
        '{"api_key": "hunter2-correct-horse"}',
        "Authorization: Bearer hunter2-correct-horse",
        "Cookie: hunter2-correct-horse",
        "-----BEGIN PRIVATE KEY-----\nhunter2-correct-horse\n-----END PRIVATE KEY-----",
    ],
)
def test_shapes_that_carry_secrets_are_redacted_though_nobody_knows_the_secret(text: str) -> None:
    assert SECRET not in Redactor([])(text)
    assert REMOVED in Redactor([])(text)


def test_names_of_files_stay() -> None:
    assert Redactor([])('password_file = "/etc/x"') == 'password_file = "/etc/x"'
    assert Redactor([])("https://host/x.m3u8") == "https://host/x.m3u8"


@given(st.text(min_size=4, max_size=30).filter(lambda s: s.strip() and s not in REMOVED), st.text(), st.text())
@settings(max_examples=200, deadline=None)
def test_a_known_secret_never_survives(secret: str, before: str, after: str) -> None:
    assert secret not in Redactor([secret])(f"{before}{secret}{after}").replace(REMOVED, "")


def test_the_bundle_is_private_and_complete_and_clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret, headers = tmp_path / "password", tmp_path / "headers"
    secret.write_text(f"{SECRET}\n")
    headers.write_text("X-Access: opensesame-4711\n")
    config = tmp_path / "genre.toml"
    config.write_text(
        f'[broker]\nport = 1\nusername = "fetcher"\npassword_file = "{secret}"\n[inference]\nbackend = "onnx"\n'
        f'[[streams]]\nname = "r"\nheaders_file = "{headers}"\n'
        'url = "http://127.0.0.1:1/Zx9pathtoken77/x.m3u8?key=querysecret"\n'
        f"# a careless comment: {SECRET}\n"
    )
    monkeypatch.setenv("GENRE_BROKER__HOST", "127.0.0.1")
    logs = tmp_path / "up" / "logs"
    logs.mkdir(parents=True)
    (logs / "fetcher.log").write_text(
        f"segment Zx9pathtoken77/1.ts of http://127.0.0.1:1/x/y.m3u8\n{SECRET}\nthe end\n"
    )
    (tmp_path / "s.tar.gz").write_text("an older one that all may read")
    (tmp_path / "s.tar.gz").chmod(0o644)
    out = write(tmp_path / "s.tar.gz", config, tmp_path / "up")
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    with tarfile.open(out) as archive:
        files = {member.name: archive.extractfile(member) for member in archive.getmembers()}
        texts = {name: file.read().decode() for name, file in files.items() if file}
    assert {"genre-support/about.txt", "genre-support/doctor.jsonl", "genre-support/configuration.toml"} <= set(texts)
    assert "the end" in texts["genre-support/up/fetcher.log"]
    for text in texts.values():
        assert SECRET not in text
        assert "opensesame-4711" not in text
        assert "querysecret" not in text
        assert "Zx9pathtoken77" not in text


def test_a_broken_configuration_still_gives_a_bundle(tmp_path: Path) -> None:
    (tmp_path / "genre.toml").write_text("broker = ")
    assert write(tmp_path / "s.tar.gz", tmp_path / "genre.toml").stat().st_size > 100
    with pytest.raises(GenreError, match="can't be written"):
        write(tmp_path / "no" / "s.tar.gz", tmp_path / "genre.toml")
    with pytest.raises(UsageError, match="is not there"):
        write(tmp_path / "s.tar.gz", tmp_path / "missing.toml")
    with pytest.raises(UsageError, match="no logs in it"):
        write(tmp_path / "s.tar.gz", None, tmp_path)


def test_nothing_secret_is_in_a_repr() -> None:
    assert SECRET not in repr(Redactor([SECRET]))


def test_the_end_of_a_long_log_is_what_goes_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "LARGEST", 1_000)
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "fetcher.log").write_text("old\n" * 10_000 + "new")
    text = dict(bundle.contents(None, tmp_path))["up/fetcher.log"]
    assert len(text) == 1_000 and text.endswith("new")
