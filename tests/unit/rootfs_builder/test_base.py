"""The base rootfs: the command that makes it, what is kept, and when nothing is done. mmdebstrap is not run."""

import os
import stat
from pathlib import Path

import msgspec
import pytest

from rootfs_builder import base, base_tree
from rootfs_builder.events import Reporter
from rootfs_builder.suites import suite_of
from runtime.errors import BuildError

SUITE = suite_of("python3.11")


def rootfs(output: Path, digest: str = "d" * 64) -> base.Manifest:
    manifest = base.Manifest(
        runtime="python3.11",
        suite="bookworm",
        digest=digest,
        python_version="3.11.2",
        recipe=base.recipe(SUITE, ""),
        packages=(),
    )
    place = output / f"python3.11-{digest[:12]}"
    (place / "fs/usr/bin").mkdir(parents=True)
    (place / "fs/usr/bin/python3.11").write_text("")
    (place / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    (output / "python3.11").symlink_to(place.name)
    return manifest


def run(output: Path, runtime: str = "python3.11", **extra: bool) -> list[dict[str, object]]:
    with open(output / "out", "wb") as out:
        base.run(runtime, output, Reporter(out.fileno()), force=extra.get("force", False))
    return [msgspec.json.decode(line) for line in (output / "out").read_bytes().splitlines()]


def test_one_that_is_there_is_taken_and_nothing_is_written(tmp_path: Path):
    rootfs(tmp_path)
    events = run(tmp_path)
    assert events == [{"event": "done", "path": f"{tmp_path}/python3.11-dddddddddddd", "digest": "d" * 64}]


@pytest.mark.parametrize("damage", ["manifest", "suite", "recipe", "interpreter", "name", "link"])
def test_one_that_is_not_whole_is_none(damage: str, tmp_path: Path):
    manifest = rootfs(tmp_path)
    place = tmp_path / "python3.11-dddddddddddd"
    assert base.present(tmp_path / "python3.11", SUITE) == manifest
    if damage == "manifest":
        (place / "manifest.json").write_text("{")
    elif damage == "suite":
        changed = msgspec.structs.replace(manifest, suite="trixie")
        (place / "manifest.json").write_bytes(msgspec.json.encode(changed))
    elif damage == "recipe":
        changed = msgspec.structs.replace(manifest, recipe="0" * 16)
        (place / "manifest.json").write_bytes(msgspec.json.encode(changed))
    elif damage == "interpreter":
        (place / "fs/usr/bin/python3.11").unlink()
    elif damage == "name":
        changed = msgspec.structs.replace(manifest, digest="e" * 64)
        (place / "manifest.json").write_bytes(msgspec.json.encode(changed))
    else:
        (tmp_path / "python3.11").unlink()
    assert base.present(tmp_path / "python3.11", SUITE) is None


def test_only_root_can_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(BuildError, match="only root"):
        run(tmp_path)
    rootfs(tmp_path)
    with pytest.raises(BuildError, match="only root"):
        run(tmp_path, force=True)


def test_a_missing_program_is_named_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(base.shutil, "which", lambda program, path: None)
    with pytest.raises(BuildError) as caught:
        run(tmp_path)
    assert "mmdebstrap" in caught.value.message
    assert caught.value.hint == "apt-get install mmdebstrap"


def test_the_command_has_the_host_s_mirrors_and_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("https_proxy", "http://proxy.test")
    monkeypatch.setenv("SECRET", "x")
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    lines, options = ["deb http://m.test bookworm main"], ['Acquire::http::Proxy "p";']
    command = base.bootstrap_command(SUITE, tmp_path / "fs", tmp_path, lines, options)
    assert command.argv[-3:] == ("bookworm", f"{tmp_path}/fs", lines[0])
    assert '--aptopt=Acquire::http::Proxy "p";' in command.argv
    assert "--variant=extract" in command.argv
    assert command.environ["https_proxy"] == "http://proxy.test"
    assert command.environ["SOURCE_DATE_EPOCH"] == base.DATE_EPOCH
    assert "SECRET" not in command.environ


def test_the_link_is_swapped(tmp_path: Path):
    for target in ("one", "two"):
        base._swap(tmp_path / "python3.11", target)
        assert os.readlink(tmp_path / "python3.11") == target
    assert os.listdir(tmp_path) == ["python3.11"]


def test_the_same_digest_again_keeps_the_tree_that_may_be_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "sync", lambda: None)
    inodes: list[int] = []
    place = tmp_path
    for before in (None, None, "broken"):
        work = tmp_path / f"work{len(inodes)}"
        (work / "fs").mkdir(parents=True)
        (work / "fs/file").write_text("1")
        (work / "manifest.json").write_text("{}")
        manifest = base.Manifest(
            runtime="python3.11", suite="bookworm", digest=base_tree.digest(work / "fs"), python_version="", packages=()
        )
        if before is not None:
            (place / "fs/file").write_text(before)
        place = base._put_in_place(work, tmp_path, manifest)
        assert (place / "fs/file").read_text() == "1"
        inodes.append((place / "fs/file").stat().st_ino)
    assert inodes[0] == inodes[1] != inodes[2]


def test_bootstrap_failures_have_apt_s_words():
    said = ["I: running apt-get update...", "E: Unable to locate package x", "E: apt-get failed"]
    error = base._bootstrap_failure(SUITE, said)
    assert (error.kind, error.message) == (
        "base",
        "mmdebstrap cannot bootstrap bookworm: Unable to locate package x; apt-get failed",
    )
    assert base._bootstrap_failure(SUITE, ["E: write: No space left on device"]).kind == "limit"


def test_packages_are_listed_with_version_and_hash(tmp_path: Path):
    (tmp_path / base_tree.ARCHIVES).mkdir(parents=True)
    (tmp_path / base_tree.ARCHIVES / "zlib1g_1%3a1.2.13_amd64.deb").write_bytes(b"")
    (found,) = base_tree.packages(tmp_path)
    assert (found["name"], found["version"], len(found["sha256"])) == ("zlib1g", "1:1.2.13", 64)


def test_trimming_leaves_no_devices_docs_or_caches(tmp_path: Path):
    for name in ("usr/share/doc/x", "usr/share/zoneinfo", "var/cache/apt", "var/lib/dpkg", "dev/pts", "etc/apt"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "dev/fd").symlink_to("/proc/self/fd")
    base_tree.trim(tmp_path)
    assert os.listdir(tmp_path / "usr/share") == ["zoneinfo"]
    assert os.listdir(tmp_path / "dev") == os.listdir(tmp_path / "var/cache") == []
    assert (tmp_path / "opt/env").is_dir()
    assert not (tmp_path / "etc/apt").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_a_tree_is_made_harmless(tmp_path: Path):
    (tmp_path / "tmp").mkdir()
    (tmp_path / "var/tmp").mkdir(parents=True)
    (tmp_path / "private").mkdir(mode=0o700)
    (tmp_path / "su").write_text("")
    os.chmod(tmp_path / "su", 0o4750)
    os.chown(tmp_path / "su", 5, 5)
    os.mkfifo(tmp_path / "pipe")
    base_tree.sanitise(tmp_path)
    status = (tmp_path / "su").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o755, 0, 0)
    assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "tmp").stat().st_mode) == 0o1777
    assert not (tmp_path / "pipe").exists()


def test_the_digest_is_of_names_modes_targets_and_contents_but_not_of_what_the_host_derives(tmp_path: Path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/file").write_text("1")
    (tmp_path / "link").symlink_to("etc")
    seen = [base_tree.digest(tmp_path)]
    (tmp_path / "etc/ld.so.cache").write_text("x")
    os.utime(tmp_path / "etc/file", (1, 1))
    assert base_tree.digest(tmp_path) == seen[0]
    for change in (
        lambda: (tmp_path / "etc/file").write_text("2"),
        lambda: (tmp_path / "etc/file").chmod(0o600),
        lambda: (tmp_path / "etc").chmod(0o1777),
        lambda: ((tmp_path / "link").unlink(), (tmp_path / "link").symlink_to("usr")),
        lambda: (tmp_path / "etc/file").rename(tmp_path / "etc/other"),
        lambda: (tmp_path / "etc/__pycache__").mkdir(),
        lambda: (tmp_path / "etc/__pycache__/m.pyc").write_text("x"),
    ):
        change()
        seen.append(base_tree.digest(tmp_path))
    assert len(set(seen)) == len(seen)


def test_the_size_is_in_blocks_and_counts_hard_links_once(tmp_path: Path):
    (tmp_path / "one").write_bytes(b"x" * 4097)
    (tmp_path / "two").hardlink_to(tmp_path / "one")
    (tmp_path / "link").symlink_to("one")
    (tmp_path / "empty").touch()
    assert base_tree.disk_bytes(tmp_path) == 8192


def test_mounts_below_a_tree_are_found(tmp_path: Path):
    place = tmp_path.resolve()
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text(
        f"1 0 0:1 / {place}/a rw - proc proc rw\n2 0 0:1 / {place}x rw - proc proc rw\n3 0 0:1 / / rw - ext4 x rw\n"
    )
    assert list(base_tree.mounts_below(tmp_path, mountinfo)) == [f"{place}/a"]


def test_the_toolchain_is_another_rootfs_beside_the_runtime_s_own(tmp_path: Path):
    rootfs(tmp_path)
    assert base.present(tmp_path / "python3.11-toolchain", SUITE) is None
    own = base.present(tmp_path / "python3.11", SUITE)
    assert own is not None
    manifest = msgspec.structs.replace(
        own, variant=base.TOOLCHAIN, digest="e" * 64, recipe=base.recipe(SUITE, base.TOOLCHAIN)
    )
    place = tmp_path / "python3.11-toolchain-eeeeeeeeeeee"
    (place / "fs/usr/bin").mkdir(parents=True)
    (place / "fs/usr/bin/python3.11").write_text("")
    (place / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    (tmp_path / "python3.11-toolchain").symlink_to(place.name)
    assert base.present(tmp_path / "python3.11-toolchain", SUITE) == manifest
    (tmp_path / "python3.11").unlink()
    (tmp_path / "python3.11").symlink_to(place.name)
    assert base.present(tmp_path / "python3.11", SUITE) is None


def test_the_toolchain_has_compilers_beside_what_a_base_has(tmp_path: Path):
    plain = base.bootstrap_command(SUITE, tmp_path, tmp_path, [], []).argv
    more = base.bootstrap_command(SUITE, tmp_path, tmp_path, [], [], more=base.COMPILERS).argv
    (one,), (other,) = ([each for each in argv if each.startswith("--include=")] for argv in (plain, more))
    assert other.removeprefix(one) == "," + ",".join(base.COMPILERS)
    assert {"gcc", "g++", "libc6-dev", "python3-dev"} <= set(base.COMPILERS)
