"""The digest of a call's arguments, as docs/audit-format.md has it, written without the Rust code.

Usage: arguments.py < ARGUMENTS.json     prints the digest, or says what is wrong and exits with 1
"""

import hashlib
import json
import sys
from decimal import Decimal, DecimalException


class Written(str):
    """A number with a fraction or an exponent, as it is written."""


def number(value):
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out + bytes([value]))


def text(value):
    value = value.encode()
    return number(len(value)) + value


def once(pairs):
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a name is there twice")
    return fields


def decimal(written):
    double = float(written)
    told = Decimal(repr(double))
    if not abs(double) < 2**53 or Decimal(written) != told:
        raise ValueError("a number that cannot be told exactly")
    return fact(int(double)) if double.is_integer() else b"\x03" + text(format(told, "f"))


def fact(value):
    match value:
        case Written():
            return decimal(value)
        case str():
            return b"\x00" + text(value)
        case bool():
            return b"\x02" + bytes([value])
        case int() if -(2**63) <= value < 2**63:
            return b"\x01" + number(value * 2 if value >= 0 else -value * 2 - 1)
        case None:
            return b"\x04"
        case list() | dict():
            return b"\x05" + number(len(value))
    raise ValueError("a number that cannot be told exactly")


def facts(value, path):
    inside = enumerate(value) if isinstance(value, list) else value.items()
    for name, value in inside:
        name = path + str(name).replace("~", "~0").replace("/", "~1")
        yield name, fact(value)
        if isinstance(value, (list, dict)):
            yield from facts(value, name + "/")


def digest(arguments):
    told = sorted((name.encode(), name, said) for name, said in facts(arguments, ""))
    data = b"hardtack/arguments/v1\0" + number(len(told))
    return hashlib.sha256(data + b"".join(text(name) + said for _, name, said in told)).hexdigest()


if __name__ == "__main__":
    try:
        print(digest(json.load(sys.stdin, object_pairs_hook=once, parse_float=Written)))
    except DecimalException:
        raise ValueError("a number that cannot be told exactly") from None
