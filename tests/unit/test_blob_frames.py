import random

import pytest
from awscrt.checksums import crc64nvme
from hypothesis import given, settings
from hypothesis import strategies as st

from seawall.blobs.frames import FRAME_BYTES, FrameSums, RunningSums, frame_count, frames_of, trailer_bytes
from seawall.blobs.locations import Location, container_name, file_location, new_file_name, segment_location
from seawall.errors import BlobCorrupt


@settings(deadline=None, max_examples=30)
@given(sizes=st.lists(st.integers(0, FRAME_BYTES + 2), max_size=4))
def test_a_trailer_knows_each_frame_and_the_whole_however_the_data_arrived(sizes: list[int]) -> None:
    pieces = [random.Random(size).randbytes(size) for size in sizes]
    data = b"".join(pieces)
    sums = RunningSums()

    for piece in pieces:
        sums.add(memoryview(piece))

    assert sums.crc64nvme == crc64nvme(data)
    trailer = sums.trailer()
    assert len(trailer) == trailer_bytes(len(data))
    stored = FrameSums(trailer, size=len(data), location="somewhere")
    assert stored.crc64nvme == crc64nvme(data)
    for index in range(frame_count(len(data))):
        stored.check(index, memoryview(data)[index * FRAME_BYTES : (index + 1) * FRAME_BYTES])


def test_a_trailer_for_another_size_is_refused_though_its_checksum_holds() -> None:
    sums = RunningSums()
    sums.add(memoryview(b"bytes"))

    with pytest.raises(BlobCorrupt, match="for something else"):
        FrameSums(sums.trailer(), size=4, location="somewhere")


@given(start=st.integers(0, 10 * FRAME_BYTES), length=st.integers(0, 5 * FRAME_BYTES))
def test_the_frames_of_a_span_are_those_that_hold_a_byte_of_it(start: int, length: int) -> None:
    frames = frames_of(start, start + length)

    if length == 0:
        assert len(frames) == 0
    else:
        assert frames == range(start // FRAME_BYTES, (start + length - 1) // FRAME_BYTES + 1)


@given(number=st.integers(0, 10**9 - 1), offset=st.integers(0, 10**12))
def test_a_location_is_the_same_after_being_text(number: int, offset: int) -> None:
    segment = container_name("0123456789abcdef", number)
    name = new_file_name()

    record, file = Location.parse(segment_location(segment, offset)), Location.parse(file_location(segment, name))

    assert (record.kind, record.container, record.offset) == ("segment", segment, offset)
    assert (file.kind, file.container, file.entry) == ("file", segment, name)
    assert str(record) == segment_location(segment, offset)
    assert str(file) == file_location(segment, name)


def test_a_file_of_its_own_has_no_offset() -> None:
    with pytest.raises(ValueError, match="no offset"):
        _ = Location.parse(file_location(container_name("0123456789abcdef", 0), new_file_name())).offset


@given(text=st.text())
def test_what_is_no_location_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match="is not a blob location"):
        Location.parse(text)
