"""How uv is run, and what its failures mean."""

from pathlib import Path

import pytest

from rootfs_builder import uv
from rootfs_builder.children import Command, Finished
from rootfs_builder.events import Reporter
from rootfs_builder.suites import suite_of
from runtime.errors import BuildError

NO_SOLUTION = """Using CPython 3.11.2
error: No solution found when resolving dependencies
  cause: Because a==1 depends on b>=2 and you require b==1, your requirements are unsatisfiable.
"""


def environ(given: dict[str, str], index_url: str = "") -> dict[str, str]:
    given = {"HOME": "/nonexistent", "XDG_CONFIG_DIRS": "/nonexistent", "PIP_CONFIG_FILE": "/dev/null", **given}
    return uv.environment(given, cache="/cache", scratch="/scratch", index_url=index_url)


def test_only_what_reaches_the_index_is_passed():
    given = {
        "PATH": "/bin",
        "SSL_CERT_FILE": "/c",
        "HTTPS_PROXY": "p",
        "no_proxy": "n",
        "SECRET": "s",
        "PYTHONPATH": "x",
    }
    passed = environ({**given, "UV_CONFIG_FILE": "/evil", "UV_PYTHON": "x", "UV_EXTRA_INDEX_URL": "e"})
    passed.pop("UV_DEFAULT_INDEX", None)  # of a pip.conf of this machine
    assert passed == {
        "PATH": "/bin",
        "HOME": "/nonexistent",
        "SSL_CERT_FILE": "/c",
        "HTTPS_PROXY": "p",
        "no_proxy": "n",
        "UV_EXTRA_INDEX_URL": "e",
        "UV_CACHE_DIR": "/cache",
        "TMPDIR": "/scratch",
        "NO_COLOR": "1",
    }


def test_the_index_of_the_request_comes_first_then_uv_s_then_pip_s():
    given = {"UV_INDEX_URL": "https://uv.test", "PIP_INDEX_URL": "https://pip.test"}
    assert environ(given, "https://asked.test")["UV_DEFAULT_INDEX"] == "https://asked.test"
    assert "UV_INDEX_URL" not in environ(given, "https://asked.test")
    assert environ(given)["UV_INDEX_URL"] == "https://uv.test"
    assert "UV_DEFAULT_INDEX" not in environ(given)
    assert environ({"PIP_INDEX_URL": "https://pip.test"})["UV_DEFAULT_INDEX"] == "https://pip.test"


def test_more_indexes_are_asked_before_that_of_uv():
    given = {"HOME": "/nonexistent", "UV_INDEX": "https://uv.test"}
    passed = uv.environment(
        given, cache="/c", scratch="/s", index_url="https://a.test", extra_index_urls=("https://b.test", "c=https://c")
    )
    assert (passed["UV_DEFAULT_INDEX"], passed["UV_INDEX"]) == ("https://a.test", "https://b.test c=https://c")


def test_pip_s_files_are_read_in_pip_s_order(tmp_path: Path):
    (tmp_path / "xdg/pip").mkdir(parents=True)
    (tmp_path / ".config/pip").mkdir(parents=True)
    (tmp_path / "xdg/pip/pip.conf").write_text("[global]\nindex-url = https://site.test/%d\n")
    given = {"HOME": str(tmp_path), "XDG_CONFIG_DIRS": str(tmp_path / "xdg")}
    assert uv.pip_index_url(given) == "https://site.test/%d"
    (tmp_path / ".config/pip/pip.conf").write_text("[install]\nindex-url = https://user.test\n")
    assert uv.pip_index_url(given) == "https://user.test"
    (tmp_path / "own.conf").write_text("no section\n")
    assert uv.pip_index_url({**given, "PIP_CONFIG_FILE": str(tmp_path / "own.conf")}) == "https://user.test"


@pytest.mark.parametrize(
    ("output", "kind", "hint"),
    [
        (NO_SOLUTION, "requirements", "versions"),
        ("error: a was not found in the package registry", "requirements", "name"),
        ("error: a==1 has no usable wheels", "requirements", "choose a version that has a wheel"),
        ("error: Failed to fetch: x", "requirements", "index_url"),
        ("error: Hash mismatch for a", "requirements", "lock"),
        ("error: failed to write: No space left on device (os error 28)", "limit", "free space"),
    ],
)
def test_failures_have_uv_s_words_and_a_next_step(output: str, kind: str, hint: str):
    error = uv.failure(output, "requirements", "cannot resolve the requirements")
    assert error.kind == kind
    assert hint in error.hint


def test_words_begin_at_the_first_error_and_are_bounded():
    error = uv.failure(NO_SOLUTION, "requirements", "cannot resolve")
    assert error.message.startswith("cannot resolve: No solution found when resolving dependencies\n  cause: Because")
    assert len(uv.failure("error: " + "x" * 10_000, "requirements", "d").message) < 4100


def test_uv_gets_wheels_only_and_no_settings_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen: list[Command] = []

    def run(command: Command, **listeners: object) -> Finished:
        seen.append(command)
        return Finished(1, NO_SOLUTION)

    monkeypatch.setattr(uv, "run", run)
    tool = uv.Uv(suite_of("python3.11"), "/usr/bin/python3.11", tmp_path, {})
    with open("/dev/null", "wb") as sink:
        reporter = Reporter(sink.fileno())
        with pytest.raises(BuildError) as resolved:
            tool.compile(tmp_path / "in", tmp_path / "out", reporter)
        with pytest.raises(BuildError):
            tool.compile(tmp_path / "lock", tmp_path / "out", reporter, has_dependencies=True)
    assert resolved.value.kind == "requirements"
    for command in seen:
        text = " ".join(command.argv)
        for option in ("--no-config", "--only-binary :all:", "--python-version 3.11", "-manylinux_2_36"):
            assert option in text
        assert command.directory == str(tmp_path)
        assert command.environ == {}, "nothing of the builder's own"
    assert "--no-deps" not in seen[0].argv
    assert "--no-deps" in seen[1].argv, "nothing is added to a lock"
