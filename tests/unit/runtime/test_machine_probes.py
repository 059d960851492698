import http.server
import os
import socket
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace

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


def etc_of(folder, **files):
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("file", ["subuid", "subgid"])
@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", None),
        ("alice:100000:65536\n", None),
        ("alice:1000:1001\n", "line 1 (alice) gives 1001 from 1000 on"),
        ("# who\n\nalice:2999:1\n", "line 3 (alice) gives 1 from 2999 on"),
        ("alice:3000:5\nbob: 1999 : 2 \n", "line 2 (bob) gives 2 from 1999 on"),
        ("1001:2500:10\n", "line 1 (1001) gives 10 from 2500 on"),
        ("alice:1:999\n", None),
        ("# no entry\nbroken:line\nalice::\nbob:x:y\n", None),
    ],
)
def test_subordinate_ids_are_read_with_their_line(tmp_path, file, text, found):
    etc = etc_of(tmp_path, **{file: text})
    met = [one.words for one in machine.taken_ids(etc) if one.first < 3000 and one.after > 2000]
    met = [words for words in met if str(tmp_path) in words]
    assert met == ([f"{etc / file} {found}"] if found else [])


def test_users_and_groups_are_read_with_their_line(tmp_path):
    passwd = "root:x:0:0::/:/bin/sh\nann:x:2001:2002:Ann:/:/bin/sh\n"
    etc = etc_of(tmp_path, passwd=passwd, group="wheel:x:10:\ncrew:x:2003:ann\n+\n")
    met = [one for one in machine.taken_ids(etc) if str(tmp_path) in one.words and one.first >= 2000]
    assert [(one.first, one.after) for one in met] == [(2001, 2002), (2002, 2003), (2003, 2004)]
    assert [one.words for one in met] == [
        f"{etc}/passwd line 2 (ann) has 2001",
        f"{etc}/passwd line 2 (ann) has 2002",
        f"{etc}/group line 2 (crew) has 2003",
    ]


def test_users_of_other_sources_are_seen_too(tmp_path, monkeypatch):
    record = SimpleNamespace(pw_name="ldap", pw_uid=4_000_000, gr_name="ldap", gr_gid=4_000_001)
    monkeypatch.setattr(machine.pwd, "getpwall", lambda: [record])
    monkeypatch.setattr(machine.grp, "getgrall", lambda: [record])
    assert [one.words for one in machine.taken_ids(tmp_path)] == ["user ldap has 4000000", "group ldap has 4000001"]


def test_a_range_that_somebody_has_is_refused_with_setting_line_and_a_free_one(monkeypatch):
    settings = Settings(uid_base=0x70000000, zygotes_max=2)
    assert machine.uid_range(settings) == "1879048192..1879179263"
    taken = machine.TakenIds(0x70000000 + 131071, 0x71000001, "/etc/subuid line 3 (bob) gives 9 from 5 on")
    monkeypatch.setattr(machine, "taken_ids", lambda: iter([taken]))
    with pytest.raises(RequirementError) as caught:
        machine.uid_range(settings)
    assert "uid_base 1879048192 takes 1879048192..1879179263, but /etc/subuid line 3 (bob)" in str(caught.value)
    assert caught.value.hint == f"set uid_base = {0x72000000} (PAGURUS_UID_BASE)"
    assert machine.uid_range(Settings(uid_base=0x72000000)).startswith(str(0x72000000))


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


def test_the_limit_of_the_disk_is_told_with_its_number_or_why_there_is_none(tmp_path, monkeypatch):
    settings = Settings(state_dir=str(tmp_path), disk_bytes_per_s=2 << 20)
    monkeypatch.setattr(machine.disks, "below", lambda folder: "8:0")
    monkeypatch.setattr(machine, "v2_controllers", lambda mounts: frozenset({"cpu", "io"}))
    assert machine.disk_limit(settings) == "2 MiB/s of disk 8:0 for each sandbox"
    monkeypatch.setattr(machine, "v2_controllers", lambda mounts: frozenset({"cpu"}))
    with pytest.raises(RequirementError, match="no controller io"):
        machine.disk_limit(settings)
    assert machine.disk_limit(Settings(disk_bytes_per_s=0)).startswith("off")
