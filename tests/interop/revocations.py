"""A second implementation of docs/revocation-format.md, written from that page alone, against the vectors.

    python3 tests/interop/revocations.py tests/vectors/revocation

Reads and writes every vector anew, and exits 1 at the first that differs. Plain and slow on purpose; the standard library
is all it takes.
"""

import json
import sys
from hashlib import sha256, sha512
from pathlib import Path
from unicodedata import category

LAST = 253402300800000
HOUR, DAY = 3600_000, 86_400_000


class Refused(Exception):
    pass


def need(condition, why):
    if not condition:
        raise Refused(why)


def digest(domain, *parts):
    framed = b"".join(len(part).to_bytes(8, "little") + part for part in parts)
    return sha256(domain.encode() + b"\0" + framed).digest()


def number(value):
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out) + bytes([value])


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def more(self):
        return self.at < len(self.data)

    def take(self, count):
        need(self.at + count <= len(self.data), "ends too early")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, limit=2**64 - 1):
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            need(value < 2**64 and shift < 70, "beyond 64 bits")
            if byte < 128:
                break
            shift += 7
        need(byte or not shift, "not in its shortest form")
        need(value <= limit, "beyond its limit")
        return value


def slot_of(issued, expires):
    expires = min(expires, LAST)
    return 2 * (expires // HOUR) if expires - issued <= DAY else 2 * (expires // DAY) + 1


def slot_span(slot):
    length = DAY if slot % 2 else HOUR
    need(slot // 2 * length <= LAST, "past the year 9999")
    return slot // 2 * length, (slot // 2 + 1) * length


def golomb_of(universe, count):
    divisor = max(1, (universe * 45426 // count + 10027) >> 16) if count else 1
    bits = (divisor - 1).bit_length()
    return divisor, bits, 2**bits - divisor


def golomb_write(universe, values):
    divisor, bits, cutoff = golomb_of(universe, len(values))
    text, low = [], 0
    for value in values:
        quotient, rest = divmod(value - low, divisor)
        low = value + 1
        text.append("0" * quotient + "1")
        if bits:
            wide = bits - 1 if rest < cutoff else bits
            text.append(format(rest if rest < cutoff else rest + cutoff, f"0{wide}b") if wide else "")
    text = "".join(text)
    text += "0" * (-len(text) % 8)
    return bytes(int(text[at : at + 8], 2) for at in range(0, len(text), 8))


def golomb_read(universe, count, data):
    need(universe <= 2**96 and count <= universe, "too many")
    divisor, bits, cutoff = golomb_of(universe, count)
    need(count * (1 + bits - (cutoff > 0)) <= 8 * len(data), "too few bits")
    text = "".join(format(byte, "08b") for byte in data)
    values, low, at = [], 0, 0
    for _ in range(count):
        one = text.find("1", at)
        need(one >= 0, "ends within an entry")
        quotient, at, rest = one - at, one + 1, 0
        if bits:
            short = text[at : at + bits - 1]
            rest, used = int(short or "0", 2), bits - 1
            if rest >= cutoff:
                rest, used = int(text[at : at + bits] or "0", 2) - cutoff, bits
            at += used
        need(at <= len(text), "ends within an entry")
        value = low + quotient * divisor + rest
        need(value < universe, "past its universe")
        values.append(value)
        low = value + 1
    need(len(text) - at < 8 and "1" not in text[at:], "bytes or padding left over")
    return values


# A set is {key bytes: content}: {selector: until}, {id: slot}, (issued, {serials}) or {fingerprints}.


def read_selector(reader):
    tag = reader.take(1)
    need(tag[0] <= 8, "a rule of a kind that is not known")
    if tag[0] in (1, 2, 4, 6, 8):
        length = reader.take(1)
        need(length[0] <= 32, "a name too long")
        name = reader.take(length[0] or 32)
        if length[0]:
            try:
                name.decode()
            except UnicodeDecodeError:
                raise Refused("not UTF-8") from None
        return tag + length + name
    return tag + reader.take({0: 0, 3: 16, 5: 8, 7: 4}[tag[0]])


def read_part(key, data):
    reader = Reader(data)
    if key[0] < 2:
        content, last = {}, b""
        while not content or reader.more():
            name = reader.take(32) if key[0] else read_selector(reader)
            need(name > last, "entries out of order")
            content[name] = reader.number(2**32 - 1 if key[0] else 2**64 - 1)
            if key[0]:
                slot_span(content[name])
            last = name
        need(len(content) <= (4096 if key[0] else 600), "too many")
        return content
    if key[0] == 2:
        issued = reader.number(2**27)
        need(issued > 0, "nothing issued")
        revoked = reader.number(issued)
        others = revoked > issued // 2
        coded = golomb_read(issued, issued - revoked if others else revoked, data[reader.at :])
        return issued, set(range(issued)) - set(coded) if others else set(coded)
    count = reader.number(2**24)
    need(count > 0, "no fingerprints")
    return set(golomb_read(2 ** key[5], count, data[reader.at :]))


def write_part(key, content):
    if key[0] < 2:
        return b"".join(name + number(content[name]) for name in sorted(content))
    if key[0] == 2:
        issued, revoked = content
        coded = set(range(issued)) - revoked if len(revoked) > issued // 2 else revoked
        return number(issued) + number(len(revoked)) + golomb_write(issued, sorted(coded))
    return number(len(content)) + golomb_write(2 ** key[5], sorted(content))


def read_key(reader):
    kind = reader.take(1)
    need(kind[0] <= 3, "a part of a kind that is not known")
    if kind[0] < 2:
        return kind
    slot = reader.take(4)
    slot_span(int.from_bytes(slot, "big"))
    if kind[0] == 2:
        return kind + slot
    width = reader.take(1)
    need(width[0] in (64, 96), "neither 64 nor 96 bits")
    return kind + slot + width + reader.take(16)


def read_set(data):
    reader, parts, last = Reader(data), {}, b""
    need(reader.take(1) == b"\1", "a format that is not known")
    while reader.more():
        key = read_key(reader)
        need(key > last, "parts out of order")
        parts[key] = read_part(key, reader.take(reader.number()))
        last = key
    need(sum(key[0] > 1 for key in parts) <= 512, "too many")
    return parts


def write_set(parts):
    written = [(key, write_part(key, parts[key])) for key in sorted(parts)]
    return b"\1" + b"".join(key + number(len(data)) + data for key, data in written)


def later(slot):
    return slot_span(slot)[1], slot % 2


def merge(a, b):
    out = dict(a)
    for key, theirs in b.items():
        ours = out.get(key)
        if ours is None:
            out[key] = theirs
        elif key[0] == 0:
            out[key] = {name: max(ours.get(name, 0), theirs.get(name, 0)) for name in ours | theirs}
        elif key[0] == 1:
            out[key] = {name: max((c[name] for c in (ours, theirs) if name in c), key=later) for name in ours | theirs}
        elif key[0] == 2:
            out[key] = max(ours[0], theirs[0]), ours[1] | theirs[1]
        else:
            out[key] = ours | theirs
    return out


def since(new, old):
    out = {}
    for key, content in new.items():
        known = old.get(key)
        if known is None:
            out[key] = content
        elif key[0] == 0:
            out[key] = {name: until for name, until in content.items() if until > known.get(name, -1)}
        elif key[0] == 1:
            out[key] = {n: s for n, s in content.items() if n not in known or later(s) > later(known[n])}
        elif key[0] == 2:
            out[key] = (content[0], content[1] - known[1]) if content[1] - known[1] or content[0] > known[0] else None
        else:
            out[key] = content - known
    return {key: content for key, content in out.items() if content}


def drop(parts, at):
    out = {}
    for key, content in parts.items():
        if key[0] == 0:
            content = {name: until for name, until in content.items() if until >= at}
        elif key[0] == 1:
            content = {name: slot for name, slot in content.items() if slot_span(slot)[1] > at}
        elif slot_span(int.from_bytes(key[1:5], "big"))[1] <= at:
            content = None
        if content:
            out[key] = content
    return out


def tree(leaves):
    if len(leaves) < 2:
        return leaves[0] if leaves else bytes(32)
    left = 1 << (len(leaves) - 1).bit_length() - 1
    return digest("hardtack/revocation-node/v1", tree(leaves[:left]), tree(leaves[left:]))


def path(leaves, index):
    if len(leaves) < 2:
        return []
    left = 1 << (len(leaves) - 1).bit_length() - 1
    if index < left:
        return path(leaves[:left], index) + [tree(leaves[left:])]
    return path(leaves[left:], index - left) + [tree(leaves[:left])]


def manifest(parts):
    """The entries, the leaves of each part, the leaves over the parts, the root."""
    entries, pieces = [], []
    for key in sorted(parts):
        data = write_part(key, parts[key])
        cut = [data[at : at + 16384] for at in range(0, len(data), 16384)]
        pieces.append([digest("hardtack/revocation-piece/v1", piece) for piece in cut])
        entries.append(key + number(len(data)) + tree(pieces[-1]))
    leaves = [digest("hardtack/revocation-part/v1", entry) for entry in entries]
    root = digest("hardtack/revocations/v1", b"\1", len(entries).to_bytes(4, "little"), tree(leaves))
    return entries, pieces, leaves, root


def listed(parts):
    for key in sorted(parts):
        content, slot = parts[key], int.from_bytes(key[1:5], "big")
        if key[0] == 0:
            yield from ({"rule": (n + number(content[n])).hex(), "until": content[n]} for n in sorted(content))
        elif key[0] == 1:
            yield from ({"exact": name.hex(), "slot": content[name]} for name in sorted(content))
        elif key[0] == 2:
            yield from ({"serial": serial, "slot": slot} for serial in sorted(content[1]))
        else:
            bucket = [slot, key[5], key[6:].hex()]
            yield from ({"fingerprint": str(value), "bucket": bucket} for value in sorted(content))


checked = 0


def same(what, ours, theirs):
    global checked
    checked += 1
    if ours != theirs:
        sys.exit(f"{what}: {ours!r} here, {theirs!r} there")


def refused(what, read):
    try:
        taken = read()
    except Refused:
        same(what, True, True)
    else:
        sys.exit(f"{what}: taken as {taken!r}")


def check_golomb(vectors):
    for case in vectors["cases"]:
        universe, values, data = int(case["universe"]), [int(v) for v in case["values"]], bytes.fromhex(case["bytes"])
        same("divisor", golomb_of(universe, len(values))[0], int(case["divisor"]))
        same("code", golomb_write(universe, values), data)
        same("values", golomb_read(universe, len(values), data), values)
    for case in vectors["refused"]:
        data = bytes.fromhex(case["bytes"])
        refused(case, lambda: golomb_read(int(case["universe"]), case["count"], data))


def check_sets(vectors):
    for case in vectors["sets"]:
        data = bytes.fromhex(case["bytes"])
        parts = read_set(data)
        same(case["name"], write_set(parts), data)
        entries, _, _, root = manifest(parts)
        same("manifest", (b"\1" + b"".join(entries)).hex(), case["manifest"])
        same("root", root.hex(), case["root"])
        same("entries", list(listed(parts)), case["entries"])
    for case in vectors["names"]:
        name = digest("hardtack/rule-name/v1", b"\2", case["device"].encode())
        same("name", (b"\2\0" + name + b"\1").hex(), case["rule"])
    for case in vectors["deltas"]:
        old, delta, new = (read_set(bytes.fromhex(case[part])) for part in ("old", "delta", "new"))
        same("merge", write_set(merge(old, delta)).hex(), case["new"])
        same("delta", write_set(since(new, old)).hex(), case["delta"])
    for case in vectors["dropped"]:
        same("dropped", write_set(drop(read_set(bytes.fromhex(case["set"])), case["at"])).hex(), case["rest"])
    for case in vectors["refused"]:
        refused(case, lambda: read_set(bytes.fromhex(case["bytes"])))
    large = vectors["large"]
    parts = read_set(bytes.fromhex(large["besides"]))
    key = b"\3" + large["slot"].to_bytes(4, "big") + bytes([large["width"]]) + bytes.fromhex(large["salt"])
    parts[key] = {n * int(large["step"]) for n in range(large["count"])}
    entries, pieces, leaves, root = manifest(parts)
    same("manifest", (b"\1" + b"".join(entries)).hex(), large["manifest"])
    same("root", root.hex(), large["root"])
    places = [(part, piece) for part in range(len(entries)) for piece in range(len(pieces[part]))]
    for (part, piece), theirs in zip(places, large["pieces"], strict=True):
        place = number(len(entries)) + number(part) + number(piece)
        way = b"".join(path(pieces[part], piece) + path(leaves, part))
        same("piece", (b"\1" + entries[part] + place + way).hex(), theirs["head"])


P, L = 2**255 - 19, 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P


def point_of(data):
    """RFC 8032, 5.1.3."""
    y, sign = int.from_bytes(data, "little") & (2**255 - 1), data[31] >> 7
    need(y < P, "no canonical point")
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * pow(2, (P - 1) // 4, P) % P
    need(x * x % P == square and (x or not sign), "no point")
    return (P - x if x % 2 != sign else x), y


def add(a, b):
    (x1, y1), (x2, y2) = a, b
    t = D * x1 * x2 * y1 * y2 % P
    return (x1 * y2 + x2 * y1) * pow(1 + t, -1, P) % P, (y1 * y2 + x1 * x2) * pow(1 - t, -1, P) % P


def times(k, point):
    out = (0, 1)
    while k:
        out, point, k = (add(out, point) if k & 1 else out), add(point, point), k >> 1
    return out


def verify(key, message, signature):
    """RFC 8032, 5.1.7."""
    base_y = 4 * pow(5, -1, P) % P
    base = point_of(base_y.to_bytes(32, "little"))
    a, r, s = point_of(key), point_of(signature[:32]), int.from_bytes(signature[32:], "little")
    need(s < L, "no canonical scalar")
    k = int.from_bytes(sha512(signature[:32] + key + message).digest(), "little") % L
    need(times(s, base) == add(r, times(k, a)), "a signature that does not fit")


def text(reader):
    return reader.take(reader.number())


def read_signed(reader, fleet, key):
    payload, (count,) = text(reader), reader.take(1)
    need(count == 1 and reader.take(8) == sha256(key).digest()[:8], "another key")
    verify(key, b"hardtack/revhead/v1\0" + fleet + b"\0" + payload, reader.take(64))
    inner = Reader(payload)
    head = {"digest": digest("revhead", payload), "feed": text(inner), "era": inner.number(), "seq": inner.number()}
    head["previous"] = inner.take(32)
    for name in "issued_at", "next_update", "hard_stale", "dropped_before":
        head[name] = inner.number()
    for name in "root", "rules", "delta":
        head[name] = inner.take(32)
    head["skips"] = [inner.take(32) for _ in range(inner.number())]
    head["bundle"], head["policy"] = inner.number(), inner.number()
    need(not inner.more(), "bytes after the head")
    return head


def check_emergency(vectors):
    fleet, key = vectors["fleet"].encode(), bytes.fromhex(vectors["key"])
    name = sha256(key).digest()[:8]
    same("key id", name.hex(), vectors["key_id"])
    held = {}
    for case in vectors["statements"]:
        said = read_emergency(bytes.fromhex(case["bytes"]), fleet, key)
        same("digest", said["digest"].hex(), case["digest"])
        told = (said["counter"], said["issued_at"], said["bundle"])
        same("statement", told, (case["counter"], case["issued_at"], case["bundle_version"]))
        rules = [[rule.hex(), until, reason] for rule, (until, reason) in said["rules"].items()]
        same("rules", rules, [[rule["covers"], rule["until"], rule["reason"]] for rule in case["rules"]])
        # What is left out, or named with an earlier end, stays.
        for rule, (until, _) in said["rules"].items():
            held[rule] = max(until, held.get(rule, 0))
        same("held", [[rule.hex(), held[rule]] for rule in sorted(held)], case["held"])
    for case in vectors["refused"]:
        refused(case, lambda: read_emergency(bytes.fromhex(case["bytes"]), fleet, key))


def read_emergency(data, fleet, key):
    reader = Reader(data)
    payload, (count,) = text(reader), reader.take(1)
    need(count == 1 and reader.take(8) == sha256(key).digest()[:8], "another key")
    verify(key, b"hardtack/emergency/v1\0" + fleet + b"\0" + payload, reader.take(64))
    need(not reader.more(), "bytes after the envelope")
    inner = Reader(payload)
    need(inner.take(8) == sha256(key).digest()[:8], "names another key")
    said = {"digest": digest("emergency", payload)}
    said["counter"], said["issued_at"], said["bundle"] = inner.number(), inner.number(), inner.number()
    rules = Reader(text(inner))
    need(not inner.more(), "bytes after the statement")
    need(said["counter"] > 0, "number 0")
    said["rules"], before = {}, None
    while rules.more():
        begin = rules.at
        read_selector(rules)
        rule, until = rules.data[begin : rules.at], rules.number()
        need(before is None or before < rule, "out of order")
        need(until <= said["issued_at"] + 72 * HOUR, "longer than 72 h")
        data = text(rules)
        need(len(data) <= 200, "a reason too long")
        reason = data.decode()
        need(reason.strip() and not any(map(bends, reason)), "no line of a reason")
        said["rules"][rule], before = (until, reason), rule
    need(0 < len(said["rules"]) <= 64, "too few or too many rules")
    return said


def bends(c):
    return category(c) in ("Cc", "Zl", "Zp") or c in "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def way(a, b):
    steps = []
    while a < b:
        for level in range(7, -1, -1):
            span = 4**level
            end = (a // span + 1) * span
            if end <= b:
                break
        if b // span - end // span >= (8 if level else 64):
            return None
        steps.append([level, end])
        a = end
    return steps


def check_feed(vectors):
    fleet, key = vectors["fleet"].encode(), bytes.fromhex(vectors["key"])
    whole, previous, deltas = {}, bytes(32), []
    for case in vectors["heads"]:
        for data in map(bytes.fromhex, case["announcements"]):
            reader = Reader(data)
            head, (level,) = read_signed(reader, fleet, key), reader.take(1)
            added = text(reader)
            need(not reader.more(), "bytes after the additions")
            named = head["skips"][level - 1] if level else head["delta"]
            same("additions", digest("hardtack/revocation-additions/v1", added), named)
            if level:
                same("step", write_set(union(deltas[-4:])), added)
            else:
                deltas.append(read_set(added))
                whole = drop(merge(whole, deltas[-1]), head["dropped_before"])
        same("head", (head["digest"].hex(), head["seq"], head["previous"]), (case["digest"], case["seq"], previous))
        same("feed", (head["feed"], head["era"], head["policy"]), (vectors["feed"].encode(), 1, 2))
        rules = write_part(b"\0", whole[b"\0"]) if b"\0" in whole else b""
        same("rules", digest("hardtack/revocation-rules/v1", rules), head["rules"])
        entries, _, _, root = manifest(whole)
        same("root", (root.hex(), head["root"]), (case["root"], root))
        same("set", write_set(whole).hex(), case["set"])
        reader = Reader(bytes.fromhex(case["snapshot"]))
        same("snapshot", read_signed(reader, fleet, key)["root"], root)
        same("manifest", text(reader), b"\1" + b"".join(entries))
        previous = head["digest"]
    for case in vectors["ways"]:
        same("way", way(case["from"], case["to"]), case["steps"])


def union(sets):
    out = {}
    for one in sets:
        out = merge(out, one)
    return out


def main():
    vectors = {file.stem: json.loads(file.read_text()) for file in Path(sys.argv[1]).glob("*.json")}
    check_golomb(vectors["golomb"])
    for case in vectors["slots"]:
        slot = slot_of(case["issued"], case["expires"])
        same("slot", (slot, *slot_span(slot)), (case["number"], case["begins"], case["ends"]))
    for case in vectors["fingerprints"]:
        hashed = digest("hardtack/fingerprint/v1", bytes.fromhex(case["salt"]), bytes.fromhex(case["block"]))
        same("fingerprint", str(int.from_bytes(hashed[: case["width"] // 8], "big")), case["fingerprint"])
    check_sets(vectors["sets"])
    check_feed(vectors["feed"])
    check_emergency(vectors["emergency"])
    print(f"{checked} vectors agree")


if __name__ == "__main__":
    main()
