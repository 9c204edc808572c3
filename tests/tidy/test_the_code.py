"""The code about the code: what reviews would otherwise have to look for."""

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest

from seawall.errors import SeawallError
from seawall.s3.errors import CODES, S3_ERRORS
from seawall.s3.operations import OPERATIONS

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "seawall"
MODULES = sorted(SOURCE.rglob("*.py"))
MUTATORS = {"add", "append", "clear", "discard", "extend", "insert", "pop", "popitem", "remove", "setdefault", "update"}


def packages() -> set[str]:
    return {path.parent.name for path in SOURCE.glob("*/__init__.py")} | {
        path.stem for path in SOURCE.glob("*.py") if not path.stem.startswith("__")
    }


def all_subclasses(cls: type[SeawallError]) -> Iterator[type[SeawallError]]:
    for subclass in cls.__subclasses__():
        yield subclass
        yield from all_subclasses(subclass)


def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    return [ROOT / name for name in listed.decode().split("\0") if name and (ROOT / name).is_file()]


def test_every_package_is_in_the_architecture_page_and_the_reverse() -> None:
    table = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", (ROOT / "ARCHITECTURE.md").read_text(), re.MULTILINE)
    described = {name for row in table for name in re.findall(r"`(\w+)`", row)}

    assert described == packages()


def test_every_package_stands_in_the_import_contract_without_parentheses() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    layers = re.search(r"^layers = \[(.*?)^\]", text, re.DOTALL | re.MULTILINE)
    assert layers is not None
    named = set(re.findall(r"\(?\w+\)?", layers[1])) - {"__main__"}

    assert {name for name in named if not name.startswith("(")} == packages()


def test_the_architecture_page_is_short() -> None:
    assert len((ROOT / "ARCHITECTURE.md").read_text().splitlines()) < 200


def test_the_readme_lists_the_operations_that_are_built() -> None:
    row = next(line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("| S3 operations"))

    assert set(re.findall(r"\w+", row.split("|")[2])) == set(OPERATIONS.values())


def test_every_error_of_the_house_has_an_answer_at_the_s3_door() -> None:
    for module in MODULES:
        name = ".".join(module.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__")
        if not name.endswith("__main__"):
            importlib.import_module(name)

    assert set(all_subclasses(SeawallError)) <= set(S3_ERRORS)
    assert set(S3_ERRORS.values()) <= set(CODES)


@pytest.mark.parametrize("path", sorted((SOURCE / "s3").glob("*.py")), ids=lambda path: path.stem)
def test_every_code_that_is_raised_is_one_of_s3s(path: Path) -> None:
    raised = {
        node.args[0].value
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "S3Error"
        and node.args
        and isinstance(node.args[0], ast.Constant)
    }

    assert raised <= set(CODES)


def test_every_module_is_reachable_from_the_command() -> None:
    graph = grimp.build_graph("seawall")
    reachable = graph.find_upstream_modules("seawall.__main__") | {"seawall", "seawall.__main__"}

    # A package is reached through its modules.
    unreached = {
        module for module in graph.modules - reachable if not any(other.startswith(f"{module}.") for other in reachable)
    }

    assert not unreached


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_module_level_collection_is_mutated(path: Path) -> None:
    tree = ast.parse(path.read_text())
    collections: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(
            node.value, ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp
        ):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            collections |= {target.id for target in targets if isinstance(target, ast.Name)}

    mutated = {
        node.func.value.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in MUTATORS
        and isinstance(node.func.value, ast.Name)
    } | {
        node.value.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Subscript)
        and isinstance(node.ctx, ast.Store | ast.Del)
        and isinstance(node.value, ast.Name)
    }

    assert not collections & mutated


def test_nothing_is_left_for_later_without_a_reason() -> None:
    words = re.compile(r"\b(FIX" + r"ME|TO" + r"DO|XX" + r"X)\b")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked_files()
        if path.suffix in {".py", ".sql", ".md", ".toml"}
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if words.search(line)
    ]

    assert not found


def test_no_lock_file_records_an_address() -> None:
    for lock in ROOT.glob("*.lock"):
        assert "://" not in lock.read_text(), lock.name


def test_the_reference_pages_are_what_the_code_says() -> None:
    command = [sys.executable, str(ROOT / "docs" / "print_reference.py"), "--check"]

    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_decisions_are_numbered_without_gaps() -> None:
    numbers = sorted(int(path.name[:4]) for path in (ROOT / "docs" / "decisions").glob("*.md"))

    assert numbers == list(range(1, len(numbers) + 1))
