#!/usr/bin/env python3
"""A workload that asks before it acts, with nothing but Python's own library.

    workload.py SOCKET CLASS OPERATION RIGHT RESOURCE...

begins a task of the class with the right to the operation on RIGHT, a resource or a prefix that ends in /*, asks for each of the
resources, and finishes the task. SOCKET is the gateway's agent.sock.
"""

import http.client
import json
import os
import socket
import sys


class Refused(Exception):
    """An answer other than the one that was hoped for: a stable code, and what happened and what to do."""

    def __init__(self, status, problem):
        super().__init__(f"{problem.get('code')}: {problem.get('detail')}")
        self.status, self.code = status, problem.get("code")


class Agent(http.client.HTTPConnection):
    """The local API of the gateway's agent."""

    def __init__(self, path, timeout=30):
        super().__init__("hardtack", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)

    def ask(self, method, path, body=None, **headers):
        self.request(method, path, json.dumps(body) if body is not None else None, headers)
        answer = self.getresponse()
        told = json.loads(answer.read())
        if answer.status >= 400:
            raise Refused(answer.status, told)
        return told


class Task:
    """A task of this process. It ends with the `with` block, and with the process in any case."""

    def __init__(self, agent, kind, rights, ttl_s):
        self.agent = agent
        # Who asks again with the same key, because no answer came, gets the same task and no second one.
        key = {"Idempotency-Key": os.urandom(16).hex()}
        begun = agent.ask("POST", "/v1/tasks", {"task": kind, "rights": rights, "ttl_s": ttl_s}, **key)
        self.id, self.token, self.expires_in_s = begun["task_id"], begun["token"], begun["expires_in_s"]

    def may(self, operation, resource, risk=None):
        """The agent's decision. It is on disk, signed or about to be, before it is here."""
        asked = {"token": self.token, "operation": operation, "resource": resource}
        return self.agent.ask("POST", "/v1/authorize", {**asked, **({"risk": risk} if risk else {})})

    def renew(self):
        """A younger credential for a long task; the older one is dead then."""
        self.token = self.agent.ask("POST", f"/v1/tasks/{self.id}/renew")["token"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.agent.ask("POST", f"/v1/tasks/{self.id}/finish")


def main(path, kind, operation, right, resources):
    agent = Agent(path)
    rights = [{"resource": right, "action": operation}]
    allowed = True
    with Task(agent, kind, rights, ttl_s=600) as task:
        for resource in resources:
            decision = task.may(operation, resource)
            allowed = allowed and decision["decision"] == "allow"
            print(f"{operation} {resource}: {decision['reason']} ({decision['decision_id']})")
        task.renew()
        print(f"renewed: {task.may(operation, resources[0])['reason']}")
    print(f"finished: {task.may(operation, resources[0])['reason']}")
    return 0 if allowed else 3


if __name__ == "__main__":
    if len(sys.argv) < 6:
        print(f"usage: {sys.argv[0]} SOCKET CLASS OPERATION RIGHT RESOURCE...", file=sys.stderr)
        sys.exit(2)
    try:
        sys.exit(main(*sys.argv[1:5], sys.argv[5:]))
    except Refused as refused:
        sys.exit(f"refused: {refused}")
    except OSError as error:
        sys.exit(f"the agent cannot be reached: {error}")
