import http.server
import os
import socket
import tempfile
import threading
from pathlib import Path

import pytest

from runtime import machine_probes as machine
from runtime.config import Settings
from runtime.errors import RequirementError


@pytest.fixture
def open_path():
    """A folder that others can pass through: pytest's own are 0700."""
    with tempfile.TemporaryDirectory(prefix="pagurus-test-", dir="/var/tmp") as name:
        os.chmod(name, 0o711)
        yield Path(name)


def test_capabilities_are_read_from_the_status():
    everything = f"Name:\tx\nCapEff:\t{(1 << 41) - 1:016x}\n"
    assert machine.missing_capabilities(everything) == []
    without_admin = f"CapEff:\t{((1 << 41) - 1) & ~(1 << 21):016x}\n"
    assert machine.missing_capabilities(without_admin) == ["sys_admin"]
    assert len(machine.missing_capabilities("CapEff:\t0000000000000000")) == len(machine.CAPABILITIES)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("", None),
        ("alice:100000:65536\n", None),
        ("alice:1000:1001\n", "alice"),
        ("alice:2999:1\n", "alice"),
        ("alice:3000:5\nbob:1999:2\n", "bob"),
        ("alice:1:999\n", None),
        ("# no entry\nbroken:line\nalice::\n", None),
    ],
)
def test_overlapping_ranges_of_uids(text, name):
    assert machine.overlapping(text, 2000, 3000) == name


def test_a_user_that_is_root_or_missing_is_refused():
    with pytest.raises(RequirementError, match="is root"):
        machine.user("root")
    with pytest.raises(RequirementError, match="no user"):
        machine.user("pagurus-nobody-has-this")


def test_programs_are_found_beside_the_interpreter_too(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert machine.find_program("python") is not None
    with pytest.raises(RequirementError, match="not found"):
        machine.program("pagurus-no-such-program")


def test_modules():
    assert machine.module("json") == "installed"
    with pytest.raises(RequirementError, match="not installed"):
        machine.module("pagurus_no_such_module")


def test_a_base_rootfs_has_a_runtimes_name(tmp_path):
    settings = Settings(state_dir=str(tmp_path))
    with pytest.raises(RequirementError, match="none in"):
        machine.base_rootfs(settings)
    (tmp_path / "rootfs" / "python3.11-0123456789ab").mkdir(parents=True)
    (tmp_path / "rootfs" / "python3.11").symlink_to("python3.11-0123456789ab")
    (tmp_path / "rootfs" / "python3.12").symlink_to("python3.12-gone")
    assert machine.base_rootfs(settings) == "python3.11"


def test_a_folder_that_is_not_there_yet_is_judged_by_its_parent(open_path):
    tmp_path = open_path
    path = str(tmp_path / "a" / "b")
    assert machine.existing_parent(path) == str(tmp_path)
    assert machine.folder(path).endswith(", not made yet")
    assert not machine.folder(str(tmp_path)).endswith("yet")


def test_too_little_space_and_memory_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "STATE_BYTES_MIN", 1 << 62)
    monkeypatch.setattr(machine, "MEMORY_BYTES_MIN", 1 << 62)
    with pytest.raises(RequirementError, match="GiB free"):
        machine.free_space(str(tmp_path))
    with pytest.raises(RequirementError, match="GiB available"):
        machine.memory()


def test_too_few_descriptors_and_namespaces_are_told():
    settings = Settings(sandboxes_max=1 << 40)
    with pytest.raises(RequirementError, match="sandboxes_max"):
        machine.descriptors(settings)
    with pytest.raises(RequirementError, match=r"user\.max_net_namespaces"):
        machine.namespace_limits(settings)


def test_a_free_address_is_free():
    assert machine.listen(Settings(listen="127.0.0.1:0")).endswith("is free")


def test_an_address_of_another_program_is_told():
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(RequirementError, match="another program"):
        other.settimeout(5)
        thread = threading.Thread(target=lambda: other.accept()[0].close())
        thread.start()
        try:
            machine.listen(Settings(listen=f"127.0.0.1:{other.getsockname()[1]}"))
        finally:
            thread.join()


def test_an_address_held_by_a_gateway_is_fine():
    class Gateway(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = b'{"info": {"title": "Pagurus"}}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Gateway) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        found = machine.listen(Settings(listen=f"127.0.0.1:{server.server_port}"))
        thread.join()
    assert found.endswith("running pagurusd")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_root_is_root():
    assert machine.root() == "root"


def test_a_folder_below_one_that_is_closed_to_others_is_refused(open_path):
    home = open_path / "home"
    home.mkdir(mode=0o700)
    with pytest.raises(RequirementError, match="closed to other users") as caught:
        machine.folder(str(home / "state"))
    assert caught.value.hint == f"chmod o+x {home}"
