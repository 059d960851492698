"""`pagurus token`, and the token that every other command sends."""

import json

import pytest
from click.testing import CliRunner

from gateway.cli import main
from runtime import tokens

SECRET = "pgs_presented-by-a-test"


@pytest.fixture
def token(tmp_path):
    def run(*arguments):
        return CliRunner().invoke(main.cli, ["token", "--state-dir", str(tmp_path), *arguments])

    return run


def test_tokens_are_made_listed_and_removed(token, tmp_path):
    made = token("create", "ci", "--role", "invoke", "--function", "greet", "--expires", "90d")
    assert made.exit_code == 0, made.output
    text = made.stdout.strip()
    (kept,) = tokens.load(tmp_path / "tokens.json")
    assert kept.sha256 == tokens.digest(text) and kept.expires_s - kept.created_s == pytest.approx(90 * 86400, abs=5)
    shown = token("ls").output
    assert "ci" in shown and "greet" in shown and text not in shown and kept.sha256 not in shown
    assert json.loads(token("ls", "--json").stdout)[0]["role"] == "invoke"
    gone = token("rm", "ci")
    assert gone.exit_code == 0 and "open now" in gone.stderr
    assert token("ls").stdout.strip() == "no tokens"


@pytest.mark.parametrize("arguments", [("x", "--expires", "soon"), ("x", "--role", "king"), ("x", "--function", "A b")])
def test_wrong_usage(token, tmp_path, arguments):
    assert token("create", *arguments).exit_code == 2
    assert not (tmp_path / "tokens.json").exists()


def test_an_error_says_what_next(token):
    done = token("rm", "absent")
    assert done.exit_code == 1 and "next step: pagurus token ls" in done.stderr


def test_commands_send_the_token_of_the_variable_or_of_a_file(pagurus, gateway, tmp_path, monkeypatch):
    gateway.answer("GET", "/v1/functions", {"functions": []})
    pagurus("ls")
    assert "Authorization" not in gateway.requests[-1].headers
    monkeypatch.setenv("PAGURUS_TOKEN", SECRET + "\n")
    pagurus("ls")
    assert gateway.requests[-1].headers["Authorization"] == f"Bearer {SECRET}"
    file = tmp_path / "token"
    file.write_text("pgs_of-a-file\n")
    pagurus("--token-file", file, "ls")
    assert gateway.requests[-1].headers["Authorization"] == "Bearer pgs_of-a-file"
    monkeypatch.setenv("PAGURUS_TOKEN_FILE", str(tmp_path / "absent"))
    done = pagurus("ls")
    assert done.status == 1 and "cannot read the token file" in done.stderr


def test_a_token_that_would_break_the_request_is_refused_and_not_shown(pagurus, gateway, monkeypatch):
    monkeypatch.setenv("PAGURUS_TOKEN", f"{SECRET}\r\nX-Evil: 1")
    done = pagurus("ls")
    assert done.status == 1 and not gateway.requests and SECRET not in done.stderr
