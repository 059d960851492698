"""`pagurus deploy --secret`: where values come from, and that no message shows one."""

import json

import pytest

VALUE = "hush-5f1c0ffee"
DONE = {"event": "done", "function": {"name": "hello", "version": "ab" * 32}}


def sent(gateway) -> dict:
    body = gateway.requests[-1].body
    return json.loads(body.split(b"\r\n\r\n", 1)[1].split(b"\r\n--", 1)[0])


@pytest.fixture
def deploy(pagurus, gateway, tmp_path):
    (tmp_path / "main.py").write_text("def main(param):\n    return param\n")
    line = json.dumps(DONE).encode() + b"\n"
    gateway.answer("PUT", "/v1/functions/hello", line, status=201, content_type="application/x-ndjson")
    return lambda *arguments, **more: pagurus("deploy", "hello", tmp_path / "main.py", *arguments, **more)


def test_secrets_come_from_environment_file_stdin_and_the_command_line(deploy, gateway, tmp_path, monkeypatch):
    monkeypatch.setenv("FROM_ENV", VALUE)
    (tmp_path / "secret").write_text("line 1\nline 2\n\n")
    options = ["FROM_ENV", f"FROM_FILE@{tmp_path / 'secret'}", "FROM_STDIN@-", "GIVEN=a=b@c"]
    done = deploy(*(f"--secret={option}" for option in options), "--unset-secret", "OLD", input="piped\n")
    assert done.status == 0, done.stderr
    assert sent(gateway)["secrets"] == {
        "OLD": None,
        "FROM_ENV": VALUE,
        "FROM_FILE": "line 1\nline 2\n",
        "FROM_STDIN": "piped",
        "GIVEN": "a=b@c",
    }
    assert VALUE not in done.stdout + done.stderr


def test_no_secrets_are_sent_where_none_are_given(deploy, gateway):
    assert deploy().status == 0
    assert "secrets" not in sent(gateway)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("NOT_THERE_AT_ALL", "no variable NOT_THERE_AT_ALL"),
        ("NAME@/nowhere/at/all", "cannot read the file of NAME"),
        (f"9={VALUE}", "not of the form"),
        (f"={VALUE}", "not of the form"),
        (f"A-B={VALUE}", "not of the form"),
    ],
)
def test_a_wrong_secret_is_told_without_its_value(deploy, gateway, option: str, words: str):
    done = deploy("--secret", option)
    assert done.status == 2 and not gateway.requests
    assert words in done.stderr.replace("\n", " ") and VALUE not in done.stderr


def test_the_help_warns_of_values_on_the_command_line(pagurus):
    assert "history" in pagurus("deploy", "--help").stdout


def test_the_key_is_rotated(pagurus, gateway):
    gateway.answer("POST", "/v1/rotate-key", {"key": "0a0b0c0d", "secrets": 3})
    assert "0a0b0c0d" in pagurus("rotate-key").stdout
    assert json.loads(pagurus("rotate-key", "--json").stdout)["secrets"] == 3
