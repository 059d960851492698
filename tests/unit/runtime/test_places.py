"""Folders and files that others could change are refused, with the fix."""

import os
from pathlib import Path

import pytest

from runtime import places
from runtime.errors import ConfigError


@pytest.fixture
def base(tmp_path: Path) -> Path:
    tmp_path.chmod(0o755)
    return tmp_path


def test_a_folder_is_made_and_gets_exactly_its_mode(base: Path):
    folder = base / "a/b"
    places.make(folder, 0o711)
    assert folder.stat().st_mode & 0o7777 == 0o711
    folder.chmod(0o755)
    before = os.umask(0o077)
    try:
        places.make(folder, 0o700)
        places.make(base / "c", 0o711)
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o7777 == 0o700 and (base / "c").stat().st_mode & 0o7777 == 0o711


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
def test_a_folder_that_others_can_write_to_is_refused(base: Path, mode: int):
    folder = base / "state"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(ConfigError, match=f"mode 0{mode:o}") as caught:
        places.make(folder, 0o711)
    assert f"chmod 0711 {folder}" in caught.value.hint
    with pytest.raises(ConfigError, match="mode"):
        places.make(folder / "below", 0o711)
    assert not (folder / "below").exists()


def test_a_folder_of_another_user_is_refused(base: Path, monkeypatch: pytest.MonkeyPatch):
    if os.geteuid() == 0:
        folder = base / "state"
        folder.mkdir()
        os.chown(folder, 65534, 65534)
        with pytest.raises(ConfigError, match="belongs to user 65534") as caught:
            places.make(folder, 0o711)
        assert "chown root:root" in caught.value.hint


def test_a_link_is_followed_and_what_it_leads_to_is_checked(base: Path):
    (base / "open").mkdir()
    (base / "open").chmod(0o777)
    (base / "open/state").mkdir()
    (base / "link").symlink_to(base / "open/state")
    with pytest.raises(ConfigError, match="open"):
        places.make(base / "link", 0o711)


def test_a_file_in_the_place_of_a_folder_is_told(base: Path):
    (base / "file").write_text("")
    with pytest.raises((ConfigError, FileExistsError)):
        places.make(base / "file", 0o711)


def test_settings_that_others_can_write_are_refused(base: Path):
    file = base / "pagurus.toml"
    places.check_file(file)
    file.write_text("")
    file.chmod(0o644)
    places.check_file(file)
    file.chmod(0o664)
    with pytest.raises(ConfigError, match="mode 0664"):
        places.check_file(file)
