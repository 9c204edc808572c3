"""Named SQL, kept in `.sql` files beside the modules that run it.

A statement starts with `-- name: so_and_so` and a comment that says why it exists. Its name travels
to the server as a comment after the first keyword, so that the slow-query list, the trace and the
check-up use the same word (`pg_stat_statements` of PostgreSQL 18 strips leading comments).
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources

NAME = re.compile(r"^-- name: (?P<name>[a-z][a-z0-9_]*)$", re.MULTILINE)
# What was meant to be a name: misspelt, it would make one statement of two.
ALMOST_NAME = re.compile(r"^\s*--\s*name\b", re.MULTILINE | re.IGNORECASE)
XMIN = re.compile(r"\bxmin\b")
FIRST_KEYWORD = re.compile(r"^(?P<keyword>[a-z]+)\b")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Query:
    """One named SQL statement."""

    name: str
    why: str
    sql: str
    gives_xmin: bool = False
    """Whether its rows say which transaction made them: then a replica may answer it (see `read_index`)."""

    def __repr__(self) -> str:
        return f"<Query {self.name}>"


class Queries(Mapping[str, Query]):
    """The statements of one file, by their short names."""

    def __init__(self, queries: Mapping[str, Query]) -> None:
        self._queries = dict(queries)

    def __getitem__(self, name: str) -> Query:
        return self._queries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._queries)

    def __len__(self) -> int:
        return len(self._queries)


def load_queries(package: str, file_name: str) -> Queries:
    """Read the named statements of a file that lies in `package`.

    Raises:
        ValueError: a statement has no name, no reason, no first keyword, or a name that was there before.
    """
    text = resources.files(package).joinpath(file_name).read_text(encoding="utf-8")
    return Queries(parse_queries(text, prefix=package.rpartition(".")[2]))


def parse_queries(text: str, *, prefix: str) -> dict[str, Query]:
    """Split the text of a `.sql` file into its statements; errors as `load_queries`."""
    found: dict[str, Query] = {}
    starts = list(NAME.finditer(text))
    if text[: starts[0].start() if starts else None].strip() or len(starts) != len(ALMOST_NAME.findall(text)):
        raise ValueError("every statement starts with its name, as `-- name: so_and_so`")
    for start, following in zip(starts, [*starts[1:], None], strict=True):
        name = start["name"]
        body = text[start.end() : following.start() if following else len(text)].strip()
        comments = [line for line in body.splitlines() if line.startswith("--")]
        why = " ".join(line.removeprefix("--").strip() for line in comments)
        sql = "\n".join(line for line in body.splitlines() if not line.startswith("--")).strip().removesuffix(";")
        if not why:
            raise ValueError(f"query {name} does not say why it exists")
        if name in found:
            raise ValueError(f"there are two queries named {name}")
        named, count = FIRST_KEYWORD.subn(rf"\g<keyword> /* {prefix}.{name} */", sql, count=1)
        if not count:
            raise ValueError(f"query {name} does not start with a keyword in lower case")
        found[name] = Query(name=f"{prefix}.{name}", why=why, sql=named, gives_xmin=XMIN.search(sql) is not None)
    return found
