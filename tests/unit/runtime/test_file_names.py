"""Names of wheels, told apart and compared."""

import pytest

from runtime import file_names
from runtime.file_names import Release


@pytest.mark.parametrize(
    ("one", "other"), [("1.0", "1"), ("1.0-Beta", "1b0"), ("1.0.post", "1.post0"), ("1.0+Ubuntu-1", "1+ubuntu.1")]
)
def test_versions_are_compared_as_versions(one: str, other: str):
    assert Release.of("a", one) == Release.of("A", other)


@pytest.mark.parametrize(
    ("filename", "release"),
    [
        ("Foo_Bar-1.0-py3-none-any.whl", Release("foo-bar", "1")),
        ("foo.bar-1.0+local.1-2x-cp311-cp311-linux_x86_64.whl", Release("foo-bar", "1+local.1")),
        ("foo-1.0-py3-none.whl", None),
        ("foo-1.0-py3-none-any.zip", None),
        ("../foo-1.0-py3-none-any.whl", None),
        (".foo-1.0-py3-none-any.whl", None),
        ("foo-1.0-py3-none-any\n.whl", None),
        ("foo-1.0-py3-none-any.whl\n", None),
        ("f" * 300 + "-1.0-py3-none-any.whl", None),
    ],
)
def test_a_wheel_s_name_says_its_release(filename: str, release: Release | None):
    assert file_names.of_wheel(filename) == release


@pytest.mark.parametrize("filename", ["", "..", ".pth", "a/b", "a\0", "a b", "-a", "a\\b", "a" * 256])
def test_names_that_are_not_one_harmless_component(filename: str):
    assert not file_names.is_safe(filename)
