"""Look for requests that the server and the reference read differently, guided by coverage.

By hand, where atheris is installed: `python -m tests.edge.fuzz_head -max_total_time=600`.
"""

import sys

import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore]

with atheris.instrument_imports(include=["seawall.edge", "tests.edge.reference"]):
    from tests.edge.reference import check_body, check_chunks, check_head


def one_input(data: bytes) -> None:
    """Use the first byte to choose what is read, and the next four to cut the rest."""
    if len(data) < 5:
        return
    kind, cuts, rest = data[0] % 3, list(data[1:5]), data[5:]
    if kind == 0:
        end = rest.find(b"\r\n\r\n") + 4
        check_head(rest[:end] if end >= 4 else rest)
    elif kind == 1:
        check_chunks(rest, cuts)
    else:
        check_body(None if data[1] & 1 else data[2], rest, cuts)


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
