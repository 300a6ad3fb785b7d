"""Hypothesis strategies for the fuzzing targets: pieces that a fuzzer would first have to find."""

from __future__ import annotations

from hypothesis import strategies as st

from . import targets

header = st.binary(min_size=targets.HEADER, max_size=targets.HEADER)
requests = st.lists(
    st.sampled_from(
        [
            b"*1\r\n",
            b"*2\r\n",
            b"*3\r\n",
            b"$4\r\n",
            b"$1\r\n",
            b"$0\r\n",
            b"\r\n",
            b"INSPECT",
            b"INSPECT_FIRST",
            b"TEXT",
            b"KNOWN",
            b"REFUSE",
            b"x",
            b'"',
            b" ",
        ]
    )
    | st.binary(max_size=6),
    max_size=30,
)
elements = (
    b"*1\r\n *3\r\n >3\r\n %1\r\n |1\r\n ~2\r\n *-1\r\n +x\r\n -x\r\n :1\r\n $1\r\nx\r\n $-1\r\n \r "
    b"$9\r\nsubscribe\r\n $7\r\nmessage\r\n $8\r\npmessage\r\n $11\r\nunsubscribe\r\n"
)
replies = st.lists(st.sampled_from(elements.split(b" ")) | st.binary(max_size=3), max_size=30)
moves = st.lists(
    st.tuples(st.integers(30, 109), st.integers(0, len(targets.CLIENT) - 1)).map(bytes)
    | st.binary(min_size=2, max_size=2)
    | st.sampled_from([b"\xf8\0", b"\xeb\0", b"\xfc\0"]),  # BLPOP, the end of file
    max_size=40,
)
