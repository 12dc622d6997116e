"""Holds the sockets of a live agent against the OpenAPI document that it serves.

Usage: conformance.py RUN_DIR CLASS RESOURCE EXAMPLES, where this process may begin tasks of the class to read the resource

Schemathesis draws requests from the document: those that it allows, and those that it forbids. Every answer must be one that
the document names for that path: its status, its type of content, its form. What the document allows must not be called
invalid, what it forbids must not be taken, and a method that it does not name must be refused. Half of the requests that it
allows carry a task and a token that the agent gave out a moment before, so that not all of them end at the first check.

Prints one JSON object: what was asked how often on each socket, how often each status was seen, and what did not conform. Exits
1 if something did not.
"""

import json
import os
import socket
import sys
from collections import Counter

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from requests.adapters import HTTPAdapter
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool

PATIENCE_S = 30
# Not among them: what is about authentication by a header (callers are attested by the kernel) and about resources that are
# made at one path and read at another.
CHECKED = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "what_is_allowed_is_valid",
    "unsupported_method",
]
MODES = {"allowed": GenerationMode.POSITIVE, "forbidden": GenerationMode.NEGATIVE}


class UnixConnection(HTTPConnection):
    """A connection to a path, whatever the host is called."""

    def __init__(self, path):
        super().__init__("hardtack", timeout=PATIENCE_S)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(PATIENCE_S)
        self.sock.connect(self.path)


class UnixPool(HTTPConnectionPool):
    """Connections to one socket."""

    def __init__(self, path):
        super().__init__("hardtack")
        self.path = path

    def _new_conn(self):
        return UnixConnection(self.path)


class UnixAdapter(HTTPAdapter):
    """Sends everything to one socket."""

    def __init__(self, path):
        super().__init__()
        self.pool = UnixPool(path)

    def get_connection_with_tls_context(self, request, verify, proxies=None, cert=None):
        return self.pool

    def request_url(self, request, proxies):
        return request.path_url


def session(path):
    """A session whose every request goes to this socket."""
    opened = requests.Session()
    opened.trust_env = False
    opened.mount("http://", UnixAdapter(path))
    return opened


def bytes_of(value):
    """The most bytes of a text in a body: a document can only count characters."""
    if isinstance(value, str):
        return len(value.encode())
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return max(map(bytes_of, parts), default=0)


@schemathesis.check
def what_is_allowed_is_valid(ctx, response, case):
    """What the document allows may be refused, but not for its form."""
    if case.meta is None or not case.meta.generation.mode.is_positive or bytes_of(case.body) > 256:
        return
    if response.status_code == 400:
        assert response.json().get("code") != "invalid_request", response.json().get("detail")


def begin(agent, kind, resource):
    """A task of this process."""
    body = {"task": kind, "rights": [{"resource": resource, "action": "read"}], "ttl_s": 600}
    answer = agent.post("http://hardtack/v1/tasks", json=body, timeout=PATIENCE_S)
    answer.raise_for_status()
    return answer.json()


def in_digits(value):
    """The same with 5 for 5.0: JSON Schema has both for whole numbers, the API takes digits only."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: in_digits(each) for key, each in value.items()}
    return [in_digits(each) for each in value] if isinstance(value, list) else value


def with_what_is_held(case, task, turn):
    """Every other request names a task and a token that exist, where it names one at all. No document says what Datalog is."""
    case.body = in_digits(case.body)
    if isinstance(case.body, dict) and case.body.get("checks"):
        case.body["checks"] = ['check if operation("read")']
    if turn % 2:
        return
    if "id" in (case.path_parameters or {}):
        case.path_parameters["id"] = task["task_id"]
    if isinstance(case.body, dict) and isinstance(case.body.get("token"), str):
        case.body["token"] = task["token"]


class Run:
    """All that is asked on one socket, and what came of it."""

    def __init__(self, name, path, document, examples):
        self.name, self.examples = name, examples
        self.session = session(path)
        self.statuses, self.asked, self.failures = Counter(), Counter(), []
        document = {**document, "paths": {
            url: {method: operation for method, operation in operations.items() if name in operation["x-sockets"]}
            for url, operations in document["paths"].items()
        }}
        self.schema = schemathesis.openapi.from_dict(document)

    def go(self, task):
        for result in self.schema.get_all_operations():
            operation = result.ok()
            for mode, generation in MODES.items():
                try:
                    self.ask(operation, mode, operation.as_strategy(generation_mode=generation), task)
                except Unsatisfiable:
                    # Nothing can be forbidden where nothing is asked for.
                    if mode == "allowed":
                        raise

    def ask(self, operation, mode, strategy, task):
        turn = 0

        @seed(1)
        @settings(max_examples=self.examples, deadline=None, database=None, phases=[Phase.generate],
                  suppress_health_check=list(HealthCheck), print_blob=False)
        @given(case=strategy)
        def one(case):
            nonlocal turn
            turn += 1
            if mode == "allowed":
                with_what_is_held(case, task, turn)
            response = case.call(base_url="http://hardtack", session=self.session, timeout=PATIENCE_S)
            self.asked[mode] += 1
            self.statuses[response.status_code] += 1
            case.validate_response(response, checks=[CHECKS.get_one(name) for name in CHECKED])

        try:
            one()
        except AssertionError as error:
            self.fail(operation, mode, error)
        except BaseExceptionGroup as group:
            for error in group.exceptions:
                self.fail(operation, mode, error)

    def fail(self, operation, mode, error):
        where = f"{self.name} {operation.method.upper()} {operation.path} ({mode})"
        self.failures.append(f"{where}: {error}"[:2000])


def main(run_dir, kind, resource, examples):
    load_all_checks()
    agent = session(os.path.join(run_dir, "agent.sock"))
    document = agent.get("http://hardtack/openapi.json", timeout=PATIENCE_S).json()
    runs = []
    for name in ("agent", "pep", "admin"):
        run = Run(name, os.path.join(run_dir, f"{name}.sock"), document, examples)
        run.go(begin(agent, kind, resource))
        runs.append(run)
    failures = [failure for run in runs for failure in run.failures]
    told = {run.name: {"asked": run.asked, "statuses": run.statuses} for run in runs}
    print(json.dumps({"sockets": told, "failures": failures}))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4], int(sys.argv[4])))
