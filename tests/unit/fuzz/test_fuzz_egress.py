"""Rules of egress: what a deployer writes ends in a script that root's nft runs."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import egress
from runtime.netns import ruleset
from tests.unit.fuzz.fuzzing import examples

pytestmark = pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning")  # of long examples
NUMBERS = st.integers(-1, 70_000).map(str)
ADDRESSES = st.ip_addresses(v=4).map(str)
RULES = st.builds(
    "".join,
    st.tuples(
        st.one_of(ADDRESSES, st.text(max_size=12)),
        st.sampled_from(["", "/32", "/24", "/8", "/0", "/33", "/"]),
        st.one_of(st.just(""), NUMBERS.map(":{}".format), st.tuples(NUMBERS, NUMBERS).map(":{0[0]}-{0[1]}".format)),
        st.sampled_from(["", "/tcp", "/udp", "/TCP", "; drop", "\n", " }"]),
    ),
)
SAFE = re.compile(
    r"(ip daddr [0-9.]+/[0-9]{1,2} ?)?(ip daddr != @private )?meta l4proto (tcp|udp|{ tcp, udp })"
    r"( th dport [0-9]{1,5}(-[0-9]{1,5})?)? accept"
)


@examples(500)
@given(st.one_of(RULES, st.text(max_size=80)))
def test_a_rule_is_refused_or_becomes_one_line_that_says_nothing_else(text: str):
    try:
        (rule,) = egress.check([text]) or (egress.NONE,)
    except ValueError as error:
        assert str(error)
        return
    if rule in (egress.NONE, egress.INTERNET):
        return
    assert egress.check([rule]) == (rule,)
    lines = [line.strip() for line in ruleset.add_policy("t", 1, [rule]).splitlines() if "accept" in line]
    assert len(lines) == 1 and SAFE.fullmatch(lines[0]), lines


@examples(200)
@given(st.text(max_size=30))
def test_settings_of_the_network_are_refused_or_addresses(text: str):
    for parse in (egress.parse_subnet, lambda one: egress.parse_resolvers([one])):
        try:
            parse(text)
        except ValueError:
            continue
        assert re.fullmatch(r"[0-9./]+", text)
