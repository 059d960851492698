"""Tokens at the gateway: who gets in, who does not, and what is said."""

import hmac
from pathlib import Path
from typing import Any

import pytest

from gateway import access
from gateway.access import Access, AccessError, Needs
from gateway.api.http import HostGuard
from gateway.api.problems import ProblemError
from runtime.protocol import TokensChanged
from runtime.tokens import Role, Token, digest
from tests.unit.gateway.running import run, running, until

ADMIN, INVOKE, ONE, OLD = "pgs_admin", "pgs_invoke", "pgs_one", "pgs_old"
TOKENS = (
    Token(name="admin", sha256=digest(ADMIN), role=Role.ADMIN),
    Token(name="invoke", sha256=digest(INVOKE), role=Role.INVOKE),
    Token(name="one", sha256=digest(ONE), role=Role.INVOKE, functions=("greet",)),
    Token(name="old", sha256=digest(OLD), role=Role.ADMIN, expires_s=99.0),
)


def checks(text: str | None, needs: Needs, function: str = "greet", tokens: Any = TOKENS, forced: bool = False) -> str:
    """'' when it is allowed, else the word."""
    try:
        header = None if text is None else f"Bearer {text}"
        Access(tokens, is_forced=forced, wall_s=lambda: 100.0).check(header, needs, function)
    except AccessError as error:
        assert (error.failure.word == "unauthorized") == error.challenge.startswith("Bearer")
        return error.failure.word
    return ""


def test_roles():
    assert checks(ADMIN, Needs.ADMIN) == checks(ADMIN, Needs.INVOKE) == checks(INVOKE, Needs.INVOKE, "any") == ""
    assert checks(ONE, Needs.INVOKE) == "" and checks(ONE, Needs.INVOKE, "other") == "forbidden"
    assert checks(ONE, Needs.ADMIN) == checks(INVOKE, Needs.ADMIN) == "forbidden"


WRONG = [None, "", "pgs_", "pgs_admi", ADMIN + "x", OLD, "x" * 10_000, "\udcff", digest(ADMIN)]


@pytest.mark.parametrize("text", WRONG)
def test_whatever_is_no_valid_token_is_refused(text: str | None):
    for needs in (Needs.ADMIN, Needs.INVOKE):
        assert checks(text, needs) == "unauthorized"
    assert checks(text, Needs.NOTHING) == ""


def test_without_tokens_all_is_open_or_all_is_closed():
    assert checks(None, Needs.ADMIN, tokens=()) == ""
    assert checks(None, Needs.ADMIN, tokens=(), forced=True) == "unauthorized"
    assert checks(None, Needs.ADMIN, tokens=TOKENS[3:]) == "unauthorized", "expired ones do not open it"


@pytest.mark.parametrize("header", ["Basic cGdzX2FkbWlu", "pgs_admin", "Bearerpgs_admin", "bearer", "Token pgs_admin"])
def test_other_schemes_are_refused(header: str):
    with pytest.raises(AccessError):
        Access(TOKENS, is_forced=False, wall_s=lambda: 0.0).check(header, Needs.ADMIN, "")


def test_every_token_is_compared_in_constant_time_whichever_matches(monkeypatch: pytest.MonkeyPatch):
    counted: list[int] = []

    class Counting:
        @staticmethod
        def compare_digest(a: bytes, b: bytes) -> bool:
            counted.append(1)
            return hmac.compare_digest(a, b)

    monkeypatch.setattr(access, "hmac", Counting)
    for text in (ADMIN, ONE, "pgs_none"):
        counted.clear()
        checks(text, Needs.INVOKE)
        assert len(counted) == len(TOKENS)


def test_no_message_shows_what_was_presented():
    for text in ("pgs_guess-guess", OLD):
        with pytest.raises(AccessError) as caught:
            Access(TOKENS, is_forced=False, wall_s=lambda: 100.0).check(f"Bearer {text}", Needs.ADMIN, "")
        assert text not in caught.value.failure.detail + caught.value.failure.hint + caught.value.challenge


def test_tokens_over_http_come_and_go_while_it_runs(tmp_path: Path):
    async def scenario() -> None:
        async with running(tmp_path) as found:
            assert (await found.deploy("greet"))[0] == 201
            found.node.send(TokensChanged(tokens=TOKENS))
            await until(lambda: found.gateway.services.access.is_required)
            path = "/v1/functions/greet/invocations"
            status, body, response = await found.call("POST", path, data=b"1")
            assert (status, body["type"]) == (401, "urn:pagurus:problem:unauthorized") and "hint" in body
            assert response.headers["WWW-Authenticate"].startswith('Bearer realm="pagurus"')
            for open_path in ("/healthz", "/readyz"):
                assert (await found.call("GET", open_path))[0] == 200
            for closed in ("/", "/v1/functions", "/v1/status", "/openapi.json", "/v1/invocations"):
                assert (await found.call("GET", closed))[0] == 401, closed
            one = {"Authorization": f"Bearer {ONE}"}
            assert (await found.call("POST", path, data=b"1", headers=one))[0] == 200
            status, body, response = await found.call("DELETE", "/v1/functions/greet", headers=one)
            assert (status, body["type"]) == (403, "urn:pagurus:problem:forbidden")
            assert "WWW-Authenticate" not in response.headers
            admin = {"Authorization": f"bearer {ADMIN}"}
            assert (await found.call("DELETE", "/v1/functions/greet", headers=admin))[0] == 204
            found.node.send(TokensChanged(tokens=()))
            await until(lambda: not found.gateway.services.access.is_required)
            assert (await found.call("GET", "/v1/status"))[0] == 200

    run(scenario)


def test_off_loopback_tokens_are_required_even_when_there_is_none(tmp_path: Path):
    async def scenario() -> None:
        async with running(tmp_path, auth="always") as found:
            assert (await found.call("GET", "/v1/status"))[0] == 401

    run(scenario)


class Request:
    def __init__(self, method: str = "POST", **headers: str) -> None:
        self.method = method
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def admits(guard: HostGuard, request: Request) -> bool:
    try:
        guard.check(request)
    except ProblemError as error:
        assert error.failure.word == "forbidden-host"
        return False
    return True


def test_hosts_of_a_node_on_the_network():
    guard = HostGuard("0.0.0.0", ("Node.example.",), is_local=False)
    for host in ("192.0.2.1:8080", "[2001:db8::1]:80", "node.example:8080", "NODE.EXAMPLE", "localhost"):
        assert admits(guard, Request(Host=host)), host
    for host in ("evil.example", "node.example.evil.example", "", "192.0.2.1.evil.example"):
        assert not admits(guard, Request(Host=host)), host


def test_a_page_may_ask_only_where_it_came_from():
    guard = HostGuard("127.0.0.1")
    same = {"Host": "127.0.0.1:8080", "Origin": "http://127.0.0.1:8080"}
    assert admits(guard, Request(**same)) and admits(guard, Request(Host="127.0.0.1:8080"))
    foreign = ("http://127.0.0.1:3000", "http://localhost:8080", "null", "https://evil.example", "")
    for origin in foreign:
        assert not admits(guard, Request(Host="127.0.0.1:8080", Origin=origin)), origin


def test_what_browsers_say_of_foreign_pages_is_heeded():
    guard = HostGuard("127.0.0.1")
    for site in ("cross-site", "same-site"):
        assert not admits(guard, Request(Host="127.0.0.1", Sec_Fetch_Site=site))
        assert admits(guard, Request("GET", Host="127.0.0.1", Sec_Fetch_Site=site)), "a link may lead here"
    for site in ("same-origin", "none"):
        assert admits(guard, Request(Host="127.0.0.1", Sec_Fetch_Site=site))
