import pytest

from runtime import egress
from runtime.egress import INTERNET, NEVER, PRIVATE, RULES_MAX


@pytest.mark.parametrize(
    "text",
    [
        *("10.1.0.0/16", "10.1.2.3/32", "0.0.0.0/0", "93.184.216.34/32:443", "93.184.216.34/32:443/tcp"),
        *("10.0.0.0/8:1-65535", "10.0.0.0/8:53/udp", "10.0.0.0/8:5432-5433/tcp", "10.0.0.0/8/udp"),
    ],
)
def test_a_rule_is_shown_as_it_was_written(text: str):
    assert str(egress.parse_rule(text)) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [("10.1.2.3", "10.1.2.3/32"), ("10.1.2.3:80-80", "10.1.2.3/32:80"), ("10.1.2.3:00080/tcp", "10.1.2.3/32:80/tcp")],
)
def test_short_forms_are_completed(text: str, shown: str):
    assert str(egress.parse_rule(text)) == shown


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "CIDR"),
        ("example.com:443", "CIDR"),
        ("10.0.0.0/8:80/sctp", "CIDR"),
        ("10.0.0.0/8:80-", "CIDR"),
        ("10.0.0.0/8 ", "CIDR"),
        ("10.0.0.0/8\n", "CIDR"),
        ("10.0.0.0/8; drop", "CIDR"),
        ("١٠.0.0.0/8", "CIDR"),
        ("2001:db8::/32", "IPv6 is not available"),
        ("[2001:db8::1]:443", "IPv6 is not available"),
        ("10.0.0.1/8", "host bits"),
        ("10.0.0.0/33", "10.0.0.0/33"),
        ("10.0.0/8", "10.0.0/8"),
        ("999.0.0.0/8", "999"),
        ("10.0.0.0/8:0", "ports are 1 to 65535"),
        ("10.0.0.0/8:65536", "ports are 1 to 65535"),
        ("10.0.0.0/8:90-80", "ports are 1 to 65535"),
        ("169.254.169.254/32", "within 169.254.0.0/16"),
        ("168.63.129.16:80", "within 168.63.129.16/32"),
        ("100.100.100.200", "within 100.100.100.200/32"),
        ("127.0.0.1", "within 127.0.0.0/8"),
        ("255.255.255.255/32:67/udp", "within 240.0.0.0/4"),
        ("224.0.0.251:5353", "within 224.0.0.0/4"),
        ("10.0.0.0/8" + ":1" * 40, "CIDR"),
    ],
)
def test_what_is_no_rule_is_refused_with_the_reason(text: str, why: str):
    with pytest.raises(ValueError, match=why):
        egress.parse_rule(text)


def test_the_three_forms_of_the_setting():
    assert egress.check("none") == egress.check(["none"]) == egress.check([]) == ()
    assert egress.check("internet") == egress.check(["internet"]) == (INTERNET,)
    assert egress.check("10.0.0.1") == ("10.0.0.1/32",)
    assert egress.check(["internet", "10.0.0.1", "10.0.0.1/32"]) == ("internet", "10.0.0.1/32")


def test_none_excludes_others_and_rules_are_counted():
    with pytest.raises(ValueError, match="excludes"):
        egress.check(["none", "internet"])
    assert len(egress.check([f"10.0.0.{n}" for n in range(RULES_MAX)])) == RULES_MAX
    with pytest.raises(ValueError, match="the limit is 64"):
        egress.check([f"10.0.0.{n}" for n in range(RULES_MAX + 1)])


@pytest.mark.parametrize(
    ("setting", "shown"),
    [((), "none"), (("internet",), "internet"), (("internet", "10.0.0.0/8"), ["internet", "10.0.0.0/8"])],
)
def test_shown_as_users_write_it(setting: tuple[str, ...], shown: object):
    assert egress.shown(setting) == shown
    assert egress.check(egress.shown(setting)) == setting


def test_only_a_rule_within_a_private_range_names_private_addresses():
    assert egress.parse_rule("10.0.0.0/8").is_private
    assert egress.parse_rule("192.168.7.0/24").is_private
    for wider in ("0.0.0.0/0", "8.0.0.0/5", "192.0.0.0/8", "93.184.216.34/32"):
        assert not egress.parse_rule(wider).is_private


def test_what_is_not_public_is_in_one_of_the_two_lists():
    for network in (*NEVER, *PRIVATE):
        assert not network.is_global or network.network_address.packed in (b"\xc0\0\0\0", b"\xc0Xc\0", b"\xe0\0\0\0")


@pytest.mark.parametrize("text", ["10.0.0.0/7", "10.0.0.0/29", "10.0.0.1/16", "169.254.0.0/16", "fd00::/16", "x", ""])
def test_a_subnet_that_cannot_be_used_is_refused(text: str):
    with pytest.raises(ValueError):
        egress.parse_subnet(text)


@pytest.mark.parametrize("text", ["127.0.0.53", "169.254.1.1", "::1", "dns.example", "224.0.0.1"])
def test_a_name_server_that_no_sandbox_reaches_is_refused(text: str):
    with pytest.raises(ValueError):
        egress.parse_resolvers([text])


def test_name_servers_are_kept_in_order_and_once():
    assert egress.parse_resolvers(["10.0.0.2", "9.9.9.9", "10.0.0.2"]) == ("10.0.0.2", "9.9.9.9")
