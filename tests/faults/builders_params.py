"""Params files that nobody should write, and names that nobody should give."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

Maker = Callable[[Path], None]
"""Makes what stands at a path."""


def _bytes(content: bytes) -> Maker:
    return lambda path: path.write_bytes(content) and None


def _bomb() -> bytes:
    """Ten aliases of ten of ten ... : a terabyte, were it built."""
    lines = [b"a: &a [x, x, x, x, x, x, x, x, x, x]"]
    for letter in b"bcdefghijkl":
        aliases = b", ".join([b"*%c" % (letter - 1)] * 10)
        lines.append(b"%c: &%c [%s]" % (letter, letter, aliases))
    return b"\n".join(lines)


FILES: Mapping[str, tuple[Maker, str]] = {
    "5,000 brackets": (_bytes(b"a: " + b"[" * 5000), "nested deeper than 50 levels"),
    "5,000 braces": (_bytes(b"{a: " * 5000), "nested deeper than 50 levels"),
    "5,000 lists in lines": (_bytes(b"- " * 5000), "nested deeper than 50 levels"),
    "Latin-1": (_bytes(b"title: caf\xe9"), "not text in UTF-8, at byte 10"),
    "UTF-16": (_bytes("title: a".encode("utf-16")), "not text in UTF-8, at byte 0"),
    "a binary": (_bytes(b"\x7fELF\x02\x01\x01" + bytes(64)), "not readable as YAML"),
    "random bytes": (_bytes(bytes(range(256))), "not text in UTF-8"),
    "NUL bytes": (_bytes(bytes(100)), "not readable as YAML"),
    "nothing": (_bytes(b""), "nothing"),
    "a comment": (_bytes(b"# nothing here\n"), "nothing"),
    "a word": (_bytes(b"hello"), "str at the top"),
    "a list": (_bytes(b"- a\n- b\n"), "list at the top"),
    "a number": (_bytes(b"5"), "int at the top"),
    "a tab": (_bytes(b"a:\n\tb: 1\n"), "character '\\t' that cannot start any token"),
    "a key twice": (_bytes(b"a: 1\na: 2\n"), "key 'a' appears twice"),
    "a key twice below": (_bytes(b"a: {b: 1, b: 2}\n"), "key 'b' appears twice"),
    "a key twice by a list": (_bytes(b"{[1]: 2, [1]: 3}"), "unhashable key"),
    "two documents": (_bytes(b"a: 1\n---\nb: 2\n"), "expected a single document"),
    "an alias bomb": (_bytes(_bomb()), "more than 100,000 values, aliases counted"),
    "an alias of itself": (_bytes(b"a: &a [*a]"), "recursive"),
    "an unknown alias": (_bytes(b"a: *b"), "undefined alias"),
    "a merge of nothing": (_bytes(b"<<: 5"), "mapping"),
    "a Python object": (_bytes(b"a: !!python/object/apply:os.system [ls]"), "constructor"),
    "a Python name": (_bytes(b"a: !!python/name:os.system"), "constructor"),
    "a date that is none": (_bytes(b"a: 2001-99-99"), "not of type timestamp"),
    "an int that is none": (_bytes(b"a: !!int x"), "not of type int"),
    "a float that is none": (_bytes(b"a: !!float x"), "not of type float"),
    "a bool that is none": (_bytes(b"a: !!bool x"), "not of type bool"),
    "5,000 digits": (_bytes(b"a: " + b"9" * 5000), "not of type int"),
    "two megabytes": (_bytes(b"# a comment\n" * 200_000), "2,400,000 bytes"),
    "a folder": (Path.mkdir, "a folder"),
    "a pipe": (lambda path: os.mkfifo(path), "not a regular file"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
    "a link to itself": (lambda path: path.symlink_to(path.name), "not readable"),
}
"""What may stand where a params file should, and what the error says of it."""

NOT_FINITE = (".inf", "-.inf", ".nan", "1e400", "-1e400", "1e+400")
"""As YAML has them."""

NAMES: Mapping[str, str] = {
    "a command": "sh$(touch P1)apes",
    "backticks": "sh`touch P1`apes",
    "a variable": "$HOME",
    "DVC's template": "${item}",
    "a quote": "it's",
    "two quotes": 'a"b',
    "a space": "my set",
    "a space at the end": "set ",
    "a line end": "a\nb",
    "a tab": "a\tb",
    "a NUL": "a\0b",
    "a semicolon": "a;touch P1",
    "an and": "a&&touch P1",
    "a pipe": "a|touch P1",
    "a redirection": "a>P1",
    "an option": "-rf",
    "a long option": "--out",
    "above": "..",
    "another folder": "../evil",
    "a folder": "a/b",
    "an absolute path": "/etc/passwd",
    "hidden": ".hidden",
    "a wildcard": "{wildcards}",
    "a doubled brace": "{{",
    "a brace": "{",
    "a glob": "*",
    "a question mark": "a?",
    "a backslash": "a\\b",
    "a per cent": "%s",
    "a hash": "#a",
    "an at": "@a",
    "a tilde": "~",
    "a colon": "a:b",
    "a comma": "a,b",
    "an equals": "a=b",
    "a plus": "a+b",
    "an umlaut": "grösse",
    "the same decomposed": "gro\u0308sse",
    "right to left": "a\u202eb",
    "no width": "a\u200bb",
    "an emoji": "\U0001f600",
    "half a pair": "a\ud800",
    "nothing": "",
    "a point": ".",
    "an underscore first": "_a",
    "a record's ending": "a.json",
    "65 characters": "a" * 65,
    "5,000 characters": "a" * 5000,
}
"""Names that are refused."""

GOOD_NAMES = ("a", "vit_b16", "knn.2", "mae-x0.5-d25", "A", "0", "a" * 64, "linear_mae_small")
