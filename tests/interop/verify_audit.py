"""A second implementation of docs/audit-format.md, written from that page alone.

    python3 tests/interop/verify_audit.py vectors tests/vectors/audit
    python3 tests/interop/verify_audit.py export [--key [DEVICE=]HEX]… FILE…
    python3 tests/interop/verify_audit.py prove [--key [DEVICE=]HEX]… FILE…
    python3 tests/interop/verify_audit.py fork [--key [DEVICE=]HEX]… FILE…

`vectors` reads every vector anew and exits 1 at the first that differs. `export`, `prove` and `fork` check files that
`hardtack fleet audit export`, `prove` and `gaps --proof` and `hardtack audit export` wrote, say what each proves and what it does not, and exit 12 if
something in one of them is not what was signed, 9 if something is gone. Without --key the file's own keys count. Plain and
slow on purpose; the standard library is all it takes.
"""

import json
import sys
from base64 import b64decode, b64encode
from datetime import datetime, timedelta, timezone
from functools import cache
from hashlib import sha256, sha512
from pathlib import Path

EXPORT, PROOF, FORK = "hardtack/audit-export/v1", "hardtack/audit-proof/v1", "hardtack/audit-fork/v1"
LEAF_BYTES_MAX, RECORD_BYTES_MAX, PATH_MAX = 4352, 4096, 16
YEAR_10000 = 253402300800000
U64 = 2**64


class Refused(Exception):
    pass


def need(condition, why):
    if not condition:
        raise Refused(why)


# Hashes and trees.


def digest(domain, *parts):
    framed = b"".join(len(part).to_bytes(8, "little") + part for part in parts)
    return sha256(domain.encode() + b"\0" + framed).digest()


def genesis(fleet, device, era, salt):
    numbers = era.to_bytes(8, "little"), salt.to_bytes(8, "little")
    return digest("hardtack/era/v1", fleet.encode(), device.encode(), *numbers)


def link(previous, root):
    return digest("hardtack/link/v1", previous, root)


def leaf_hash(leaf):
    return sha256(b"\0" + leaf).digest()


def node(left, right):
    return sha256(b"\1" + left + right).digest()


def split(count):
    return 1 << (count - 1).bit_length() - 1


def tree(hashes):
    if len(hashes) < 2:
        return hashes[0] if hashes else sha256(b"").digest()
    left = split(len(hashes))
    return node(tree(hashes[:left]), tree(hashes[left:]))


def path_of(hashes, place):
    if len(hashes) < 2:
        return []
    left = split(len(hashes))
    if place < left:
        return path_of(hashes[:left], place) + [tree(hashes[left:])]
    return path_of(hashes[left:], place - left) + [tree(hashes[:left])]


def root_from(leaf, place, count, path):
    """Of one leaf, as RFC 6962 has it."""
    need(place < count and len(path) <= PATH_MAX, "no such place")
    if count == 1:
        need(not path, "a path too long")
        return leaf
    need(path, "a path too short")
    left = split(count)
    if place < left:
        return node(root_from(leaf, place, left, path[:-1]), path[-1])
    return node(path[-1], root_from(leaf, place - left, count - left, path[:-1]))


def root_from_first(hashes, count, path):
    """Of all leaves up to one, with the path of that one."""
    need(0 < len(hashes) <= count <= 2**PATH_MAX, "no such place")
    if count == 1:
        need(not path, "a path too long")
        return hashes[0]
    need(path, "a path too short")
    left = split(count)
    if len(hashes) <= left:
        return node(root_from_first(hashes, left, path[:-1]), path[-1])
    need(tree(hashes[:left]) == path[-1], "leaves that are not those of the path")
    return node(path[-1], root_from_first(hashes[left:], count - left, path[:-1]))


# Ed25519, RFC 8032, in extended coordinates.

P, L = 2**255 - 19, 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P


def point_of(data):
    y, sign = int.from_bytes(data, "little") & (2**255 - 1), data[31] >> 7
    need(y < P, "no canonical point")
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * pow(2, (P - 1) // 4, P) % P
    need(x * x % P == square and (x or not sign), "no point")
    x = P - x if x % 2 != sign else x
    return x, y, 1, x * y % P


def add(a, b):
    (x1, y1, z1, t1), (x2, y2, z2, t2) = a, b
    u, v = (y1 - x1) * (y2 - x2) % P, (y1 + x1) * (y2 + x2) % P
    c, d = 2 * t1 * t2 * D % P, 2 * z1 * z2 % P
    e, f, g, h = v - u, d - c, d + c, v + u
    return e * f % P, g * h % P, f * g % P, e * h % P


def times(k, point):
    out = (0, 1, 1, 0)
    while k:
        out, point, k = (add(out, point) if k & 1 else out), add(point, point), k >> 1
    return out


def same_point(a, b):
    return (a[0] * b[2] - b[0] * a[2]) % P == 0 and (a[1] * b[2] - b[1] * a[2]) % P == 0


BASE = point_of((4 * pow(5, -1, P) % P).to_bytes(32, "little"))
NEUTRAL = (0, 1, 1, 0)


@cache
def signature_fits(key, message, signature):
    try:
        a, r, s = point_of(key), point_of(signature[:32]), int.from_bytes(signature[32:], "little")
    except Refused:
        return False
    small = any(same_point(times(8, point), NEUTRAL) for point in (a, r))
    k = int.from_bytes(sha512(signature[:32] + key + message).digest(), "little") % L
    return s < L and not small and same_point(times(s, BASE), add(r, times(k, a)))


def key_id(key):
    return sha256(key).digest()[:8]


# Bytes.


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def end(self, why):
        need(self.at == len(self.data), f"bytes after {why}")

    def take(self, count):
        need(self.at + count <= len(self.data), "ends too early")
        self.at += count
        return self.data[self.at - count : self.at]

    def byte(self):
        return self.take(1)[0]

    def number(self, below=U64):
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 127) << shift
            need(value < below and shift < 70, "a number too large")
            if byte < 128:
                break
            shift += 7
        need(byte or not shift, "a number that is not in its shortest form")
        return value

    def text(self):
        try:
            return self.take(self.number()).decode()
        except UnicodeDecodeError:
            raise Refused("not UTF-8") from None

    def name(self, most):
        text = self.text()
        need(is_name(text, most), "no name")
        return text

    def hash(self, size=32):
        return self.take(size).hex()

    def flag(self):
        byte = self.byte()
        need(byte < 2, "neither 0 nor 1")
        return byte == 1

    def option(self, read):
        return read() if self.flag() else None

    def list(self, read):
        count = self.number()
        need(count <= len(self.data), "a list longer than its bytes")
        return [read() for _ in range(count)]

    def pick(self, names):
        number = self.number()
        need(number < len(names), "of no kind")
        return names[number]

    # In leaves only.

    def difference(self):
        zigzag = self.number()
        return zigzag >> 1 ^ -(zigzag & 1)

    def number_or_none(self):
        value = self.number()
        return value - 1 if value else None


def is_name(text, most):
    if not isinstance(text, str):
        return False
    plain = all(c.isascii() and (c.isalnum() or c in "._-") for c in text)
    return plain and 0 < len(text) <= most and text[0].isalnum()


def read_era(reader):
    return {"number": reader.number(), "salt": reader.number()}


def read_position(reader):
    feed = reader.name(32)
    return {"feed": feed, "era": reader.number(2**32), "seq": reader.number(), "digest": reader.hash()}


# Events, each as (kind, fields).


def read_gap(r):
    return {
        "era": read_era(r),
        "first": r.number(),
        "end": r.option(r.number),
        "cause": r.pick(["damaged", "anchor_lost", "quota"]),
        "repeated": r.number(),
    }


def read_grant(r):
    step = ["activated", "reconciled", "wiped"]
    return {"grant": r.hash(16), "step": r.pick(step), "used": r.number(), "offline": r.number()}


def read_mode(r):
    return {"from": r.text(), "to": r.text(), "reason": r.text()}


def read_refused(r):
    return {"source": r.text(), "reason": r.text(), "digest": r.hash(), "count": r.number()}


def read_end(r):
    return {"era": read_era(r), "next_index": r.number(), "head": r.hash()}


def read_start(r):
    boot = {"boot": r.hash(16), "boots": r.number(2**32)}
    start = boot | {"previous": r.option(lambda: read_end(r)), "version": r.text()}
    return start | {"heartbeat": r.number()}


def read_step(r):
    return {"id": r.name(48), "planner": r.list(r.text), "era": read_era(r), "index": r.number()}


def read_initiator(r):
    return {"issuer": r.text(), "subject": r.text()}


def read_task(r):
    steps = ["begun_fallback", "begun_issued", "ended", "finished", "refused", "renewed", "stepped", "attenuated"]
    return {
        "task": r.option(lambda: r.name(48)),
        "class": r.name(48),
        "step": r.pick(steps),
        "owner": r.option(r.text),
        "grant": r.option(lambda: r.hash(16)),
        "workload": r.list(r.text),
        "reason": r.text(),
        "chain": r.list(r.hash),
        "of_step": r.option(lambda: read_step(r)),
        "initiator": r.option(lambda: read_initiator(r)),
    }


def read_trust(r):
    def pair():
        return [r.number(), r.number()]

    changes = {
        "bundle": lambda: {"version": r.number(), "digest": r.hash()},
        "feed": lambda: {"position": read_position(r)},
        "revoked": lambda: {"newest": read_position(r)},
        "grant": lambda: {"grant": r.hash(16), "expires": r.option(r.number)},
        "policy": lambda: {"version": r.number(), "digest": r.hash()},
        "reset": lambda: {"floor": pair(), "powered": pair()},
        "told": lambda: {"before": r.number(), "after": r.number()},
        "time": lambda: {"before": r.number(), "after": r.number()},
        "audit_key": lambda: {"epoch": r.number(), "key": list(r.take(32))},
        "emergency": lambda: {"key": r.hash(8), "counter": r.number(), "digest": r.hash()},
    }
    change = r.pick(list(changes))
    return {change: changes[change]()}


def read_repeated(r):
    return {"of": r.number(), "count": r.number(), "since": r.number(), "until": r.number()}


def read_alive(r):
    return {"next": r.option(r.number)}


KINDS = {
    "decision": None,
    "gap": read_gap,
    "grant": read_grant,
    "mode": read_mode,
    "refused": read_refused,
    "start": read_start,
    "task": read_task,
    "trust": read_trust,
    "repeated": read_repeated,
    "alive": read_alive,
    "ended": read_end,
}


# Leaves.

DEFINITIONS, AHEAD, REASON, QUESTION, CALLER, CREDENTIAL, VIEW, AGE = (1 << bit for bit in range(8))
PARTS = {"reason": REASON, "question": QUESTION, "caller": CALLER, "credential": CREDENTIAL, "view": VIEW}
FIRST = REASON | QUESTION | CALLER | CREDENTIAL | VIEW


class Leaves:
    def __init__(self):
        self.defined = {kind: [] for kind in range(6)}
        self.floor = self.ahead = self.staleness = self.width = 0
        self.now = None

    def at(self, kind, number):
        need(number < len(self.defined[kind]), "names what was not defined before it")
        return self.defined[kind][number]

    def text(self, number):
        return None if number is None else self.at(0, number)

    def texts(self, numbers):
        return [self.text(number) for number in numbers]

    def read(self, data, index):
        need(len(data) <= LEAF_BYTES_MAX, "a leaf too large")
        r = Reader(data)
        tag = r.byte()
        need(tag < 3, "a leaf of no kind")
        if tag:
            event = {"decision": self.decision(r, tag == 2)}
        else:
            self.floor = (self.floor + r.difference()) % U64
            self.ahead = (self.ahead + r.difference()) % U64
            kind = r.pick(list(KINDS))
            need(KINDS[kind], "a decision in the form of an event")
            event = {kind: KINDS[kind](r)}
        r.end("the leaf")
        powered = (self.floor + self.ahead) % U64
        return {"index": index, "floor": self.floor, "powered": powered, "event": event}

    def decision(self, r, allow):
        mask = r.byte()
        need(self.now or mask & FIRST == FIRST, "the first decision leaves something out")
        self.now = self.now or dict.fromkeys(PARTS)
        self.floor = (self.floor + r.difference()) % U64
        for _ in range(r.number() if mask & DEFINITIONS else 0):
            self.define(r)
        if mask & AHEAD:
            self.ahead = (self.ahead + r.difference()) % U64
        for part, bit in PARTS.items():
            if mask & bit:
                self.now[part] = r.number()
        if mask & AGE:
            self.staleness = (self.staleness + r.difference()) % U64
            self.width = (self.width + r.difference()) % U64
        operation, resource, destination, risk, arguments = self.at(2, self.now["question"])
        workload, enforcer = self.at(3, self.now["caller"])
        mode, freshness, time_class, bundle, policy, feed = self.at(5, self.now["view"])
        risk = self.text(risk)
        need(risk is None or is_name(risk, 24), "no class of risk")
        return {
            "allow": allow,
            "reason": self.text(self.now["reason"]),
            "operation": self.text(operation),
            "resource": self.text(resource),
            "destination": self.text(destination),
            "risk": risk,
            "arguments": arguments,
            "credential": self.credential(self.at(4, self.now["credential"])),
            "workload": self.texts(workload),
            "enforcer": self.texts(enforcer),
            "known": {
                "mode": self.text(mode),
                "freshness": self.text(freshness),
                "staleness_s": self.staleness,
                "time_class": self.text(time_class),
                "width_ms": self.width - 1 if self.width else None,
                "bundle_version": bundle,
                "policy_version": policy,
                "feed_seq": feed,
            },
        }

    def credential(self, what):
        if not isinstance(what, dict):
            return "nothing" if what is None else {"same": what}
        task = self.text(what["task"])
        need(task is None or is_name(task, 48), "no task")
        chain = [self.at(1, number) for number in what["chain"]]
        step = what["step"]
        if step:
            step = step | {"id": self.text(step["id"]), "planner": self.texts(step["planner"])}
            need(is_name(step["id"], 48), "no step")
        owner = self.text(what["owner"])
        initiator = what["initiator"]
        if initiator:
            initiator = dict(zip(["issuer", "subject"], self.texts(initiator)))
        named = {"owner": owner, "grant": what["grant"], "task": task, "chain": chain, "step": step}
        return {"named": named | {"initiator": initiator}}

    def define(self, r):
        kind = r.byte()
        need(kind < 7, "a definition of no kind")
        if kind == 6:
            self.defined[2].append(self.question(r)[:4] + (r.hash(),))
            return
        self.defined[kind].append([self.new_text, self.new_block, self.question, self.caller, self.token, self.view][kind](r))

    def new_text(self, r):
        return r.text()

    def new_block(self, r):
        return r.hash()

    def question(self, r):
        return r.number(), r.number(), r.number_or_none(), r.number_or_none(), None

    def caller(self, r):
        lists = r.list(r.number), r.list(r.number)
        need(sum(len(self.text(n).encode()) for n in lists[0] + lists[1]) <= RECORD_BYTES_MAX, "too many selectors")
        return lists

    def token(self, r):
        how = r.byte()
        need(how < 4, "a credential of no kind")
        if how < 2:
            return r.number() if how else None
        what = {"owner": r.number(), "grant": r.hash(16), "task": r.number_or_none(), "chain": r.list(r.number)}
        step = r.number_or_none()
        if step is not None:
            step = {"id": step, "planner": r.list(r.number), "era": read_era(r), "index": r.number()}
            need(sum(len(self.text(n).encode()) for n in step["planner"]) <= RECORD_BYTES_MAX, "too many selectors")
        need(32 * len(what["chain"]) <= RECORD_BYTES_MAX, "too many blocks")
        initiator = [r.number(), r.number()] if how == 3 else None
        return what | {"step": step, "initiator": initiator}

    def view(self, r):
        return r.number(), r.number(), r.number(), r.number(), r.number(), r.number_or_none()


def read_leaves(leaves, indexes):
    reading = Leaves()
    return [reading.read(leaf, index) for leaf, index in zip(leaves, indexes)]


# Segments.


def read_envelope(r):
    """The payload, and who signed it with what."""
    return r.take(r.number()), r.list(lambda: (r.take(8), r.take(64)))


def read_certificate(r):
    """The bytes of a certificate: they are looked into when it counts."""
    begin = r.at
    read_envelope(r)
    return r.data[begin : r.at].hex()


def need_signed(kind, fleet, payload, signatures, keys):
    need(len(signatures) <= 16, "too many signatures")
    message, known = f"hardtack/{kind}/v1\0{fleet}\0".encode() + payload, {key_id(key): key for key in keys}
    fits = [signature_fits(known[who], message, signature) for who, signature in signatures if who in known]
    need(fits, "signed by a key that does not count")
    need(all(fits), "a signature that does not fit")


def vouched(certificate, fleet, device, identities):
    """(identity key, epoch, audit key) of a certificate."""
    data = bytes.fromhex(certificate)
    need(len(data) <= 512, "a certificate too large")
    r = Reader(data)
    payload, signatures = read_envelope(r)
    r.end("the certificate")
    who = [identity for identity in identities if key_id(identity) in [signer for signer, _ in signatures]]
    need(who, "a certificate by a key that does not count")
    need_signed("audit-key", fleet, payload, signatures, who[:1])
    r = Reader(payload)
    need(r.name(48) == device, "a certificate of another device")
    epoch, key = r.number(), r.take(32)
    r.end("the certificate's content")
    return who[0], epoch, key


def parse_header(data):
    """What a header claims, and its envelope."""
    need(len(data) <= 4 * 1024, "a header too large")
    r = Reader(data)
    envelope = read_envelope(r)
    r.end("the signatures")
    r = Reader(envelope[0])
    header = {"device": r.name(48), "era": read_era(r), "segment": r.number(), "first_index": r.number()}
    header |= {"count": r.number(2**32), "previous": r.hash(), "root": r.hash(), "closed_at": r.number()}
    header |= {"recovered": r.flag(), "signer": r.option(lambda: read_certificate(r))}
    header |= {"feeds": r.list(lambda: read_position(r)), "salvage": r.option(lambda: read_salvage(r))}
    r.end("the header")
    return header, envelope


def read_header(data, fleet, keys):
    """The header, if one of these audit keys signed it for the fleet."""
    header, envelope = parse_header(data)
    need_signed("segment", fleet, *envelope, keys)
    return header


def read_salvage(r):
    lost = {"next_segment": r.number(), "lost": r.list(lambda: [r.number(), r.number()]), "head": r.hash()}
    return lost | {"resumes": r.option(lambda: read_certificate(r))}


def kept(header):
    """The ranges of indexes that there are leaves of."""
    first, end = header["first_index"], header["first_index"] + header["count"]
    after = header["salvage"]["next_segment"] if header["salvage"] else header["segment"] + 1
    need(header["count"] > 0, "no numbers")
    need(max(header["era"]["number"], header["segment"], after, end) < 2**63, "a number past 63 bits")
    if header["salvage"] is None:
        return [(first, end)]
    need(header["salvage"]["next_segment"] > header["segment"], "salvage that leads nowhere")
    ranges = []
    for lost, after in header["salvage"]["lost"]:
        need(first <= lost < after <= end, "lost records out of order")
        ranges.append((first, lost))
        first = after
    return ranges + [(first, end)]


def indexes_of(header):
    return (index for first, end in kept(header) for index in range(first, end))


def count_of(header):
    return sum(end - first for first, end in kept(header))


def is_shed(header, leaves):
    """Whether the device gave its records up, or somebody says so."""
    return not leaves and header["count"] > 0 and header["salvage"] is None


def need_given_up(message, fleet, header, identities):
    """The header in a message without leaves, which the device says itself that it gave up."""
    r = Reader(message)
    need(r.number() == 2, "a message of another form")
    begin = r.at
    payload, _ = read_envelope(r)
    need(r.data[begin : r.at] == header, "another header")
    begin = r.at
    said, signatures = read_envelope(r)
    need(r.at - begin <= 512, "a word too large")
    r.end("the word")
    need_signed("given-up", fleet, said, signatures, identities)
    r = Reader(said)
    need(r.name(48) == parse_header(header)[0]["device"], "the word of another device")
    need(r.take(32) == digest("segment", payload), "a word on another segment")
    r.end("the word's content")


def head_after(header):
    if header["salvage"]:
        return bytes.fromhex(header["salvage"]["head"])
    return link(bytes.fromhex(header["previous"]), bytes.fromhex(header["root"]))


class Chain:
    """An era of a device, from its beginning."""

    def __init__(self, fleet, device, era, salt, signer=None):
        # Who signs the next segment; at the beginning, who signed the era before.
        self.signer = signer
        self.fleet, self.device, self.era = fleet, device, {"number": era, "salt": salt}
        self.segment = self.index = 0
        self.head = genesis(fleet, device, era, salt)
        self.held, self.lost, self.shed, self.whole, self.named = [], [], [], True, {}
        # The denials; whether the last record says that the era ends in order.
        self.denials, self.over = set(), False
        self.marks = {"announced": 0, "recovered": 0, "salvaged": 0, "unannounced": 0}
        # Where another branch may part: before it (number, digest, whether it is whole, who signed it), and what comes next.
        self.points = [(None, 0, 0, self.head, signer)]

    def cut(self, point):
        """The same as it stood there, whatever came after."""
        before, segment, index, head, signer = point
        part = Chain(self.fleet, self.device, self.era["number"], self.era["salt"], signer)
        part.segment, part.index, part.head, part.whole, part.points = segment, index, head, self.whole, []
        part.lost, part.shed = ([[a, min(b, index)] for a, b in ranges if a < index] for ranges in (self.lost, self.shed))
        part.named = {at: named for at, named in self.named.items() if at < index}
        part.denials = {at for at in self.denials if at < index}
        return part

    def open(self, data, identities):
        """The header, who signed it, how that key follows, and who signs on where what was lost may have said so."""
        header, envelope = parse_header(data)
        before = self.signer

        def of(certificate):
            return vouched(certificate, self.fleet, header["device"], identities)

        need(header["signer"] or (before and header["segment"] > 0), "a first segment without its key's certificate")
        signer = of(header["signer"]) if header["signer"] else before
        need_signed("segment", self.fleet, *envelope, [signer[2]])
        if header["salvage"] or header["recovered"]:
            mark = "salvaged" if header["salvage"] else "recovered"
        elif before is None or signer == before or (header["segment"] == 0 and signer[0] != before[0]):
            mark = "announced"
        else:
            need(header["segment"] == 0, "signed with a key that was not announced")
            mark = "unannounced"
        resumes = header["salvage"] and header["salvage"]["resumes"]
        return header, signer, mark, of(resumes) if resumes else None

    def after(self, signer, mark, records):
        later = mark in ("recovered", "salvaged")
        # Whoever closed it later goes on with nothing.
        signer = self.signer or signer if later else signer
        for record in records:
            told = record["event"].get("trust", {}).get("audit_key")
            if told and told["epoch"] > signer[1]:
                signer = signer[0], told["epoch"], bytes(told["key"])
            else:
                need(told is None or later, "announces an audit key that is no newer")
        return signer

    def follow(self, data, leaves, identities):
        header, signer, mark, resumes = self.open(data, identities)
        need(header["device"] == self.device and header["era"] == self.era, "of another device or era")
        need(header["segment"] == self.segment, f"segment {self.segment} was to be next")
        need(header["first_index"] == self.index, f"record {self.index} was to be next")
        need(header["previous"] == self.head.hex(), "the chain before it ends otherwise")
        shed = is_shed(header, leaves)
        root = tree([leaf_hash(leaf) for leaf in leaves]).hex()
        need(shed or root == header["root"], "its leaves are not those that were signed")
        need(shed or count_of(header) == len(leaves), "more or fewer leaves than numbers")
        records = read_leaves(leaves, indexes_of(header))
        self.signer = resumes or self.after(signer, mark, records)
        self.marks[mark] += 1
        self.head = head_after(header)
        self.segment += 1
        self.index += header["count"]
        if shed:
            self.shed += kept(header)
        else:
            self.held += kept(header)
        if header["salvage"]:
            self.segment, self.whole = header["salvage"]["next_segment"], False
            self.lost += header["salvage"]["lost"]
        before = header["segment"], digest("segment", parse_header(data)[1][0]).hex(), not header["salvage"], signer
        self.points.append((before, self.segment, self.index, self.head, self.signer))
        return header, records

    def gone(self, index):
        return any(first <= index < after for first, after in self.lost)

    def count(self, record):
        """How many denials a record counts beside those that have one, and how many of them are as a lost one."""
        event = record["event"]
        self.over = event == {"alive": {"next": None}}
        if "decision" in event and not event["decision"]["allow"]:
            self.denials.add(record["index"])
        if "repeated" not in event:
            return 0, 0
        of, count = event["repeated"]["of"], event["repeated"]["count"]
        given_up = any(first <= of < after for first, after in self.shed)
        need(of in self.denials or self.gone(of) or given_up, f"record {record['index']} counts denials as {of}, which is none")
        return count, 0 if of in self.denials else count

    def attribute(self, record):
        """What a decision's credential names; None where it names nothing, or only a lost record did."""
        decision = record["event"].get("decision")
        if decision is None or decision["credential"] == "nothing":
            return None
        if "named" in decision["credential"]:
            if decision["allow"]:
                self.named[record["index"]] = decision["credential"]["named"]
            return decision["credential"]["named"]
        index = decision["credential"]["same"]
        need(index in self.named or self.gone(index), f"record {record['index']} refers to {index}, which names no credential")
        return self.named.get(index)


# Lines of an export.


def date(millis):
    millis = min(millis, YEAR_10000 - 1)
    return (datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=millis // 1000)).strftime("%Y-%m-%dT%H:%M:%SZ")


def salts_as_text(value):
    if isinstance(value, dict):
        return {k: f"{v:016x}" if k == "salt" else salts_as_text(v) for k, v in value.items()}
    return [salts_as_text(item) for item in value] if isinstance(value, list) else value


def fields_of(device, era, segment, record, named):
    (kind, told), name = next(iter(record["event"].items())), f"{device}/{era['number']}/{record['index']}"
    line = {"id": name, "kind": kind, "device": device, "era": era["number"], "salt": f"{era['salt']:016x}"}
    line |= {"segment": segment, "index": record["index"]}
    line |= {"floor": date(record["floor"]), "powered": date(record["powered"])}
    told = salts_as_text(told)
    if kind == "decision":
        line |= {"decision_id": name} | salts_as_text(named or {})
        credential = told.pop("credential")
        told |= told.pop("known")
        if isinstance(credential, dict) and "same" in credential:
            told["named_by"] = credential["same"]
    if kind == "trust":
        (change, inner), = told.items()
        told = inner | {"change": change}
        if change == "audit_key":
            told["key"] = bytes(inner["key"]).hex()
    for field, value in told.items():
        line[f"{kind}_{field}" if field in line else field] = value
    return line


def empty_line(header):
    era = header["era"]
    line = {"kind": "lost" if header["salvage"] else "shed", "device": header["device"], "era": era["number"], "salt": f"{era['salt']:016x}"}
    return line | {"segment": header["segment"], "first": header["first_index"], "count": header["count"]}


def once(pairs):
    need(len(dict(pairs)) == len(pairs), "a name that stands twice")
    return dict(pairs)


def parse(text):
    try:
        value = json.loads(text, object_pairs_hook=once, parse_constant=lambda _: need(False, "no number"))
    except (ValueError, RecursionError):
        raise Refused("no JSON") from None
    need(isinstance(value, dict), "no object")
    return value


def unbase64(text):
    try:
        data = b64decode(text, validate=True)
    except (ValueError, TypeError):
        raise Refused("no base64") from None
    need(b64encode(data).decode() == text, "base64 with bits left over")
    return data


def unhex(text, size):
    try:
        data = bytes.fromhex(text)
    except (ValueError, TypeError):
        raise Refused("not hexadecimal") from None
    need(len(data) == size and data.hex() == text, "not hexadecimal of that length")
    return data


def equal(ours, theirs):
    """JSON's true is no 1."""
    try:
        return json.dumps(ours, sort_keys=True) == json.dumps(theirs, sort_keys=True)
    except RecursionError:
        return False


def is_number(value):
    """JSON's true is no number, nor is what 64 bits cannot hold."""
    return type(value) is int and 0 <= value < U64


def listed(value):
    need(isinstance(value, list), "no list")
    return value


def counting(device, told, trusted):
    """The identity keys that count for a device."""
    told = [unhex(key, 32) for key in listed(told)]
    return [key for owner, key in trusted if owner in (None, device)] if trusted else told


class Export:
    def __init__(self, trusted):
        self.trusted, self.problems, self.keys, self.fleet = trusted, [], {}, ""
        self.chains, self.gaps, self.ends, self.chain, self.unattributed = {}, [], [], None, 0
        self.counts, self.cut_short, self.repeated_lost, self.unheard = {}, 0, 0, 0
        self.of_device, self.unsigned, self.given_back = False, 0, 0
        # Of the era at hand: its other branches by their ids, the one at hand, whether one has come; and all that they prove.
        self.limbs, self.branch, self.parted, self.branches, self.forks = {}, None, False, [], 0
        # Per device and era of a trail, the headers that a later era may contradict; and what does.
        self.begun, self.twins = {}, []

    def wrong(self, where, why):
        self.problems.append(f"{where}: {why}")

    def read(self, data):
        lines = data.split(b"\n")
        if lines.pop():
            self.wrong("the end", "a line that is cut off")
        try:
            need(lines, "nothing")
            self.begin(parse(lines[0].decode()))
        except (Refused, UnicodeDecodeError, KeyError, TypeError, AttributeError) as why:
            return self.wrong("line 1", f"no head of an export: {why!r}")
        together = []
        for number, text in enumerate(lines[1:], 2):
            try:
                line = parse(text.decode())
                if line.get("kind") in ("hole", "unsigned", "branch"):
                    if together:
                        self.segment(together)
                        together = []
                    self.end_branch()
                    if line["kind"] == "branch":
                        self.begin_branch(number, line)
                    else:
                        self.word_of_device(line)
                    continue
                place = tuple(line[name] for name in ("device", "era", "salt", "segment", "header"))
                need([type(part) for part in place] == [str, int, str, int, str], "no place")
                need(is_number(place[1]) and is_number(place[3]), "no place")
                need(isinstance(line["received"], (str, type(None))), "not received")
                begun = self.branch and self.branch["line"]["branch"]
                need("branch" not in line or line["branch"] == begun, "of a branch that did not begin before it")
            except (Refused, UnicodeDecodeError, KeyError, TypeError) as why:
                self.wrong(f"line {number}", repr(why))
                continue
            leaves_branch = self.branch is not None and "branch" not in line
            if together and (together[0][1] != place or leaves_branch):
                self.segment(together)
                together = []
            if leaves_branch:
                self.end_branch()
            together.append((number, place, line))
        if together:
            self.segment(together)
        self.end_branch()
        self.finish()

    def begin_branch(self, number, line):
        need(not self.of_device, "a line that only a collector writes")
        unhex(line["branch"], 32)
        need(is_number(line["segments"]), "no branch")
        self.branch = {"number": number, "line": line, "chain": None, "came": 0, "refused": False}

    def end_branch(self):
        """Of the branch at hand nothing more comes."""
        branch, self.branch = self.branch, None
        if branch is None or branch["refused"]:
            return
        where = f"line {branch['number']}"
        if branch["chain"] is None:
            return self.wrong(where, "a branch of which nothing is here")
        if branch["came"] != branch["line"]["segments"]:
            self.wrong(where, f"a branch of {branch['line']['segments']} segments, of which {branch['came']} are here")
        self.limbs[branch["line"]["branch"]] = branch["chain"]
        self.branches.append(branch)

    def part(self, signed):
        """Where the branch at hand goes its own way follows from its first header."""
        branch = self.branch
        claim, (payload, signatures) = parse_header(signed)
        era, name = claim["era"], digest("segment", payload).hex()
        place = (claim["device"], era["number"], era["salt"])
        need(self.chain and self.chain[0] == place, "a branch whose trail is not before it")
        need(len(self.limbs) < 8, "more branches than a collector keeps")
        need(name not in self.limbs, "a branch twice")
        points = [(None, self.chain[1], point) for point in self.chain[1].points]
        points += [(limb, chain, point) for limb, chain in self.limbs.items() for point in chain.points]
        wanted = claim["segment"], claim["first_index"], bytes.fromhex(claim["previous"])
        parted = next(((limb, chain, point) for limb, chain, point in points if point[1:4] == wanted), None)
        found = set()
        for _, _, (before, segment, index, head, _) in points:
            if before is None or not before[2] or claim["salvage"]:
                continue
            if before[0] == claim["segment"] and before[1] != name:
                found.add("segment")
            elif before[0] != claim["segment"] and segment == claim["segment"] and (segment, index, head) != wanted:
                found.add("chain")
        branch["proves"] = "segment" if "segment" in found else next(iter(found), None)
        if parted:
            limb, chain, point = parted
            begins, after = limb or "trail", point[0] and point[0][0]
            branch["chain"] = chain.cut(point)
        else:
            # Whoever of those that signed the era signed this too.
            ids = {who for who, _ in signatures}
            known = [signer for _, _, point in points for signer in (point[0] and point[0][3], point[4]) if signer]
            signer = next((signer for signer in known if key_id(signer[2]) in ids), None)
            chain = Chain(self.fleet, *place, signer)
            chain.segment, chain.index, chain.head = wanted
            chain.lost, chain.points, chain.whole = [[0, chain.index]], [], False
            begins, after, branch["chain"] = None, None, chain
        made = {"kind": "branch", "device": place[0], "era": place[1], "salt": f"{place[2]:016x}", "branch": name}
        made |= {"from": begins, "after": after, "segment": claim["segment"], "first": claim["first_index"]}
        if not equal(made | {"segments": branch["line"]["segments"]}, branch["line"]):
            self.wrong(f"line {branch['number']}", "says otherwise than what was signed")

    def beside(self, lines):
        """A segment of the branch at hand."""
        branch, where = self.branch, f"line {lines[0][0]}"
        self.parted = True
        if branch["refused"]:
            return
        try:
            signed = unbase64(lines[0][1][4])
            if branch["chain"] is None:
                self.part(signed)
            chain, leaves = branch["chain"], [unbase64(line["leaf"]) for _, _, line in lines if "leaf" in line]
            branch["came"] += 1
            header, records = chain.follow(signed, leaves, self.keys[chain.device])
        except (Refused, OverflowError, KeyError) as why:
            branch["refused"] = branch["chain"] is None
            return self.wrong(where, repr(why))
        self.forks += branch["came"] == 1 and branch["proves"] is not None
        made = []
        for record in records:
            try:
                named = chain.attribute(record)
                chain.count(record)
            except Refused as why:
                self.wrong(where, str(why))
                named = None
            made.append(fields_of(chain.device, header["era"], header["segment"], record, named))
        self.compare(lines, [line | {"branch": branch["line"]["branch"]} for line in made or [empty_line(header)]])

    def compare(self, lines, expected):
        if len(expected) != len(lines):
            self.wrong(f"line {lines[0][0]}", "more or fewer lines than the segment has records")
        for (number, _, line), made in zip(lines, expected):
            rest = {name: value for name, value in line.items() if name not in ("leaf", "header", "received")}
            if not equal(rest, made):
                self.wrong(f"line {number}", "says otherwise than what was signed")

    def begin(self, head):
        need(set(head) - {"from"} == {"kind", "format", "fleet", "devices"}, "other fields")
        need(head.get("from", "device") == "device", "from somebody else")
        self.of_device = "from" in head
        need((head["kind"], head["format"]) == ("export", EXPORT), "of another form")
        need(is_name(head["fleet"], 32), "no fleet")
        self.fleet = head["fleet"]
        for device in listed(head["devices"]):
            need(isinstance(device, dict) and set(device) == {"id", "keys"} and is_name(device["id"], 48), "no device")
            need(device["id"] not in self.keys, "a device twice")
            self.keys[device["id"]] = counting(device["id"], device["keys"], self.trusted)
            self.counts[device["id"]] = {"records": 0, "decisions": 0, "repeated": 0, "gaps": 0}

    def word_of_device(self, line):
        """What nobody signed: a record that no segment has yet, or a place from which the disk goes on."""
        need(self.of_device, "a line that only a device writes")
        device, era, salt = line["device"], line["era"], int.from_bytes(unhex(line["salt"], 8), "big")
        need(device in self.keys, "of a device that the head does not name")
        need(is_number(era), "no era")
        if line["kind"] == "unsigned":
            fields = {"kind", "device", "era", "salt", "index", "record", "says"}
            need(set(line) == fields and is_number(line["index"]) and unbase64(line["record"]), "no record")
            self.unsigned += 1
            return
        fields = {"kind", "device", "era", "salt", "segment", "index", "head", "signer"}
        need(set(line) == fields and is_number(line["segment"]) and is_number(line["index"]), "no hole")
        chain = self.chain_of(device, era, salt)
        need(line["index"] > chain.index and line["segment"] >= chain.segment, "a hole that leads back")
        chain.lost.append([chain.index, line["index"]])
        chain.segment, chain.index, chain.whole = line["segment"], line["index"], False
        chain.head = unhex(line["head"], 32)
        if line["signer"] is not None:
            chain.signer = vouched(unbase64(line["signer"]).hex(), self.fleet, device, self.keys[device])

    def chain_of(self, device, era, salt):
        place = (device, era, salt)
        if self.chain is None or self.chain[0] != place:
            need(place not in self.chains, "an era that is not in one piece")
            signer = self.chain[1].signer if self.chain and self.chain[0][0] == device else None
            self.chains[place] = Chain(self.fleet, device, era, salt, signer)
            self.limbs, self.parted = {}, False
            self.chain = place, self.chains[place]
        return self.chain[1]

    def segment(self, lines):
        if self.branch is not None:
            return self.beside(lines)
        (number, (device, era, salt, _, signed), _), where = lines[0], f"line {lines[0][0]}"
        try:
            signed, salt = unbase64(signed), int.from_bytes(unhex(salt, 8), "big")
            need(device in self.keys, "of a device that the head does not name")
            before = self.chain
            chain = self.chain_of(device, era, salt)
            if before and (before[0][0] != device or before[0] == (device, era, salt)):
                before = None
            need(not self.parted, "a trail that goes on after its other branches")
            leaves = [unbase64(line["leaf"]) for _, _, line in lines if "leaf" in line]
            header, records = chain.follow(signed, leaves, self.keys[device])
            self.remember(header, signed, chain.points[-1][0][3])
            if header["segment"] == 0 and before:
                # An era that has grown long ends with everything counted, and the next one names it first.
                (_, number, past), ended = before[0], before[1]
                first = records[0] if records and records[0]["index"] == 0 else {"event": {}}
                grown = first["event"].get("ended", {}).get("era") == {"number": number, "salt": past}
                open_end = (ended.denials or ended.shed) and not ended.over and not grown
                self.cut_short += bool(ended.lost or open_end)
        except (Refused, OverflowError, KeyError) as why:
            return self.wrong(where, repr(why))
        expected = [self.expected(header, record) for record in records] or [empty_line(header)]
        self.compare(lines, expected)

    def remember(self, header, signed, signer):
        """An era's first header, and one of each key that signed in it in time."""
        kept = self.begun.setdefault(header["device"], {}).setdefault((header["era"]["number"], header["era"]["salt"]), [])
        if header["segment"] == 0 or (in_time(header) and not any(in_time(old) and by == signer for old, _, by in kept)):
            kept.append((header, digest("segment", parse_header(signed)[1][0]), signer))

    def find_twins(self):
        """Each era that contradicts an earlier one, or one of its number, once."""
        for device, eras in self.begun.items():
            for place, kept in sorted(eras.items(), key=lambda era: era[0]):
                first = next((branch for branch in kept if branch[0]["segment"] == 0), None)
                twins = [other for other in eras if other[0] == place[0] and other < place]
                earlier = twins + [other for other in eras if other[0] < place[0]]
                branches = (branch for other in earlier for branch in eras[other])
                found = first and next((other for other in branches if contradiction(other, first)), None)
                if found:
                    self.twins.append((device, contradiction(found, first), found, first))

    def expected(self, header, record):
        device, named = header["device"], None
        try:
            named = self.chain[1].attribute(record)
            credential = record["event"].get("decision", {}).get("credential", "nothing")
            self.unattributed += credential != "nothing" and named is None
        except Refused as why:
            self.wrong(f"{device}/{header['era']['number']}", str(why))
        counts = self.counts[device]
        try:
            count, unattributed = self.chain[1].count(record)
            counts["decisions"] += count
            counts["repeated"] += count
            self.unattributed += unattributed
        except Refused as why:
            self.wrong(f"{device}/{header['era']['number']}", str(why))
        counts["records"] += 1
        counts["decisions"] += "decision" in record["event"]
        if "gap" in record["event"]:
            counts["gaps"] += 1
            if record["event"]["gap"]["repeated"] and record["event"]["gap"]["cause"] != "quota":
                self.wrong(f"{device}/{header['era']['number']}", "counts of records that nobody gave up")
            self.gaps.append((device, record["event"]["gap"], (header["era"]["number"], record["index"])))
        ends = record["event"].get("ended"), record["event"].get("start", {}).get("previous")
        self.ends += [(device, end) for end in ends if end]
        return fields_of(device, header["era"], header["segment"], record, named)

    def finish(self):
        """What eras say of those before them, and how much of what is not here gap records count."""
        reach = {place: chain.index for place, chain in self.chains.items()}
        for device, end in self.ends:
            place = (device, end["era"]["number"], end["era"]["salt"])
            chain = self.chains.get(place)
            if chain and chain.whole and 0 < chain.index == end["next_index"] and chain.head.hex() != end["head"]:
                self.wrong(f"{device}/{place[1]}", "its end is not the one that the next era names")
            reach[place] = max(reach.get(place, 0), end["next_index"])
        for device, gap, _ in self.gaps:
            reach.setdefault((device, gap["era"]["number"], gap["era"]["salt"]), 0)
        self.lost = self.missing = 0
        for (device, era, salt), end in reach.items():
            chain = self.chains.get((device, era, salt))
            held, shed = (chain.held, chain.shed) if chain else ([], [])
            told, counts = list(held), {}
            for owner, gap, place in self.gaps:
                if owner == device and gap["era"]["number"] == era and gap["era"]["salt"] in (0, salt):
                    counted = gap["first"], end if gap["end"] is None else gap["end"]
                    # What was given up only a later record counts that says so.
                    later = gap["cause"] == "quota" and place >= (era, counted[1])
                    told += [counted] if later else without(counted, shed)
                    # Of what is here all the same nothing is lost, and one place is counted once.
                    gone = any(first < after for first, after in without(counted, sorted(held)))
                    if later and gone and gap["end"] is not None and gap["era"]["salt"] == salt:
                        counts.setdefault(gap["first"], gap["repeated"])
            self.repeated_lost += sum(counts.values())
            self.lost += covered(told, U64) - covered(held, U64)
            if self.of_device and chain is None:
                # A device gives an era back when all of it is acknowledged.
                self.given_back += end - covered(told, end)
            else:
                self.missing += end - covered(told, end)
        self.find_twins()
        if not self.of_device:
            for device in self.keys:
                self.unheard += self.unheard_of(device)

    def unheard_of(self, device):
        """How many era numbers are passed over: nothing is here of them or said."""
        held = {}
        for (owner, era, _), chain in self.chains.items():
            if owner == device:
                held.setdefault(chain.signer and chain.signer[0], []).append(era)
        known = [(era, era + 1) for eras in held.values() for era in eras]
        known += [(end["era"]["number"], end["era"]["number"] + 1) for owner, end in self.ends if owner == device]
        known += [(gap["era"]["number"], gap["era"]["number"] + 1) for owner, gap, _ in self.gaps if owner == device]
        count = 0
        for eras in held.values():
            # Whoever was replaced began anew, with another identity.
            first, end = 1 if len(held) == 1 else min(eras), max(eras)
            count += end - covered(known + [(0, first)], end)
        return count


def without(counted, others):
    first, end = counted
    left = []
    for begin, after in others:
        left.append((first, min(begin, end)))
        first = max(first, after)
    return left + [(first, end)]


def covered(ranges, end):
    count = after = 0
    for first, last in sorted(ranges):
        first, last = max(first, after), min(last, end)
        if first < last:
            count, after = count + last - first, last
    return count


def check_export(data, trusted):
    export = Export(trusted)
    export.read(data)
    if export.problems:
        return 12, [f"WRONG {problem}" for problem in export.problems[:20]]
    said = []
    for device, counts in export.counts.items():
        said.append(f"{device}: {counts['decisions']} decisions in {counts['records']} records, {counts['gaps']} gap records")
        said.append(f"{counts['repeated']} of the decisions are denials that were as one before them")
    said.append(f"{export.lost} records lost and counted, {export.missing} not delivered and not counted")
    said.append(f"{export.cut_short} eras that ended without a word or are torn: as many denials as are counted, or more")
    said.append(f"{export.repeated_lost} denials more were counted in records that were given up")
    if not export.of_device:
        said.append(f"{export.unheard} eras by their numbers of which nothing is here or said")
    said.append(f"{export.unattributed} decisions of which a lost record says whose they were")
    if export.of_device:
        said.append(f"{export.unsigned} records that no signature covers yet: they prove nothing")
        said.append(f"{export.given_back} records of earlier eras, given back when the collector had them")
    shed = sum(after - first for chain in export.chains.values() for first, after in chain.shed)
    said.append(f"{shed} records of which only the headers of their segments are here")
    for mark in ("recovered", "salvaged", "unannounced"):
        count = sum(chain.marks[mark] for chain in export.chains.values())
        said.append(f"{count} segments that are {mark}: what may have been made later, by whoever took the device's keys")
    said += [
        "proved: each record is signed by its device, stands at its number and follows the one before",
        "proved: each field but `received` is what was signed",
        "not proved: what is missing after the last record of an era, or whole eras, where no later era names them",
        "not proved: what whoever held a device's key left out or made up before it was signed",
    ]
    for branch in export.branches:
        line = branch["line"]
        parts = f"after segment {line['after']} of {line['from']}" if line["from"] else "from what never came"
        said.append(f"{line['device']}: a branch of era {line['era']} that parts {parts}, {branch['came']} segments: {branch['proves'] or 'no fork is proved'}")
    said += [twin_words(*twin) for twin in export.twins]
    if export.forks:
        said.append("proved: somebody used a device's keys twice: two signed headers stand in one place")
        said.append("not proved: which branch is the device's own")
    if export.twins:
        said.append("proved: somebody used a device's keys twice: no device begins two such eras")
        said.append("not proved: which of the two is the device's own")
    if not trusted:
        said.append("not proved: that the keys are the devices': they are the file's own")
    if export.forks or export.twins:
        return 12, said
    gone = export.missing or export.unheard or any(counts["gaps"] for counts in export.counts.values())
    return (9 if gone else 0), said


def twin_words(device, how, other, first):
    (a, _, (_, epoch_a, _)), (b, _, (_, epoch_b, _)) = other, first
    era, (salt_a, salt_b) = b["era"]["number"], (f"{header['era']['salt']:016x}" for header in (a, b))
    if how == "era":
        return f"{device}: era {era} was begun twice under this device's identity: with the salts {salt_a} and {salt_b}"
    return (
        f"{device}: era {era} (salt {salt_b}) was begun with an audit key of epoch {epoch_b}, and era {a['era']['number']} "
        f"(salt {salt_a}) was signed with another of epoch {epoch_a}"
    )


# Proofs.


def check_proof(data, trusted):
    try:
        return 0, prove(data, trusted)
    except (Refused, KeyError, TypeError, AttributeError, OverflowError, ValueError) as why:
        return 12, [f"WRONG {why!r}"]


def prove(data, trusted):
    text, end, rest = data.partition(b"\n")
    need(end and not rest, "not one line")
    proof = parse(text.decode())
    fields = {"kind", "format", "fleet", "device", "keys", "id", "certificates", "announced", "records"}
    need(set(proof) == fields and is_name(proof["fleet"], 32) and is_name(proof["device"], 48), "other fields")
    need((proof["kind"], proof["format"]) == ("proof", PROOF), "of another form")
    identities = counting(proof["device"], proof["keys"], trusted)
    keys = [key for _, _, key in ring_of(proof, identities)]
    opened = [open_record(proof, proved, keys) for proved in listed(proof["records"])]
    need(opened, "a proof of no record")
    (header, record), *others = opened
    era, credential = header["era"], record["event"].get("decision", {}).get("credential", "nothing")
    named = credential.get("named") if isinstance(credential, dict) else None
    referred = credential.get("same") if isinstance(credential, dict) else None
    need(len(others) == (referred is not None), "more or fewer records than are referred to")
    names = []
    for other_header, other in others:
        decision = other["event"].get("decision", {})
        need(other["index"] == referred and other_header["era"] == era, "another record than is referred to")
        need(decision.get("allow") and isinstance(decision["credential"], dict), "no allow that names a credential")
        named = decision["credential"]["named"]
        names.append(named)
    need(proof["id"] == f"{proof['device']}/{era['number']}/{record['index']}", "the proof of another record")
    for (header, record), name, proved in zip(opened, [named] + names, proof["records"]):
        made = fields_of(proof["device"], header["era"], header["segment"], record, name)
        need(equal(made, proved["record"]), f"what it says of record {record['index']} is not what was signed")
    said = [
        f"{proof['id']}: {record['event']}" for _, record in opened[:1]
    ] + [
        "proved: its device signed it, at this number of this era",
        "not proved: that the records before and after its segment are there",
        "not proved: that the device did not sign another record under this number",
    ]
    return said + ([] if trusted else ["not proved: that the keys are the device's: they are the file's own"])


def ring_of(proof, identities):
    """(identity key, epoch, audit key) of each audit key that a file vouches for."""
    certificates = [unbase64(text).hex() for text in listed(proof["certificates"])]
    ring = [vouched(one, proof["fleet"], proof["device"], identities) for one in certificates]
    for proved in listed(proof["announced"]):
        header, record = open_record(proof, proved, [key for _, _, key in ring])
        made = fields_of(proof["device"], header["era"], header["segment"], record, None)
        need(equal(made, proved["record"]), f"what it says of record {record['index']} is not what was signed")
        told = record["event"]["trust"]["audit_key"]
        ring.append((signer_of(unbase64(proved["header"]), ring)[0], told["epoch"], bytes(told["key"])))
    return ring


def signer_of(data, ring):
    """Who signed a header first, of those that are known."""
    known = {key_id(signer[2]): signer for signer in reversed(ring)}
    signers = [known[who] for who, _ in parse_header(data)[1][1] if who in known]
    need(signers, "signed by a key that does not count")
    return signers[0]


def open_record(proof, proved, keys):
    fields = {"record", "header", "place", "count", "leaves", "path"}
    need(isinstance(proved, dict) and set(proved) == fields, "other fields")
    need(is_number(proved["place"]) and is_number(proved["count"]), "another place")
    header = read_header(unbase64(proved["header"]), proof["fleet"], keys)
    need(header["device"] == proof["device"], "of another device")
    leaves, path = [unbase64(leaf) for leaf in listed(proved["leaves"])], [unhex(part, 32) for part in listed(proved["path"])]
    hashes, count = [leaf_hash(leaf) for leaf in leaves], count_of(header)
    need((proved["place"], proved["count"]) == (len(leaves) - 1, count), "another place")
    # Anybody can check the one leaf with RFC 6962; to read it, it takes those before it.
    need(root_from(hashes[-1], len(leaves) - 1, count, path).hex() == header["root"], "its leaf is not in the signed tree")
    need(root_from_first(hashes, count, path).hex() == header["root"], "leaves that are not in the signed tree")
    return header, read_leaves(leaves, indexes_of(header))[-1]


# Forks.


def check_fork(data, trusted):
    try:
        return 0, fork(data, trusted)
    except (Refused, KeyError, TypeError, AttributeError, OverflowError, ValueError) as why:
        return 12, [f"WRONG {why!r}"]


def fork(data, trusted):
    text, end, rest = data.partition(b"\n")
    need(end and not rest, "not one line")
    proof = parse(text.decode())
    fields = {"kind", "format", "fleet", "device", "keys", "contradiction", "certificates", "announced", "headers"}
    need(set(proof) == fields and is_name(proof["fleet"], 32) and is_name(proof["device"], 48), "other fields")
    need((proof["kind"], proof["format"]) == ("fork", FORK), "of another form")
    ring = ring_of(proof, counting(proof["device"], proof["keys"], trusted))
    need(len(listed(proof["headers"])) == 2, "not two headers")
    first, second = [branch(proof, unbase64(header), ring) for header in proof["headers"]]
    need(contradiction(first, second) == proof["contradiction"], "the two do not contradict each other so")
    said = [f"{proof['device']}: both were signed, and cannot both stand in one trail ({proof['contradiction']})"]
    for header, _, (_, epoch, _) in (first, second):
        era = f"era {header['era']['number']} (salt {header['era']['salt']:016x})"
        said.append(f"{era} segment {header['segment']}, closed at {date(header['closed_at'])}, audit key of epoch {epoch}")
    said.append("not proved: which of the two is the device's own")
    return said + ([] if trusted else ["not proved: that the keys are the device's: they are the file's own"])


def branch(proof, data, ring):
    header = read_header(data, proof["fleet"], [key for _, _, key in ring])
    need(header["device"] == proof["device"], "of another device")
    return header, digest("segment", parse_header(data)[1][0]), signer_of(data, ring)


def contradiction(first, second):
    (a, digest_a, (identity_a, epoch_a, key_a)), (b, digest_b, (identity_b, epoch_b, key_b)) = first, second
    whole = not a["salvage"] and not b["salvage"]
    if a["era"] == b["era"] and whole:
        if a["segment"] == b["segment"]:
            return "segment" if digest_a != digest_b else None
        follows = b["previous"] == head_after(a).hex() and b["first_index"] == a["first_index"] + a["count"]
        return "chain" if b["segment"] == a["segment"] + 1 and not follows else None
    same_identity = identity_a == identity_b
    if a["era"]["number"] == b["era"]["number"]:
        both_begin = a["segment"] == b["segment"] == 0 and a["era"] != b["era"]
        return "era" if both_begin and same_identity else None
    begins_later = a["era"]["number"] < b["era"]["number"] and b["segment"] == 0
    back = epoch_b < epoch_a or (epoch_b == epoch_a and key_b != key_a)
    return "key" if in_time(a) and in_time(b) and begins_later and same_identity and back else None


def in_time(header):
    """Not what a later start closed, or a damaged disk left: that was signed with the key of then."""
    return not header["salvage"] and not header["recovered"]


# Vectors.

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


def unhexed(texts):
    return [bytes.fromhex(text) for text in texts]


def check_vectors(folder):
    vectors = {file.stem: json.loads(file.read_text()) for file in Path(folder).glob("*.json")}
    case = vectors["leaves"]
    salt = int(case["era"]["salt"], 16)
    head = genesis(case["fleet"], case["device"], case["era"]["number"], salt)
    same("genesis", head.hex(), case["genesis"])
    leaves = unhexed(row["leaf"] for row in case["records"])
    for row, record in zip(case["records"], read_leaves(leaves, range(len(leaves))), strict=True):
        same("record", record, row["record"])
        head = digest("hardtack/chain/v1", head, bytes.fromhex(row["stored"]))
        same("head", head.hex(), row["head"])
    same("root", tree([leaf_hash(leaf) for leaf in leaves]).hex(), case["root"])
    same("empty", tree([]).hex(), vectors["trees"]["empty"])
    for case in vectors["trees"]["trees"]:
        hashes = [leaf_hash(leaf) for leaf in unhexed(case["leaves"])]
        same("root", tree(hashes).hex(), case["root"])
        for way in case["paths"]:
            place, path = way["place"], unhexed(way["path"])
            same("path", path_of(hashes, place), path)
            same("root", root_from(hashes[place], place, len(hashes), path).hex(), case["root"])
            same("root", root_from_first(hashes[: place + 1], len(hashes), path).hex(), case["root"])
    check_chain(vectors["segments"], vectors["refused"])
    for case in vectors["forks"]:
        same(case["why"], check_fork(case["file"].encode(), [])[0], 0 if case["holds"] else 12)
    for name in ("branches", "twins"):
        for case in vectors[name]["cases"]:
            lines = [line if isinstance(line, str) else vectors[name]["lines"][line] for line in case["file"]]
            code, said = check_export("".join(line + "\n" for line in lines).encode(), [])
            wrong = any(line.startswith("WRONG") for line in said)
            twins = ["era" if "twice under" in line else "key" for line in said if " was begun " in line]
            same(case["why"], [code, not wrong, twins], [case["code"], case["signed"], case.get("twins", [])])


def check_chain(vectors, bad):
    key, fleet, device = bytes.fromhex(vectors["identity"]), vectors["fleet"], vectors["device"]
    same("key id", key_id(key).hex(), vectors["key_id"])
    era = vectors["segments"][0]["fields"]["era"]
    begin = Chain(fleet, device, era["number"], era["salt"])
    same("genesis", begin.head.hex(), vectors["genesis"])
    for case in vectors["segments"]:
        message = Reader(bytes.fromhex(case["message"]))
        leaves = unhexed(case["leaves"])
        form = message.pick(["open", "sealed", "given up"])
        same("header", message.take(len(case["header"]) // 2).hex(), case["header"])
        if form == "given up":
            need_given_up(message.data, fleet, bytes.fromhex(case["header"]), [key])
            same("leaves", [], leaves)
        else:
            same("leaves", message.list(lambda: message.take(message.number())), leaves)
            message.end("the message")
        header, records = begin.follow(bytes.fromhex(case["header"]), leaves, [key])
        same("fields", header, case["fields"])
        same("indexes", [record["index"] for record in records], case["indexes"])
        same("head", begin.head.hex(), case["head"])
        same("next", [begin.segment, begin.index], case["next"])
        same("signer", [begin.signer[1], begin.signer[2].hex()], case["signer"])
    for case in bad["leaves"]:
        refused(case["why"], lambda: read_leaves(unhexed(case["leaves"]), range(5, 100)))
    for case in bad["given_up"]:
        header = bytes.fromhex(case["header"])
        refused(case["why"], lambda: need_given_up(bytes.fromhex(case["message"]), fleet, header, [key]))
    for case in bad["segments"]:
        chain, first = Chain(fleet, device, era["number"], era["salt"]), vectors["segments"][0]
        chain.follow(bytes.fromhex(first["header"]), unhexed(first["leaves"]), [key])
        refused(case["why"], lambda: chain.follow(bytes.fromhex(case["header"]), unhexed(case["leaves"]), [key]))


def main():
    task, *rest = sys.argv[1:] or ["help"]
    if task == "vectors" and len(rest) == 1:
        check_vectors(rest[0])
        return print(f"{checked} vectors agree")
    if task not in ("export", "prove", "fork"):
        sys.exit(__doc__)
    trusted, files = [], []
    while rest:
        word = rest.pop(0)
        if word != "--key":
            files.append(word)
            continue
        device, _, key = rest.pop(0).rpartition("=")
        trusted.append((device or None, bytes.fromhex(key)))
    worst = 0
    for file in files:
        code, said = {"export": check_export, "prove": check_proof, "fork": check_fork}[task](Path(file).read_bytes(), trusted)
        worst = max(worst, code)
        print(f"{file}: {code}", *said, sep="\n  ")
    sys.exit(worst)


if __name__ == "__main__":
    main()
