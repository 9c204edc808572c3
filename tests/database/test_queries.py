import re
from importlib import resources
from pathlib import Path

import pytest

from seawall.database.queries import Query, load_queries, parse_queries

SOURCE = Path(str(resources.files("seawall")))
QUERY_FILES = sorted(path for path in SOURCE.rglob("*.sql") if "database" not in path.parts[len(SOURCE.parts) :])

TWO = """\
-- name: first
-- Why the first
-- exists.
select 1;

-- name: second_2
-- Another.
update things set a = 1 -- not this
where b = $1;
"""


def test_a_file_is_split_into_its_named_statements() -> None:
    queries = parse_queries(TWO, prefix="tests")

    assert [query.name for query in queries.values()] == ["tests.first", "tests.second_2"]
    assert queries["first"].why == "Why the first exists."
    assert queries["first"].sql == "select /* tests.first */ 1"


def test_the_name_travels_behind_the_first_keyword() -> None:
    queries = parse_queries(TWO, prefix="tests")

    assert queries["second_2"].sql.startswith("update /* tests.second_2 */ things set")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("-- name: a\nselect 1;", "why"),
        ("-- name: a\n-- Because.\nselect 1;\n\n-- name: a\n-- Again.\nselect 2;", "two queries"),
        ("-- name: a\n-- Because.\nSELECT 1;", "keyword"),
        ("-- name: a\n-- Because.\n;", "keyword"),
        ("select 1;\n-- name: a\n-- Because.\nselect 1;", "its name"),
        ("select 1;", "its name"),
        ("-- name: a\n-- Because.\nselect 1;\n\n-- name: B\n-- Because.\nselect 2;", "its name"),
        ("-- name: a\n-- Because.\nselect 1;\n\n--name: b\n-- Because.\nselect 2;", "its name"),
        ("-- name: a\n-- Because.\nselect 1;\n\n-- name:b\n-- Because.\nselect 2;", "its name"),
    ],
)
def test_what_is_not_a_named_statement_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_queries(text, prefix="tests")


def test_two_queries_are_never_the_same_one_though_they_look_alike() -> None:
    first, second = (Query(name="a", why="b", sql="select") for _ in range(2))

    assert len({first, second}) == 2


def test_queries_have_the_names_of_their_package() -> None:
    queries = load_queries("seawall.access", "access.sql")

    assert queries["epoch"].name == "access.epoch"
    assert set(queries) >= {"epoch", "credential"}


@pytest.mark.parametrize("path", QUERY_FILES, ids=lambda path: path.name)
def test_names_are_used_by_the_code_beside_them(path: Path) -> None:
    code = "\n".join(module.read_text() for module in path.parent.glob("*.py"))
    names = re.findall(r"^-- name: (\w+)$", path.read_text(), re.MULTILINE)

    assert [name for name in names if f'"{name}"' not in code] == []
