"""Requirements: what is understood, what is refused and why, and that a lock has one form."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootfs_builder import requirements
from runtime.errors import BuildError

HASH_A, HASH_B = "sha256:" + "a" * 64, "sha256:" + "b" * 64


def names(text: str) -> list[str]:
    return [each.name for each in requirements.parse(text)]


def test_names_versions_extras_markers_and_comments_are_understood():
    text = """\ufeff# what we need
requests[socks] >= 2.31, < 3   # comment
Flask_SQLAlchemy~=3.0;python_version>="3.8"

numpy
zope.interface (>=5)\r
ruff!=0.1
"""
    assert names(text) == ["requests", "flask-sqlalchemy", "numpy", "zope-interface", "ruff"]
    assert requirements.input_text(requirements.parse("a  # c\nb==1")) == "a\nb==1\n"


def test_nothing_required_is_an_empty_tuple():
    assert requirements.parse("") == requirements.parse("\n# only words\n\n") == ()


def test_continuation_lines_are_joined():
    (each,) = requirements.parse(f"a == 1.0 \\\n  --hash={HASH_B} \\\n  --hash={HASH_A}\n")
    assert (each.name, each.version, each.hashes) == ("a", "1.0", (HASH_A, HASH_B))


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("https://example.test/a.whl", "is a URL"),
        ("a @ https://example.test/a.whl", "is a URL"),
        ("a@https://example.test/a.whl", "is a URL"),
        ("a @ file:///etc/passwd", "is a URL"),
        ("a @ ./a", "is a URL"),
        ("git+https://example.test/a", "is a repository"),
        ("git+ssh://git@example.test/a", "is a repository"),
        ("./a", "is a path"),
        ("../a", "is a path"),
        ("/tmp/a", "is a path"),
        ("a/b", "is a path"),
        (".", "is a path"),
        ("~/a", "is a path"),
        ("a-1.0-py3-none-any.whl", "is a file"),
        ("a-1.0.tar.gz", "is a file"),
        ("-e .", "option -e"),
        ("-e git+https://example.test/a", "option -e"),
        ("--editable=.", "option --editable"),
        ("-r other.txt", "option -r"),
        ("-c other.txt", "option -c"),
        ("--index-url https://example.test", "option --index-url"),
        ("--extra-index-url=https://example.test", "option --extra-index-url"),
        ("--find-links /tmp", "option --find-links"),
        ("--no-binary :all:", "option --no-binary"),
        ("--hash=" + HASH_A, "option --hash"),
        ("a --global-option=x", "option --global-option"),
        ("a==1 --config-settings x=y", "option --config-settings"),
        ("a==${VERSION}", "variable"),
        ("a==1 --hash=md5:abc", "hash"),
        ("a==1 --hash=sha256:abc", "hash"),
        ("a b", "cannot be understood"),
        ("-", "option -"),
        ("=1", "cannot be understood"),
        ("a\x00b", "control"),
        ("a\x0cb", "control"),
        ("a\u2028b", "control"),
    ],
)
def test_refusals_name_the_line_and_the_reason(line: str, word: str):
    with pytest.raises(BuildError) as caught:
        requirements.parse(f"good\n{line}\n")
    assert caught.value.kind == "requirements"
    assert "line 2" in caught.value.message
    assert word in caught.value.message
    assert caught.value.hint


DIGEST = "d" * 64
WHEEL = f"https://host.test/files/A_b-1-py3-none-any.whl#sha256={DIGEST}"


@pytest.mark.parametrize(
    ("line", "name", "marker"),
    [
        (f"a-b @ {WHEEL}", "a-b", ""),
        (f"A_b@{WHEEL}", "a-b", ""),
        (f"a.b   @   {WHEEL} ; python_version   > '3'", "a-b", "python_version > '3'"),
        (f"a-b @ {WHEEL}   # for now", "a-b", ""),
    ],
)
def test_addresses_of_wheels_are_taken_where_the_operator_allows_them(line: str, name: str, marker: str):
    (each,) = requirements.parse(line, allows_urls=True)
    assert (each.name, each.marker, each.is_locked) == (name, marker, False)
    assert WHEEL in requirements.input_text([each])
    with pytest.raises(BuildError, match="is a URL") as caught:
        requirements.parse(line)
    assert "url_requirements" in caught.value.hint


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("a @ https://host.test/a-1-py3-none-any.whl", "is a URL"),  # no hash
        (f"a @ https://host.test/a-1-py3-none-any.whl#sha256={DIGEST[1:]}", "is a URL"),
        (f"a @ https://host.test/a-1-py3-none-any.whl#md5={DIGEST}", "is a URL"),
        (f"a @ https://host.test/a-1-py3-none-any.whl#sha256={DIGEST}&egg=b", "is a URL"),
        (f"a @ http://host.test/a-1-py3-none-any.whl#sha256={DIGEST}", "is a URL"),
        (f"a @ https://user:secret@host.test/a-1-py3-none-any.whl#sha256={DIGEST}", "is a URL"),
        (f"a @ https://host.test/a-1.tar.gz#sha256={DIGEST}", "is a URL"),
        (f"a @ https://host.test/a.whl;x#sha256={DIGEST}", "is a URL"),
        (f"a @ file:///srv/a-1-py3-none-any.whl#sha256={DIGEST}", "is a URL"),
        (f"a @ ftp://host.test/a-1-py3-none-any.whl#sha256={DIGEST}", "is a URL"),
        (f"https://host.test/a-1-py3-none-any.whl#sha256={DIGEST}", "is a URL"),
        (f"a @ https://host.test/a-1-py3-none-any.whl#sha256={DIGEST} --no-deps", "is a URL"),
        ("a @ git+https://host.test/a", "is a repository"),
        (f"a @ git+https://host.test/a.whl#sha256={DIGEST}", "is a repository"),
        ("git+ssh://git@host.test/a", "is a repository"),
        ("git@host.test:a/b", "is a repository"),
        ("a @ hg+https://host.test/a", "is a repository"),
        ("svn+https://host.test/a", "is a repository"),
        ("bzr+https://host.test/a", "is a repository"),
        ("a @ ../a", "is a URL"),
        ("../a", "is a path"),
        ("/srv/a", "is a path"),
        ("./a-1-py3-none-any.whl", "is a path"),
        ("-e ./a", "option -e"),
    ],
)
def test_no_other_address_is_taken_even_where_they_are_allowed(line: str, word: str):
    for allows_urls in (True, False):
        with pytest.raises(BuildError) as caught:
            requirements.parse(f"good\n{line}", allows_urls=allows_urls)
        assert word in caught.value.message and "line 2" in caught.value.message and caught.value.hint


def test_an_address_among_locked_requirements_is_not_locked():
    with pytest.raises(BuildError, match="'b' is not pinned with a hash, but others are"):
        requirements.parse(f"a==1 --hash={HASH_A}\nb @ {WHEEL}", allows_urls=True)


def test_size_and_lines_are_limited():
    for text, word in (("#" * 65537, "65536"), ("a\n" * 501, "500")):
        with pytest.raises(BuildError, match=word):
            requirements.parse(text)
    assert len(requirements.parse("a\n" * 500)) == 500


def test_a_file_is_pinned_as_a_whole_or_not_at_all():
    assert requirements.is_lock(requirements.parse(f"a==1 --hash={HASH_A}\nb==2 --hash {HASH_B}"))
    assert not requirements.is_lock(requirements.parse("a==1"))
    for other in ("b==2", f"b>=2 --hash={HASH_B}", f"b==2.* --hash={HASH_B}"):
        with pytest.raises(BuildError, match="'b' is not pinned"):
            requirements.parse(f"a==1 --hash={HASH_A}\n{other}")


def test_a_lock_has_one_form():
    one = f"B.b==2 --hash={HASH_B} --hash={HASH_A}\n# c\na==1;python_version>'3'   --hash={HASH_A}"
    two = f"a==1 ;  python_version>'3' --hash={HASH_A}\nb-b == 2 \\\n --hash={HASH_A} \\\n --hash={HASH_B}\n\n"
    wanted = (
        f"a==1 ; python_version>'3' \\\n    --hash={HASH_A}\nb-b==2 \\\n    --hash={HASH_A} \\\n    --hash={HASH_B}\n"
    )
    assert requirements.lock_text(requirements.parse(one)) == wanted
    assert requirements.lock_text(requirements.parse(two)) == wanted
    assert requirements.lock_text(requirements.parse(wanted)) == wanted


@given(st.text(max_size=200) | st.text(alphabet="ab @:/#=+.;-\\\n", max_size=60), st.booleans())
def test_any_text_is_understood_or_refused(text: str, allows_urls: bool):
    try:
        parsed = requirements.parse(text, allows_urls=allows_urls)
    except BuildError as error:
        assert error.kind == "requirements"
    else:
        for line in requirements.input_text(parsed).splitlines():
            assert line[0].isalnum()
            assert "://" not in line or allows_urls
