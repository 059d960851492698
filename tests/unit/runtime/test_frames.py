"""Frames between the gateway and a worker."""

import pytest

from runtime.frames import HEADER, HEADER_BYTES, ID_BYTES_MAX, MAGIC, ErrorKind, FrameKind, pack


def test_a_frame_is_header_id_and_payload():
    frame = pack(FrameKind.INVOKE, b"id", b"[1]", 30_000, 7)
    assert HEADER.unpack_from(frame) == (MAGIC, FrameKind.INVOKE, 2, 3, 30_000, 7)
    assert frame[HEADER_BYTES:] == b"id[1]"


def test_the_header_is_the_same_on_every_machine():
    assert HEADER_BYTES == 16 and HEADER.format.startswith("!")
    assert pack(FrameKind.PING, b"", b"") == bytes.fromhex("50670300 00000000 00000000 00000000")


def test_requests_are_below_sixteen_and_answers_above():
    requests = {FrameKind.INVOKE, FrameKind.CHECK, FrameKind.PING}
    assert {kind for kind in FrameKind if kind < 16} == requests


def test_the_longest_id_fits_into_its_field():
    assert pack(FrameKind.PING, b"x" * ID_BYTES_MAX, b"")
    with pytest.raises(Exception, match=r"ubyte|format requires"):
        pack(FrameKind.PING, b"x" * 256, b"")


def test_error_kinds_are_words_of_their_own():
    words = [value for name, value in vars(ErrorKind).items() if name.isupper()]
    assert len(set(words)) == len(words) == 6
