"""Where the code's own requirements come from."""

from pathlib import Path

import pytest

from rootfs_builder import projects, requirements
from runtime.errors import BuildError


def of(place: Path, pyproject: str | bytes | None = None, text: str | bytes | None = None) -> str:
    for name, content in ((projects.PROJECT_FILE, pyproject), (projects.REQUIREMENTS_FILE, text)):
        if content is not None:
            (place / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return projects.requirements_of(place)


def refused(place: Path, pyproject: str | bytes | None = None, text: str | bytes | None = None) -> str:
    with pytest.raises(BuildError) as caught:
        of(place, pyproject, text)
    assert caught.value.kind == "requirements" and caught.value.hint
    return caught.value.message


def test_code_without_either_file_requires_nothing(tmp_path: Path):
    assert of(tmp_path) == ""


def test_requirements_txt_is_taken_as_it_is(tmp_path: Path):
    text = "# what we need\nrequests[socks] >= 2 \\\n ; python_version > '3'\n-r other.txt\n"
    assert of(tmp_path, text=text) == text


def test_requirements_txt_comes_before_pyproject_toml_also_when_it_is_empty(tmp_path: Path):
    assert of(tmp_path, '[project]\ndependencies = ["b"]\n', "a\n") == "a\n"
    assert of(tmp_path, "this is not toml", "") == ""


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            '[project]\nname = "x"\ndependencies = ["a>=1", "b[x] ; os_name == \'posix\'"]\n',
            "a>=1\nb[x] ; os_name == 'posix'\n",
        ),
        ('[project]\nname = "x"\n', ""),
        ("[project]\ndependencies = []\n", ""),
        ('[project]\ndynamic = ["version"]\ndependencies = ["a"]\n', "a\n"),
        ('[project]\ndependencies = ["a"]\n[project.optional-dependencies]\nfast = ["b"]\n', "a\n"),
        ('[tool.poetry.dependencies]\na = "1"\n[build-system]\nrequires = ["setuptools"]\n', ""),
        ('[dependency-groups]\ndev = ["b"]\n', ""),
        ("", ""),
    ],
)
def test_dependencies_of_a_project_are_taken_without_the_optional_ones(tmp_path: Path, text: str, found: str):
    assert of(tmp_path, text) == found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[project", "pyproject.toml cannot be read"),
        ("project = 1\n", "is no table"),
        ("[[project]]\n", "is no table"),
        ('[project]\ndynamic = ["dependencies"]\n', "computes its dependencies"),
        ('[project]\ndependencies = "a"\n', "is no list of lines"),
        ("[project]\ndependencies = [1]\n", "is no list of lines"),
        ('[project]\ndependencies = ["a", ["b"]]\n', "is no list of lines"),
        ('[project]\ndependencies = ["a\\n-r /etc/passwd"]\n', "is no list of lines"),
        ("[project]\ndependencies = {a = '1'}\n", "is no list of lines"),
        ("[project]\ndynamic = 1\n", "is no list"),
        (b"\xff\xfe", "is not UTF-8"),
        ("#" * (requirements.BYTES_MAX + 1), f"more than {requirements.BYTES_MAX} bytes"),
        ("x = " + "[" * 5000, "cannot be read"),
    ],
)
def test_a_project_that_does_not_say_what_it_requires_is_refused(tmp_path: Path, text: str | bytes, words: str):
    assert words in refused(tmp_path, text)


@pytest.mark.parametrize("text", [b"\xff\xfe", b"a" * (requirements.BYTES_MAX + 1)])
def test_requirements_that_cannot_be_read_are_refused(tmp_path: Path, text: bytes):
    assert refused(tmp_path, text=text).startswith("requirements.txt ")


def test_each_dependency_is_held_to_the_rules_of_requirements(tmp_path: Path):
    text = of(tmp_path, '[project]\ndependencies = ["a", "b @ file:///etc/passwd"]\n')
    with pytest.raises(BuildError, match="line 2 of the requirements is a URL"):
        requirements.parse(text)


def test_folders_of_these_names_are_none_of_them(tmp_path: Path):
    (tmp_path / projects.REQUIREMENTS_FILE).mkdir()
    assert of(tmp_path, '[project]\ndependencies = ["a"]\n') == "a\n"
