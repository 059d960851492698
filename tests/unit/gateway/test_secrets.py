"""Secrets: encrypted at rest, kept over updates, readable with the right key only, shown nowhere."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from gateway.api.bodies import parse_settings
from gateway.secret_key import KeyRing, SecretsError
from gateway.secrets import NO_SECRETS, SECRETS_BYTES_MAX, Secrets
from gateway.store.database import Database
from gateway.store.secrets import Safe
from runtime.config import Settings
from tests.fake_node import FakeNode
from tests.unit.gateway.running import Running, gateway_on, run, running, until

VALUE = "hush-5f1c0ffee-not-to-be-seen"


def ring(tmp_path: Path) -> KeyRing:
    made = KeyRing(tmp_path / "secrets.key")
    made.create()
    return made


def test_what_is_sealed_opens_at_its_own_place_only(tmp_path: Path):
    keys = ring(tmp_path)
    sealed = keys.seal(VALUE.encode(), ("f", "set", "NAME"))
    assert VALUE.encode() not in sealed and keys.seal(VALUE.encode(), ("f", "set", "NAME")) != sealed
    assert keys.open(sealed, ("f", "set", "NAME")) == VALUE.encode()
    for place in [("g", "set", "NAME"), ("f", "other", "NAME"), ("f", "set", "OTHER")]:
        with pytest.raises(SecretsError, match="damaged"):
            keys.open(sealed, place)
    for wrong in (b"", sealed[:10], sealed[:-1], b"\x02" + sealed[1:], sealed[:-1] + bytes([sealed[-1] ^ 1])):
        with pytest.raises(SecretsError, match="damaged"):
            keys.open(wrong, ("f", "set", "NAME"))


def test_another_key_is_told_as_that_with_the_way_out(tmp_path: Path):
    sealed = ring(tmp_path).seal(b"x", ("f",))
    (tmp_path / "other").mkdir()
    other = ring(tmp_path / "other")
    with pytest.raises(SecretsError) as caught:
        other.open(sealed, ("f",))
    assert "encrypted with key" in caught.value.message and "secrets.key" in caught.value.message
    assert "restore" in caught.value.hint


def test_the_key_file_is_private_and_comes_back(tmp_path: Path):
    keys = ring(tmp_path)
    path = tmp_path / "secrets.key"
    assert path.stat().st_mode & 0o7777 == 0o600
    again = KeyRing(path)
    again.load()
    assert again.ids == keys.ids and again.open(keys.seal(b"x", ("f",)), ("f",)) == b"x"
    assert path.read_text().splitlines()[-1].split()[1] not in repr(again)


@pytest.mark.parametrize(("mode", "text", "words"), [
    (0o640, None, "others"), (0o604, None, "others"), (0o600, "", "no key"), (0o600, "00000000 AAAA", "damaged"),
    (0o600, "garbage", "damaged"),
])  # fmt: skip
def test_a_key_file_that_is_not_right_is_refused(tmp_path: Path, mode: int, text: str | None, words: str):
    ring(tmp_path)
    path = tmp_path / "secrets.key"
    path.chmod(mode)
    if text is not None:
        path.write_text(text)
    with pytest.raises(SecretsError, match=words) as caught:
        KeyRing(path).load()
    assert caught.value.hint


def test_changes_are_merged_and_equal_ones_are_the_same_set():
    first = NO_SECRETS.changed({"A": "1", "B": "2"})
    assert first.names == ("A", "B") and first.reveal() == {"A": "1", "B": "2"}
    assert first.changed({}) is first and first.changed({"A": "1"}) is first
    second = first.changed({"A": None, "C": "3"})
    assert second.reveal() == {"B": "2", "C": "3"} and second.id != first.id
    assert second.changed({"B": None, "C": None}) is NO_SECRETS
    assert NO_SECRETS.changed({"A": None}) is NO_SECRETS
    assert VALUE not in repr(NO_SECRETS.changed({"A": VALUE}))


def test_an_unreadable_set_is_left_by_giving_all_of_it_again():
    lost = Secrets("1", {"A": "", "B": ""}, unreadable=SecretsError("lost"))
    for change in ({"A": "1"}, {"C": "1"}):
        with pytest.raises(SecretsError):
            lost.changed(change)
    assert lost.changed({"A": "1", "B": None}).reveal() == {"A": "1"}
    with pytest.raises(SecretsError):
        lost.reveal()


async def secret_reaches(found: Running, name: str) -> dict[str, str]:
    await found.invoke(name)
    return found.node.worker_of(name).assignment.environ


def test_a_secret_reaches_the_sandbox_and_nothing_else(tmp_path: Path):
    async def scenario() -> None:
        async with running(tmp_path) as found:
            status, body = await found.deploy("hello", environ={"PLAIN": "1"}, secrets={"TOKEN": VALUE})
            assert status == 201 and body["secrets"] == ["TOKEN"] and VALUE not in str(body)
            assert await secret_reaches(found, "hello") == {"PLAIN": "1", "TOKEN": VALUE}
            for path in ("/v1/functions", "/v1/functions/hello", "/v1/status", "/v1/sandboxes", "/v1/invocations"):
                _, shown, _ = await found.call("GET", path)
                assert VALUE not in str(shown)
            assert VALUE not in repr(found.node.received) + repr(found.gateway.services.registry.functions)
            for path in tmp_path.rglob("*"):
                assert not path.is_file() or VALUE.encode() not in path.read_bytes(), path
            # Kept by an update that does not name it; another value is another version; null removes.
            status, kept = await found.deploy("hello", environ={"PLAIN": "2"})
            assert status == 200 and kept["secrets"] == ["TOKEN"]
            status, same = await found.deploy("hello", environ={"PLAIN": "2"}, secrets={"TOKEN": VALUE})
            assert same["version"] == kept["version"]
            status, other = await found.deploy("hello", environ={"PLAIN": "2"}, secrets={"TOKEN": "other"})
            assert other["version"] != kept["version"]
            status, none = await found.deploy("hello", environ={"PLAIN": "2"}, secrets={"TOKEN": None})
            assert none["secrets"] == [] and status == 200
            assert (await found.call("DELETE", "/v1/functions/hello"))[0] == 204
            with closing(sqlite3.connect(tmp_path / "store/pagurus.sqlite3")) as store:
                assert store.execute("SELECT count(*) FROM secrets").fetchone() == (0,)

    run(scenario)


@pytest.mark.parametrize(("settings", "words"), [
    ({"secrets": {"9": "x"}}, "letters"), ({"secrets": {"A=B": "x"}}, "letters"), ({"secrets": {"A": 1}}, "settings"),
    ({"secrets": {"A": VALUE + "\0"}}, "NUL"), ({"environ": {"A": "1"}, "secrets": {"A": VALUE}}, "both"),
    ({"secrets": {"A": VALUE + "x" * SECRETS_BYTES_MAX}}, "bytes"),
    ({"secrets": {f"A{n}": VALUE for n in range(65)}}, "limit"),
])  # fmt: skip
def test_what_is_wrong_with_secrets_is_told_without_them(tmp_path: Path, settings: dict[str, object], words: str):
    async def scenario() -> None:
        async with running(tmp_path) as found:
            status, body = await found.deploy("hello", **settings)
            assert status in (400, 422) and body["type"].endswith("invalid-settings")
            assert words in body["detail"] and VALUE not in str(body)
            assert (await found.call("GET", "/v1/functions/hello"))[0] == 404

    run(scenario)


def test_without_the_key_the_function_says_so_and_others_run(tmp_path: Path):
    async def scenario() -> None:
        node = FakeNode(Settings(state_dir=str(tmp_path), log_level="error"))
        async with gateway_on(node) as first:
            await first.deploy("hidden", secrets={"TOKEN": VALUE})
            await first.deploy("plain")
            node.disconnect()
            await until(first.task.done)
        (tmp_path / "store/secrets.key").unlink()
        async with gateway_on(node) as second:
            status, body, _ = await second.invoke("hidden")
            assert (status, body["type"]) == (503, "urn:pagurus:problem:secrets-unreadable")
            assert "secrets.key" in body["detail"] and "restore" in body["hint"] and VALUE not in str(body)
            assert (await second.invoke("plain"))[0] == 200
            status, body = await second.deploy("hidden", environ={"A": "1"})
            assert status == 422 and body["type"].endswith("secrets-unreadable")
            assert (await second.deploy("hidden", secrets={"TOKEN": "new"}))[0] == 200
            assert (await secret_reaches(second, "hidden"))["TOKEN"] == "new"
        node.close()

    run(scenario)


def test_the_key_can_be_changed_and_a_change_that_was_cut_off_goes_on(tmp_path: Path):
    database = Database(tmp_path / "pagurus.sqlite3")
    path = tmp_path / "secrets.key"
    safe = Safe(path)
    kept = Secrets("1", {"A": VALUE})
    try:
        database.run_blocking(safe.start)
        database.run_blocking(lambda connection: safe.put(connection, "f", kept))
        first = safe.ring.ids
        assert database.run_blocking(safe.change_key)[1] == 1
        assert safe.ring.ids != first and len(safe.ring.ids) == 1
        safe.ring.begin_change()  # and then the power is cut
        assert len(KeyRing(path).ids) == 0
        again = Safe(path)
        database.run_blocking(again.start)
        assert len(again.ring.ids) == 1 and again.ring.ids[0] not in first
        found = database.run_blocking(lambda connection: again.get(connection, "f", "1"))
        assert found.reveal() == {"A": VALUE}
    finally:
        database.close()


def test_the_key_is_changed_over_http(tmp_path: Path):
    async def scenario() -> None:
        async with running(tmp_path) as found:
            await found.deploy("hello", secrets={"TOKEN": VALUE})
            before = (tmp_path / "store/secrets.key").read_bytes()
            status, body, _ = await found.call("POST", "/v1/rotate-key")
            assert (status, body["secrets"]) == (200, 1)
            assert (tmp_path / "store/secrets.key").read_bytes() != before
            assert (await secret_reaches(found, "hello"))["TOKEN"] == VALUE

    run(scenario)


def test_settings_do_not_print_secrets(tmp_path: Path):
    async def scenario() -> None:
        async with running(tmp_path) as found:
            settings = parse_settings(b'{"secrets": {"A": "%s"}}' % VALUE.encode(), found.gateway.services.runtimes)
            assert settings.secrets == {"A": VALUE} and VALUE not in repr(settings)

    run(scenario)
