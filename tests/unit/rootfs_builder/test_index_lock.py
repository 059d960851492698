"""A lock out of a build box is written anew from what the proxy handed out, or refused."""

import tomllib

import pytest

from rootfs_builder import index_lock
from rootfs_builder.index_pages import IndexFile
from runtime.errors import BuildError

DIGEST, OTHER = "a" * 64, "b" * 64
HANDED_OUT = {
    "http://box/0": ("demo", IndexFile("demo-1.0-py3-none-any.whl", "https://index.test/d.whl", DIGEST, size=7)),
    "http://box/1": ("demo", IndexFile("demo-1.0.tar.gz", "https://index.test/d.tar.gz")),
    "http://box/2": ("evil", IndexFile("demo-1.0-py3-none-any.whl", "https://index.test/e.whl", DIGEST)),
    "http://box/3": ("demo", IndexFile("demo-2.0-py3-none-any.whl", "https://index.test/d2.whl", DIGEST)),
}


def file(number: int = 0, digest: str = DIGEST) -> str:
    return f'{{ url = "http://box/{number}", size = 99, hashes = {{ sha256 = "{digest}" }} }}'


def package(rest: str, name: str = "demo", version: str = "1.0") -> str:
    return f'[[packages]]\nname = "{name}"\nversion = "{version}"\n{rest}\n'


def mapped(text: str) -> list[dict]:
    return tomllib.loads(index_lock.mapped(text, HANDED_OUT.get))["packages"]


def test_a_lock_is_written_anew_with_the_index_s_urls():
    text = package(f'sdist = {file(1)}\nwheels = [{file()}]\nmarker = "x"\nindex = "http://box/simple"')
    assert mapped('lock-version = "1.0"\n' + text) == [
        {
            "name": "demo",
            "version": "1.0",
            "sdist": {
                "name": "demo-1.0.tar.gz",
                "url": "https://index.test/d.tar.gz",
                "hashes": {"sha256": DIGEST},
            },
            "wheels": [
                {
                    "name": "demo-1.0-py3-none-any.whl",
                    "url": "https://index.test/d.whl",
                    "size": 7,
                    "hashes": {"sha256": DIGEST},
                }
            ],
        }
    ]


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("x = ", "no TOML"),
        ("packages = 1", "no list"),
        ("packages = [1]", "no table"),
        (package(f"wheels = [{file()}]", name="../demo"), "no normalised name"),
        (package(f"wheels = [{file()}]", version="1 0"), "no version"),
        (package(""), "no file"),
        (package('vcs = { url = "https://elsewhere.test" }'), "no file"),
        (package("wheels = 1"), "no file"),
        (package("wheels = [1]"), "not from the index"),
        (package(f"wheels = [{file(9)}]"), "not from the index"),
        (package('wheels = [{ url = "https://index.test/d.whl" }]'), "not from the index"),
        (package('wheels = [{ path = "/etc/passwd" }]'), "not from the index"),
        (package('sdist = { url = "http://box/1" }'), "no sha256"),
        (package(f"sdist = {file(1, 'short')}"), "no sha256"),
        (package(f"wheels = [{file(0, OTHER)}]"), "another hash"),
        (package(f"wheels = [{file(2)}]"), "no file of demo 1.0"),
        (package(f"wheels = [{file(3)}]"), "no file of demo 1.0"),
        (package("x = " + "[" * 5000), "no TOML"),
    ],
)
def test_what_the_index_did_not_hand_out_is_refused(text: str, rule: str):
    with pytest.raises(BuildError) as failed:
        mapped(text)
    assert failed.value.kind == "sdist"
    assert rule in failed.value.message
    assert failed.value.hint
