"""Which index is taken, and where its password goes."""

from pathlib import Path

import pytest

from rootfs_builder import index_source
from rootfs_builder.index_source import IndexSource
from runtime.errors import BuildError

NOTHING = {"HOME": "/nonexistent", "PIP_CONFIG_FILE": "/dev/null", "XDG_CONFIG_DIRS": "/nonexistent"}


def found(environ: dict[str, str], index_url: str) -> IndexSource:
    """The only index."""
    (source,) = IndexSource.find(environ, index_url)
    return source


def test_more_indexes_are_asked_before():
    environ = {**NOTHING, "UV_EXTRA_INDEX_URL": "https://c.test", "UV_INDEX": "https://lost.test"}
    sources = IndexSource.find(environ, "https://d.test", ("x=https://u:p@a.test", "https://b.test/"))
    assert [source.url for source in sources] == [f"https://{host}.test" for host in "abcd"]
    assert sources[0].headers("https://a.test/x") and not sources[1].headers("https://b.test/x")


def test_the_setting_comes_first_then_uv_s_variables_then_pip_s(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("rootfs_builder.uv.pip_index_url", lambda environ: environ.get("PIP_INDEX_URL", ""))
    environ = {**NOTHING, "UV_INDEX_URL": "https://uv.test/simple/", "PIP_INDEX_URL": "https://pip.test"}
    assert found(environ, "https://own.test/").url == "https://own.test"
    assert found(environ, "").url == "https://uv.test/simple"
    assert found({**NOTHING, "UV_DEFAULT_INDEX": "x=https://named.test"}, "").url == "https://named.test"
    assert found({**NOTHING, "PIP_INDEX_URL": "https://pip.test"}, "").url == "https://pip.test"


def test_without_any_uv_is_asked_for_its_default(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("rootfs_builder.uv.pip_index_url", lambda environ: "")
    assert found(NOTHING, "").url.startswith("https://")


@pytest.mark.parametrize("url", ["file:///srv/simple", "/srv/simple", "https://", "https://a:b:c/", "ftp://a/simple"])
def test_an_index_that_is_not_reached_by_http_is_refused(url: str):
    with pytest.raises(BuildError) as failed:
        IndexSource.find(NOTHING, url)
    assert failed.value.kind == "index"
    assert "index_url" in failed.value.hint


def test_the_password_of_the_url_goes_to_the_index_s_origin():
    source = found(NOTHING, "https://u%40:p%2F@index.test/simple")
    assert source.url == "https://index.test/simple"
    assert source.headers("https://index.test:443/files/x") == {"Authorization": "Basic dUA6cC8="}
    for other in (
        "http://index.test/simple",
        "https://index.test:8443/",
        "https://files.test/",
        "https://index.test.evil/",
    ):
        assert source.headers(other) == {}


def test_a_password_of_netrc_is_taken(tmp_path: Path):
    file = tmp_path / "netrc"
    file.write_text("machine index.test login user password word\n")
    environ = {**NOTHING, "NETRC": str(file)}
    assert found(environ, "https://index.test").authorization == "Basic dXNlcjp3b3Jk"
    assert found(environ, "https://a:b@index.test").authorization == "Basic YTpi"
    assert found(environ, "https://other.test").authorization == ""


def test_an_http_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    assert index_source.proxy_of("https://index.test/") is None
    monkeypatch.setenv("https_proxy", "http://proxy.test:3128")
    monkeypatch.setenv("no_proxy", "near.test")
    assert index_source.proxy_of("https://index.test/") == "http://proxy.test:3128"
    assert index_source.proxy_of("http://index.test/") is None
    assert index_source.proxy_of("https://near.test/") is None
