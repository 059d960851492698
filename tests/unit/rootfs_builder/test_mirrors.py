"""The host's apt sources, told again for another release."""

from pathlib import Path

import pytest

from rootfs_builder import mirrors
from rootfs_builder.mirrors import Source

DEB822 = """\
# comment
Types: deb deb-src
# another
URIs: http://mirror.test/debian
Suites: bookworm
 bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.test/security
Suites: bookworm-security
Components: main

Types: deb
Enabled: no
URIs: http://off.test/debian
Suites: bookworm
Components: main

Types: deb
URIs: https://vendor.test/debian
Suites: bookworm
Components: main
Signed-By: /usr/share/keyrings/vendor.gpg

Types: deb
URIs: https://embedded.test/debian
Suites: bookworm
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 -----END PGP PUBLIC KEY BLOCK-----
"""
ONE_LINE = """\
# deb http://commented.test/debian bookworm main
deb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://mirror.test/debian bookworm main
deb-src http://mirror.test/debian bookworm main
deb http://mirror.test/security bookworm-security main contrib # trailing
deb http://vendor.test/docker bookworm stable
deb http://vendor.test/cloud cloud-sdk-bookworm main
"""


def host(tmp_path: Path, name: str, text: str) -> Path:
    (tmp_path / "apt/sources.list.d").mkdir(parents=True)
    (tmp_path / "os-release").write_text('NAME="Debian"\nVERSION_CODENAME=bookworm\n')
    (tmp_path / "apt" / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "text"),
    [("sources.list.d/debian.sources", DEB822), ("sources.list", ONE_LINE), ("sources.list.d/x.list", ONE_LINE)],
)
def test_only_debian_s_own_sources_are_told_again(name: str, text: str, tmp_path: Path):
    place = host(tmp_path, name, text)
    lines = mirrors.host_lines("trixie", apt=place / "apt", release=place / "os-release")
    told = [line.split("] ")[-1].removeprefix("deb ") for line in lines]
    assert [each for each in told if "updates" not in each] == [
        "http://mirror.test/debian trixie main",
        "http://mirror.test/security trixie-security main",
    ]
    assert any("trixie-updates" in line for line in lines) == (text is DEB822)


def test_the_keyring_of_all_releases_is_named():
    source = Source("http://m.test", "stable", ("main",), "/usr/share/keyrings/debian-archive-bookworm-stable.gpg")
    lines = mirrors.lines_for("trixie", [source], own="bookworm", keyring="/k.gpg")
    assert lines == ["deb [signed-by=/k.gpg] http://m.test trixie main"]


def test_without_a_source_of_debian_the_default_is_taken(tmp_path: Path):
    place = host(tmp_path, "sources.list", "deb http://archive.test/ubuntu jammy main universe\n")
    assert mirrors.host_lines("trixie", apt=place / "apt", release=place / "os-release") == []
    assert mirrors.host_lines("trixie", apt=tmp_path / "none", release=tmp_path / "none") == []
    security = Source("http://m.test", "bookworm-security", ("main",))
    assert mirrors.lines_for("trixie", [security], own="bookworm", keyring="") == []


def test_settings_of_the_transport_are_passed_and_no_others():
    dump = """\
APT::Architecture "amd64";
Acquire "";
Acquire::http "";
Acquire::http::Proxy "http://proxy.test:3128";
Acquire::https::CAInfo "/etc/ssl/own.crt";
Acquire::Check-Valid-Until "false";
Acquire::IndexTargets::deb::Packages::MetaKey "x";
Acquire::Languages "none";
DPkg::Pre-Install-Pkgs:: "/bin/true";
"""
    assert mirrors.transport_options(dump) == [
        'Acquire::http::Proxy "http://proxy.test:3128";',
        'Acquire::https::CAInfo "/etc/ssl/own.crt";',
        'Acquire::Check-Valid-Until "false";',
    ]
