"""What the gateway gets to see: computed without a kernel's help."""

from pathlib import Path

import pytest

from runtime import gateway_room
from runtime.config import Settings


def test_folders_inside_others_are_shown_once():
    paths = [Path("/usr"), Path("/opt/p/venv"), Path("/usr/bin"), Path("/opt/p/venv/bin"), Path("/usrlocal")]
    assert set(gateway_room.outermost(paths)) == {Path("/usr"), Path("/opt/p/venv"), Path("/usrlocal")}


def test_the_whole_machine_is_never_shown():
    with pytest.raises(AssertionError, match="root directory"):
        gateway_room.outermost([Path("/"), Path("/usr")])


def test_what_is_shown_covers_interpreter_and_code_and_no_state():
    found = gateway_room.shown()
    ours = Path(gateway_room.__file__).resolve()
    assert any(ours.is_relative_to(path) for path in found)
    for place in ("/var/lib/pagurus", "/etc/pagurus", "/home", "/root", "/run"):
        assert not any(Path(place).is_relative_to(path) for path in found)


def test_the_gateway_gets_no_address_or_password_of_an_index():
    source = {"PIP_INDEX_URL": "https://user:word@index.test", "LANG": "de_DE.UTF-8", "HTTPS_PROXY": "x", "TOKEN": "y"}
    assert gateway_room.environ(Settings(state_dir="/s"), source) == {
        "PATH": "/usr/bin:/bin",
        "LANG": "de_DE.UTF-8",
        "TMPDIR": "/s/store",
    }
