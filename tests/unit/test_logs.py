"""Log lines: one a record, parsed by eye and by program."""

import io
import logging

import pytest

from runtime import logs


@pytest.fixture
def stream():
    root = logging.getLogger()
    before = root.handlers[:], root.level
    found = io.StringIO()
    logs.configure("info", found)
    yield found
    root.handlers[:], root.level = before


def test_a_line_has_its_ids_and_quotes_what_has_spaces(stream: io.StringIO):
    logging.getLogger("some.part").info("it %s", "died", extra={"sandbox": "s1", "function": "hello"})
    line = stream.getvalue()
    assert line.startswith("time=20")
    assert line.endswith(' level=info logger=some.part msg="it died" sandbox=s1 function=hello\n')


def test_one_record_is_one_line_whatever_it_holds(stream: io.StringIO):
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logging.getLogger("x").exception('a "quoted"\nmessage')
    assert stream.getvalue().count("\n") == 1
    assert r"two\nlines" in stream.getvalue()


def test_the_level_holds(stream: io.StringIO):
    logging.getLogger("x").debug("no")
    assert stream.getvalue() == ""
