"""Measures throughput with iperf3 between a guest and the host's loopback, for this program and its peers.

`up` is guest to host, `down` is host to guest (iperf3 -R: the guest still opens the connection). A UDP figure
is what the receiver got while the sender sent as fast as it could. The peers take turns within each
repetition, so that a slow minute of the machine affects all of them.

    python -m perf.iperf --direction both --mtu 1500,65520 --seconds 3 --repeat 5
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from typing import Any

from perf import options as shared
from perf import report
from perf.namespaces import World
from perf.peers import LOOPBACK

PORT = 5201


def run_iperf3(
    place: World, host_addr: str, arguments: list[str], seconds: float, port: int, bind: str = LOOPBACK
) -> dict[str, Any]:
    """Run iperf3 once from the guest. Returns its `end` object. bind: the address of the server on the host.

    Raises MeasurementError with the error text of iperf3.
    """
    server = place.host.spawn(["iperf3", "--server", "--one-off", "--bind", bind, "--port", str(port)])
    try:
        await_listener(place, port)
        # iperf3 reads whole seconds, and 0 is for ever.
        length = str(max(1, round(seconds)))
        argv = ["iperf3", "--client", host_addr, "--port", str(port), "--json", "--time", length]
        client = place.guest.spawn([*argv, *arguments], log=subprocess.PIPE)
        try:
            out, _ = client.popen.communicate(timeout=seconds + 20)
        except subprocess.TimeoutExpired:
            raise report.MeasurementError(f"iperf3 {' '.join(arguments)} did not end") from None
        finally:
            client.stop(0.5)
        try:
            result: dict[str, Any] = json.loads(out)
        except ValueError:
            raise report.MeasurementError(f"iperf3 printed no JSON: {out[-300:]!r}") from None
        if "error" in result:
            raise report.MeasurementError(f"iperf3 {' '.join(arguments)}: {result['error']}")
        end: dict[str, Any] = result["end"]
        return end
    finally:
        server.stop(0.5)


def await_listener(place: World, port: int) -> None:
    """Wait until a server listens on the TCP port in the host. Raises MeasurementError after a while."""
    deadline = time.monotonic() + 5
    while f":{port} " not in place.host.run("ss", "-Htln"):
        if time.monotonic() > deadline:
            raise report.MeasurementError("the iperf3 server did not start")
        time.sleep(0.02)


def measure(
    place: World,
    host_addr: str,
    direction: str,
    options: argparse.Namespace,
    port: int = PORT,
    bind: str = LOOPBACK,
) -> tuple[float, str, dict[str, Any]]:
    """Measure once. Returns the throughput at the receiver, its unit, and other results of iperf3."""
    arguments = ["--parallel", str(options.parallel)]
    if direction == "down":
        arguments.append("--reverse")
    if options.udp:
        arguments += ["--udp", "--bitrate", options.bitrate, "--length", str(options.length)]
    end = run_iperf3(place, host_addr, arguments, options.seconds, port, bind)
    received = float(end["sum_received"]["bits_per_second"])
    if options.udp:
        return received / 1e6, "Mbit/s", {"lost_percent": end["sum"]["lost_percent"]}
    return received / 1e9, "Gbit/s", {"retransmits": end["sum_sent"].get("retransmits")}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="iperf3 through this program and its peers, in turns.")
    parser.add_argument("--direction", choices=["up", "down", "both"], default="both")
    parser.add_argument("--mtu", default="1500,65520", help="comma-separated list")
    parser.add_argument("--parallel", type=int, default=1, help="streams at once")
    parser.add_argument("--udp", action="store_true")
    parser.add_argument("--length", type=int, default=1400, help="bytes of a UDP datagram")
    parser.add_argument(
        "--bitrate", default="0", help="offered UDP rate, iperf3's notation; 0 = as fast as it can"
    )
    shared.add(parser, seconds=3, repeat=3)
    options = parser.parse_args(argv)
    directions = ["up", "down"] if options.direction == "both" else [options.direction]
    samples = report.Samples()
    kind = f"udp {options.length} B" if options.udp else "tcp"
    kind += f" x{options.parallel}" if options.parallel > 1 else ""
    for turn in range(options.repeat):
        for mtu in [int(text) for text in options.mtu.split(",")]:
            for peer in shared.peers(options):
                with (
                    samples.attempt(),
                    shared.place(options) as place,
                    shared.start(options, peer, place, mtu) as endpoint,
                ):
                    for direction in directions:
                        what = f"{kind} {direction} mtu {mtu}"
                        with samples.attempt():
                            value, unit, more = measure(place, endpoint.host_addr, direction, options)
                            samples.add(what, peer, unit, value)
                            words = f"[{turn + 1}/{options.repeat}] {what}: {peer} {value:.3f} {unit} {more}"
                            print(words, file=sys.stderr, flush=True)
    return samples.finish("iperf", shared.settings(options))


if __name__ == "__main__":
    sys.exit(main())
