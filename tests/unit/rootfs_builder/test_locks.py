"""Which file of each package is taken, and the lock's text."""

import itertools
import platform

import pytest

from rootfs_builder import locks, requirements
from rootfs_builder.suites import Suite, suite_of
from runtime.errors import BuildError
from runtime.model import Locked

ARCH = platform.machine()
OTHER_ARCH = "aarch64" if ARCH == "x86_64" else "x86_64"
SUITE = suite_of("python3.11")  # glibc 2.36
HASHES = ["a" * 64, "b" * 64, "c" * 64, "d" * 64]


def entry(filename: str, sha256: str = HASHES[0], *, fields: str = "") -> str:
    return f'{{ url = "https://index.test/files/{filename}", hashes = {{ sha256 = "{sha256}" }}{fields} }}'


def package(name: str, version: str, *entries: str, kind: str = "wheels") -> str:
    version_line = f'version = "{version}"\n' if version else ""
    value = f"[{', '.join(entries)}]" if kind == "wheels" else entries[0]
    return f'[[packages]]\nname = "{name}"\n{version_line}{kind} = {value}\n'


def chosen(*filenames: str, suite: Suite = SUITE) -> str:
    """The file that is taken of package a 1."""
    text = package("a", "1", *(entry(filename) for filename in filenames))
    (one,) = locks.from_pylock(text, suite)
    return one.filename


def refused(text: str, allowed: dict[str, tuple[str, ...]] | None = None) -> BuildError:
    with pytest.raises(BuildError) as caught:
        locks.from_pylock(text, SUITE, allowed)
    assert caught.value.kind == "requirements" and caught.value.hint
    return caught.value


# --- tags

# The best first.
FITTING = [
    f"a-1-cp311-cp311-manylinux_2_36_{ARCH}.whl",
    f"a-1-cp311-cp311-manylinux_2_28_{ARCH}.whl",
    f"a-1-cp311-cp311-manylinux_2_17_{ARCH}.whl",
    f"a-1-cp311-cp311-manylinux2014_{ARCH}.whl",
    f"a-1-cp311-cp311-manylinux2010_{ARCH}.whl",
    f"a-1-cp311-cp311-manylinux1_{ARCH}.whl",
    f"a-1-cp311-cp311-linux_{ARCH}.whl",
    f"a-1-cp311-abi3-manylinux_2_17_{ARCH}.whl",
    f"a-1-cp38-abi3-manylinux_2_17_{ARCH}.whl",
    f"a-1-cp37-abi3-manylinux2014_{ARCH}.whl",
    "a-1-cp311-none-any.whl",
    "a-1-py311-none-any.whl",
    "a-1-py3-none-any.whl",
    "a-1-py310-none-any.whl",
]


@pytest.mark.parametrize(("better", "worse"), list(itertools.pairwise(FITTING)))
def test_the_most_special_file_that_fits_is_taken(better: str, worse: str):
    assert chosen(worse, better) == chosen(better, worse) == better


def test_a_file_with_several_tags_counts_by_its_best():
    several = f"a-1-cp310.cp311-cp311-manylinux_2_12_{ARCH}.manylinux2010_{ARCH}.whl"
    assert chosen("a-1-py3-none-any.whl", several) == several
    assert chosen("a-1-py2.py3-none-any.whl") == "a-1-py2.py3-none-any.whl"


@pytest.mark.parametrize(
    "filename",
    [
        f"a-1-cp311-cp311-manylinux_2_37_{ARCH}.whl",
        f"a-1-cp311-cp311-manylinux_2_39_{ARCH}.whl",
        f"a-1-cp311-cp311-manylinux_2_17_{OTHER_ARCH}.whl",
        f"a-1-cp311-cp311-musllinux_1_2_{ARCH}.whl",
        f"a-1-cp312-cp312-manylinux_2_17_{ARCH}.whl",
        f"a-1-cp312-abi3-manylinux_2_17_{ARCH}.whl",
        f"a-1-cp310-cp310-manylinux_2_17_{ARCH}.whl",
        f"a-1-pp311-pypy311_pp73-manylinux_2_17_{ARCH}.whl",
        f"a-1-cp311-cp311t-manylinux_2_17_{ARCH}.whl",
        "a-1-cp311-cp311-win_amd64.whl",
        "a-1-cp311-cp311-macosx_11_0_arm64.whl",
        "a-1-py2-none-any.whl",
        "a-1-py312-none-any.whl",
        "a-1.tar.gz",
        "a-1-py3-none-any.zip",
        "a.whl",
        "b-1-py3-none-any.whl",
        "a-1-py3-none-any./../../x.whl",
    ],
)
def test_what_does_not_fit_is_never_taken(filename: str):
    assert chosen("a-1-py3-none-any.whl", filename) == "a-1-py3-none-any.whl"
    error = refused(package("a", "1", f'{{ name = "{filename}", {entry("x")[2:]}'))
    assert error.message == "a 1 has no wheel for this Python and platform"


def test_each_runtime_has_its_own_interpreter_and_libc():
    files = [f"a-1-{tag}-{tag}-manylinux_2_{glibc}_{ARCH}.whl" for tag in ("cp311", "cp313") for glibc in (17, 40)]
    assert chosen(*files) == files[0]
    assert chosen(*files, suite=suite_of("python3.13")) == files[3]


# --- entries


def test_each_package_becomes_one_file_and_names_are_sorted():
    text = package("B_b", "2", entry("b_b-2-py3-none-any.whl", HASHES[1], fields=", size = 7"))
    text += package("a", "1", entry("a-1-py3-none-any.whl"))
    assert locks.from_pylock(text, SUITE) == (
        Locked(
            name="a",
            version="1",
            filename="a-1-py3-none-any.whl",
            url="https://index.test/files/a-1-py3-none-any.whl",
            sha256=HASHES[0],
        ),
        Locked(
            name="b-b",
            version="2",
            filename="b_b-2-py3-none-any.whl",
            url="https://index.test/files/b_b-2-py3-none-any.whl",
            sha256=HASHES[1],
            size=7,
        ),
    )
    assert locks.from_pylock("lock-version = '1.0'\n", SUITE) == ()


def test_a_file_of_a_folder_has_an_address_of_this_machine():
    text = package("a", "1", f'{{ path = "/srv/a b/a-1-py3-none-any.whl", hashes = {{ sha256 = "{HASHES[0]}" }} }}')
    (one,) = locks.from_pylock(text, SUITE)
    assert (one.url, one.filename) == ("file:///srv/a b/a-1-py3-none-any.whl", "a-1-py3-none-any.whl")


def test_a_file_s_name_is_taken_out_of_its_address_without_what_is_escaped_there():
    (one,) = locks.from_pylock(package("a", "1+local", entry("a-1%2Blocal-py3-none-any.whl?x=1#y")), SUITE)
    assert one.filename == "a-1+local-py3-none-any.whl"


def test_a_direct_address_gives_its_version_by_its_name():
    (one,) = locks.from_pylock(package("a", "", entry("a-2.5-py3-none-any.whl"), kind="archive"), SUITE)
    assert (one.version, one.sha256) == ("2.5", HASHES[0])
    assert "is no wheel" in refused(package("a", "", entry("a.whl"), kind="archive")).message


@pytest.mark.parametrize("size", ["-1", "'large'", "0", "1.5"])
def test_a_size_that_is_none_is_unknown(size: str):
    (one,) = locks.from_pylock(package("a", "1", entry("a-1-py3-none-any.whl", fields=f", size = {size}")), SUITE)
    assert one.size == 0


@pytest.mark.parametrize("sha256", ["", "abc", "g" * 64, "a" * 65])
def test_a_file_without_a_hash_is_refused(sha256: str):
    error = refused(package("a", "1", entry("a-1-py3-none-any.whl", sha256)))
    assert error.message == "the index gives no SHA-256 of a-1-py3-none-any.whl"


def test_a_file_that_nobody_needs_may_lack_its_hash():
    text = package("a", "1", entry("a-1-cp27-cp27m-win32.whl", ""), entry("a-1-py3-none-any.whl"))
    assert [one.filename for one in locks.from_pylock(text, SUITE)] == ["a-1-py3-none-any.whl"]


def test_hashes_are_compared_in_small_letters():
    (one,) = locks.from_pylock(package("a", "1", entry("a-1-py3-none-any.whl", "A" * 64)), SUITE)
    assert one.sha256 == "a" * 64


# --- sources


def source_only(filename: str = "a-1.tar.gz") -> str:
    return package("a", "1", entry(filename), kind="sdist")


def test_a_package_without_wheel_is_refused_unless_sources_are_taken():
    assert refused(source_only()).message == "a 1 has no wheel for this Python and platform"
    (one,) = locks.from_pylock(source_only(), SUITE, takes_sources=True)
    assert one.is_source and one.filename == "a-1.tar.gz"


def test_any_wheel_that_fits_is_better_than_a_source():
    text = package("a", "1", entry("a-1-py30-none-any.whl"), entry("a-1-cp27-none-any.whl"))
    (one,) = locks.from_pylock(text + f"sdist = {entry('a-1.tar.gz')}\n", SUITE, takes_sources=True)
    assert one.filename == "a-1-py30-none-any.whl" and not one.is_source


@pytest.mark.parametrize("filename", ["../a-1.tar.gz", "/etc/a-1.tar.gz", ".a-1.tar.gz", "a-1\\n.tar.gz"])
def test_a_source_whose_name_is_a_path_is_refused(filename: str):
    text = package("a", "1", f'{{ name = "{filename}", {entry("x")[2:]}', kind="sdist")
    with pytest.raises(BuildError, match="the index has a file named"):
        locks.from_pylock(text, SUITE, takes_sources=True)


def test_a_source_in_a_form_that_is_not_known_is_none():
    with pytest.raises(BuildError, match="has no wheel"):
        locks.from_pylock(source_only("a-1.tar.bz2"), SUITE, takes_sources=True)


# --- hashes of the user's own lock


def test_of_the_files_that_fit_the_best_permitted_one_is_taken():
    names = (f"a-1-cp311-cp311-linux_{ARCH}.whl", "a-1-cp311-none-any.whl", "a-1-py3-none-any.whl")
    text = package("a", "1", *(entry(name, sha256) for name, sha256 in zip(names, HASHES, strict=False)))
    allowed = locks.allowed_hashes(
        requirements.parse(f"A==1 --hash=sha256:{HASHES[1]} --hash=sha256:{HASHES[2]} --hash=sha256:{HASHES[3]}")
    )
    (one,) = locks.from_pylock(text, SUITE, allowed)
    assert one.filename == names[1]


@pytest.mark.parametrize("hashes", [(f"sha256:{HASHES[1]}",), (), (HASHES[0],)])
def test_a_file_that_no_given_hash_is_of_is_refused(hashes: tuple[str, ...]):
    error = refused(package("a", "1", entry("a-1-py3-none-any.whl")), {"a": hashes})
    assert error.message.startswith("none of the hashes given for a==1 is that of a file")


def test_what_a_lock_of_the_user_lacks_is_not_added_to_it():
    text = package("a", "1", entry("a-1-py3-none-any.whl")) + package("B_b", "1", entry("x.tar.gz"))
    found = locks.from_pylock(text, SUITE, {"a": (f"sha256:{HASHES[0]}",)})
    assert [one.name for one in found] == ["a"]
    assert locks.from_pylock(text, SUITE, {}) == ()


def test_hashes_of_one_package_on_several_lines_are_all_allowed():
    parsed = requirements.parse(
        f"a==1 ; python_version>'3' --hash=sha256:{HASHES[0]}\nA==1 ; os_name>'x' --hash=sha256:{HASHES[1]}"
    )
    assert locks.allowed_hashes(parsed) == {"a": (f"sha256:{HASHES[0]}", f"sha256:{HASHES[1]}")}


# --- text


def test_a_lock_is_a_requirements_file_that_is_locked():
    text = package("B", "2", entry("B-2-py3-none-any.whl", HASHES[1])) + package(
        "a", "1", entry("a-1-py3-none-any.whl")
    )
    lock = locks.lock_text(reversed(locks.from_pylock(text, SUITE)))
    assert lock == f"a==1 \\\n    --hash=sha256:{HASHES[0]}\nb==2 \\\n    --hash=sha256:{HASHES[1]}\n"
    parsed = requirements.parse(lock)
    assert requirements.is_lock(parsed) and requirements.lock_text(parsed) == lock
