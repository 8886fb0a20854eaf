#!/usr/bin/env python3
"""Runs a program in a network namespace that reaches the given names, and nothing else.

sandbox.py [-allow NAME[:PORT]]... [-ask] -- PROGRAM ARGUMENT...        as root

-ask: ask on the terminal about everything else. What the program tries to reach in vain is printed. The exit
code is that of the program.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress

from pipeline.client.answers import Policy, Rule
from pipeline.client.api import ApiError, RefusedError
from pipeline.client.network import Approvals, Events, Network

# Other programs of the host keep their /etc/resolv.conf. The program begins when its network is ready.
BEGIN = 'read -r _ && mount --bind "$0" /etc/resolv.conf && exec "$@"'


def rule_for(word: str) -> Rule:
    """Allow a name and the names below it, on one port."""
    name, _, port = word.partition(":")
    return {"action": "allow", "names": [name, f"*.{name}"], "ports": [port or "443"], "protocols": ["tcp"]}


def report(events: Events) -> None:
    """Print what the policy refuses, until the guest is gone. The last refusals come before that."""
    for event in events:
        if event.kind == "guest-gone":
            return
        where = event.fields.get("name") or event.fields.get("address")
        print(f"sandbox: refused: {where} port {event.fields.get('port')}", file=sys.stderr)


def answer(network: Network, approvals: Approvals) -> None:
    """Ask about flows that wait, until the network ends."""
    with suppress(ApiError):  # the network has ended
        for approval in approvals:
            where = f"{approval.name or approval.address} port {approval.port}"
            print(f"sandbox: allow {where}? [y/N] ", end="", file=sys.stderr, flush=True)
            allow = sys.stdin.readline().strip().lower() == "y"
            try:
                # The name or address, port and protocol then have a rule in the policy.
                network.decide(approval, allow, "session")
            except RefusedError as error:
                print(f"sandbox: {error}", file=sys.stderr)


def await_namespace(pid: int) -> None:
    """Wait until the process has a network namespace of its own."""
    while os.stat(f"/proc/{pid}/ns/net").st_ino == os.stat("/proc/self/ns/net").st_ino:
        time.sleep(0.01)


def main() -> int:
    """Run the program. Returns its exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("-allow", action="append", default=[], metavar="NAME[:PORT]")
    parser.add_argument("-ask", action="store_true")
    parser.add_argument("program", nargs="+")
    args = parser.parse_args()
    policy: Policy = {"default": "deny", "rules": [rule_for(word) for word in args.allow]}
    if args.ask:
        policy["rules"].append({"action": "ask", "protocols": ["tcp", "udp"]})
    # -disable api: the program can open no port of the host.
    flags = ("-disable", "api", "-guests", "isolated")
    with Network.start(policy=policy, flags=flags) as network, tempfile.NamedTemporaryFile("w") as resolv:
        resolv.write("nameserver 192.168.127.1\n")
        resolv.flush()
        os.chmod(resolv.name, 0o644)
        argv = ["unshare", "--net", "--mount", "sh", "-c", BEGIN, resolv.name, *args.program]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, text=True) as program:
            await_namespace(program.pid)
            with network.events("flow-refused", "guest-gone") as events:
                reporter = threading.Thread(target=report, args=(events,), daemon=True)
                reporter.start()
                with network.attach(program.pid):
                    if args.ask:
                        approvals = network.approvals()
                        threading.Thread(target=answer, args=(network, approvals), daemon=True).start()
                    program.communicate("begin\n")
                reporter.join()
        return program.returncode


if __name__ == "__main__":
    sys.exit(main())
