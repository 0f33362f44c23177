"""Frames on a stream of bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.gateway.worker.frames import FrameReader, head_of

FRAMES = st.lists(st.tuples(st.integers(0, 251), st.lists(st.binary(max_size=40), max_size=5).map(tuple)), max_size=8)


@given(FRAMES, st.integers(1, 60))
def test_frames_come_out_as_they_went_in(frames, piece):
    """Whatever pieces the stream comes in, down to single bytes."""
    stream = b"".join(head_of(kind, parts) + b"".join(parts) for kind, parts in frames)
    reader = FrameReader()

    read = [frame for at in range(0, len(stream), piece) for frame in reader.read(stream[at : at + piece])]

    assert read == frames
