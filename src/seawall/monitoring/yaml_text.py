"""Write YAML for people to read: mappings and lists in lines of their own, text in quotes where it needs them."""

import json
import re
from collections.abc import Mapping, Sequence

Value = str | int | float | bool | Mapping[str, "Value"] | Sequence["Value"]

_PLAIN = re.compile(r"[A-Za-z_][\w./-]*(:[\w./-]+)*|\d+[smhd]")
# What YAML 1.1 reads as something else than text.
_WORDS = frozenset({"true", "false", "yes", "no", "on", "off", "null", "y", "n"})


def yaml_of(value: Value) -> str:
    """Return a value as YAML.

    >>> print(yaml_of({"groups": [{"name": "a", "interval": "2s", "rules": []}], "expr": "a ==\\n1"}), end="")
    groups:
      - name: a
        interval: 2s
        rules: []
    expr: |-
      a ==
      1
    """
    return "".join(f"{line}\n" for line in _lines(value))


def _lines(value: Value) -> list[str]:
    if isinstance(value, Mapping):
        return [line for key, inner in value.items() for line in _entry(f"{_text(key)}:", inner)]
    if isinstance(value, Sequence) and not isinstance(value, str):
        found = []
        for inner in value:
            first, *rest = _lines(inner)
            found += [f"- {first}", *(f"  {line}" if line else "" for line in rest)]
        return found
    return [_scalar(value)]


def _entry(key: str, value: Value) -> list[str]:
    if isinstance(value, str) and "\n" in value:
        return [f"{key} |-", *(f"  {line}" if line else "" for line in value.split("\n"))]
    if isinstance(value, str | int | float) or not value:
        return [f"{key} {_scalar(value)}"]
    return [key, *(f"  {line}" for line in _lines(value))]


def _scalar(value: Value) -> str:
    return _text(value) if isinstance(value, str) else json.dumps(value)


def _text(text: str) -> str:
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    if '"' in text and text.isprintable():
        return "'" + text.replace("'", "''") + "'"
    # JSON's quotes are YAML's.
    return json.dumps(text, ensure_ascii=False)
