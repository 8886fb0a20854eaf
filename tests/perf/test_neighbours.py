"""The attacks of perf.neighbours are what their names say, and its table says what was measured."""

import re
import socket
from pathlib import Path

import pytest

from perf import report, suite
from perf.neighbours import frames, name_server
from perf.neighbours.attacks import BURST, BY_NAME, IDLE, TABLE, Attack, bursts
from perf.neighbours.frames import Ports
from perf.neighbours.guest import rate, round_trips
from perf.neighbours.measure import chosen, main
from perf.neighbours.table import Rounds, Turn, figures, table, verdict
from pipeline.engines.dns import message
from pipeline.engines.offload import vnet
from pipeline.wire import arp, dhcp, ethernet, ip, ipv4, offload, tcp, udp, virtio_net
from pipeline.wire.errors import WireError
from pipeline.wire.framing import split

PORTS = Ports(sink=9000, stream=9001)
DNS = ("malformed DNS", "own names", "cached names", "random names")


def made(name: str) -> list[bytes]:
    return BY_NAME[name].make(PORTS)


def packet(frame: bytes) -> tuple[ipv4.Header, bytes]:
    """The IPv4 header of a frame, whose checksum is right, and what follows it."""
    _, _, ethertype = ethernet.parse_header(frame, 0, len(frame))
    assert ethertype == ethernet.TYPE_IPV4
    header = ipv4.parse(frame, 14, len(frame))
    assert header.total_len == len(frame) - 14
    return header, frame[14 + header.ihl :]


def datagram(frame: bytes) -> tuple[ipv4.Header, udp.Header, bytes]:
    """The headers and the payload of a UDP frame whose checksums are right or not computed."""
    header, rest = packet(frame)
    assert header.proto == ipv4.PROTO_UDP
    found = udp.parse(rest, 0, len(rest))
    udp.verify(rest, 0, found, header.src, header.dst)
    return header, found, rest[8:]


def segment(frame: bytes) -> tuple[ipv4.Header, tcp.Header]:
    header, rest = packet(frame)
    tcp.verify(rest, 0, len(rest), header.src, header.dst)
    return header, tcp.parse(rest, 0, len(rest))


def attacks() -> list[Attack]:
    return [attack for attack in TABLE if attack.name != IDLE]


@pytest.mark.parametrize(
    ("name", "flows"), [("one UDP flow", 1), ("50 UDP flows", 50), ("reconnects 500/s", 1)]
)
def test_udp_frames_have_sixty_bytes_and_as_many_flows(name: str, flows: int) -> None:
    found = made(name)
    assert {len(frame) for frame in found} == {60}
    ends = {datagram(frame)[1][:2] for frame in found}
    assert len(ends) == flows
    assert {dst for _, dst in ends} == {PORTS.sink}


def test_acks_are_of_one_connection_and_acknowledge_the_same_byte() -> None:
    found = frames.duplicate_acks(PORTS, 5, 7, (4000, PORTS.stream))
    header, ack = segment(found[0])
    assert len(found) == 1
    assert (header.dst, ack.dst_port, ack.seq, ack.ack, ack.flags) == (
        frames.HOST,
        PORTS.stream,
        5,
        7,
        tcp.ACK,
    )


def test_syns_are_of_different_connections() -> None:
    found = [segment(frame)[1] for frame in made("SYN flood")]
    assert {each.flags for each in found} == {tcp.SYN}
    assert len({(each.src_port, each.dst_port) for each in found}) == len(found) > 2000


def test_fragments_begin_different_datagrams_and_end_none() -> None:
    found = [packet(frame)[0] for frame in made("fragments")]
    assert all(each.flags == ipv4.FLAG_MF and each.frag_off == 0 for each in found)
    assert len({each.ident for each in found}) == len(found)


def test_every_bad_frame_is_bad_in_a_way_of_its_own() -> None:
    def problem(frame: bytes) -> str:
        if len(frame) < 14 or ethernet.parse_header(frame, 0, len(frame))[2] != ethernet.TYPE_IPV4:
            return f"type of {len(frame)} bytes"
        try:
            header = ipv4.parse(frame, 14, len(frame))
            if header.proto == ipv4.PROTO_TCP:
                tcp.verify(frame, 34, len(frame), header.src, header.dst)
            else:
                udp.verify(frame, 34, udp.parse(frame, 34, len(frame)), header.src, header.dst)
        except WireError as error:
            return error.reason
        return "none"

    problems = {problem(frame) for frame in made("bad frames on 8 links")}
    assert len(problems) == 5
    assert "none" not in problems


@pytest.mark.parametrize("name", DNS)
def test_queries_go_to_the_gateway(name: str) -> None:
    for frame in made(name):
        header, found, _ = datagram(frame)
        assert (header.dst, found.dst_port) == (frames.GATEWAY, 53)


def test_malformed_queries_are_refused_and_the_others_are_not() -> None:
    for name in DNS:
        parsed = [message.parse_query(datagram(frame)[2], tcp=False) for frame in made(name)]
        assert {isinstance(each, message.Malformed) for each in parsed} == {name == "malformed DNS"}


def test_names_are_those_that_the_attack_names() -> None:
    def names(name: str) -> set[str]:
        payloads = [datagram(frame)[2] for frame in made(name)]
        return {b".".join(message.read_name(each, 12)[0]).decode() for each in payloads}

    assert names("own names") == set(frames.OWN_NAMES)
    assert names("cached names") == {frames.CACHED_NAME}
    assert len(names("random names")) == frames.VARIANTS


def test_discovers_are_broadcast_by_different_clients() -> None:
    attack = BY_NAME["DHCP DISCOVER"]
    clients = set()
    ready = bursts(attack, PORTS)
    for number in range(3):
        burst = ready[number % len(ready)]
        burst.renew(number)
        places, _ = split(bytes(burst.data), 0, len(burst.data), attack.framing)
        for off, length in places:
            header, found, payload = datagram(bytes(burst.data[off : off + length]))
            parsed = dhcp.parse(payload, 0, len(payload))
            assert (header.dst, found.dst_port, parsed.kind) == (ip.BROADCAST, 67, dhcp.DISCOVER)
            assert parsed.chaddr[0] == 2
            clients.add(parsed.chaddr)
        assert len(clients) == sum(ready[each % len(ready)].frames for each in range(number + 1))


def test_no_renewed_name_was_asked_before() -> None:
    attack = BY_NAME["random names"]
    burst = bursts(attack, PORTS)[0]
    seen: set[bytes] = set()
    for number in (1, 2, 17, 0xFFFF):
        burst.renew(number)
        data = bytes(burst.data)
        for off, length in split(data, 0, len(data), attack.framing)[0]:
            query = message.parse_query(datagram(data[off : off + length])[2], tcp=False)
            assert isinstance(query, message.Query)
            seen.add(query.question)
    assert len(seen) == 4 * burst.frames


def test_every_offload_header_is_a_lie() -> None:
    for frame in made("lying offload headers"):
        fields = virtio_net.LONG.unpack_from(frame)
        copy = memoryview(bytearray(frame))
        with pytest.raises(WireError):
            vnet.judge(copy, virtio_net.LONG_LEN, len(frame) - virtio_net.LONG_LEN, fields, offload.FEATURES)


def test_a_stolen_mac_is_the_neighbours() -> None:
    (frame,) = made("stolen MAC 200/s")
    assert frame[6:12] == frames.NEIGHBOUR_MAC
    assert datagram(frame)[0].src == frames.NEIGHBOUR


def test_claims_say_that_gateway_and_host_are_the_attacker() -> None:
    claims = [arp.parse(frame, 14, len(frame)) for frame in made("gateway ARP 200/s")]
    assert {(each.op, each.spa, each.sha) for each in claims} == {
        (arp.REPLY, addr, frames.MAC) for addr in (frames.GATEWAY, frames.HOST)
    }


@pytest.mark.parametrize("attack", attacks(), ids=lambda attack: attack.name)
def test_bursts_hold_every_frame_and_fit_one_send(attack: Attack) -> None:
    ready = bursts(attack, PORTS)
    found = []
    for burst in ready:
        assert len(burst.data) <= BURST
        data = bytes(burst.data)
        places, rest = split(data, 0, len(data), attack.framing)
        assert (len(places), rest) == (burst.frames, len(data))
        found += [data[off : off + length] for off, length in places]
        if attack.rate:
            assert burst.frames == 1
        else:
            assert len(data) > BURST * 0.9
    assert set(found) == set(attack.make(PORTS))


def test_each_link_has_a_mac_of_its_own() -> None:
    attack = BY_NAME["bad frames on 32 links"]
    macs = {bytes(bursts(attack, PORTS, link)[0].data[10:16]) for link in range(attack.links)}
    assert len(macs) == 32
    assert frames.MAC in macs
    assert frames.NEIGHBOUR_MAC not in macs


def test_renewed_frames_must_be_of_one_length() -> None:
    with pytest.raises(ValueError, match="one length"):
        bursts(BY_NAME["bad frames on 8 links"]._replace(renew_at=0), PORTS)


def test_the_name_server_knows_the_cached_name_alone() -> None:
    known = name_server.answer(frames.question(frames.CACHED_NAME, 7))
    unknown = name_server.answer(frames.question(f"abcd0001.{frames.RANDOM_SUFFIX}", 8))
    assert known[:2] == b"\0\7"
    assert known.endswith(bytes((198, 51, 100, 7)))
    assert message.HEADER.unpack_from(known)[2:4] == (1, 1)
    assert unknown[3] & 15 == 3


def test_words_choose_attacks() -> None:
    assert [attack.name for attack in chosen("SYN f,ARP")] == ["gateway ARP 200/s", "SYN flood"]
    assert len(list(chosen(""))) == len(TABLE)


def test_words_that_choose_nothing_are_an_error_with_all_names(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--only", "nonsense"])
    words = capsys.readouterr().err
    assert "--only" in words
    assert all(attack.name in words for attack in TABLE)


# --- what the guest measures -----------------------------------------------------------------


def test_an_answer_that_does_not_come_counts_its_whole_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perf.neighbours.guest.ANSWER", 0.02)
    here, there = socket.socketpair()
    with here, there:
        there.sendall(b"xx")
        found = round_trips(here, 10)
    assert (found["lost"], found["p99_us"]) == (1, 20_000)


def test_a_bulk_stream_that_is_reset_is_zero() -> None:
    def reset(link: socket.socket, seconds: float) -> float:
        raise ConnectionResetError

    here, there = socket.socketpair()
    with there:
        assert rate(reset, here, 1.0) == 0.0
    assert here.fileno() == -1


# --- figures and tables -----------------------------------------------------------------------


def turn(up: float, p50: float, sent: float = 1000.0, **cpu: float) -> Turn:
    guest = {"up": up / 8e-9, "down": up / 4e-9, "p50_us": p50, "p99_us": 3 * p50}
    return Turn(guest, {"frames_per_second": sent}, cpu)


def rounds(attacked: list[Turn], control: Turn, alone: Turn) -> Rounds:
    return Rounds(attacked, [control] * len(attacked), [alone] * len(attacked))


@pytest.fixture
def found() -> list[report.Figure]:
    attacked = [turn(1, 400, demux=90.0, tcp0=5.0), turn(0, 300, demux=80.0), turn(2, 500, demux=99.0)]
    return figures("a flood", "pipeline", rounds(attacked, turn(5, 100, demux=10.0), turn(10, 100)))


def cells(text: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "|" in line
    ]


def test_a_row_has_shares_ratios_and_who_was_busy(found: list[report.Figure]) -> None:
    header, _, row = cells(table(found))
    assert len(header) == len(row) == 16
    assert row[:8] == ["a flood", "1000", "10", "0.20", "", "10", "0.20", ""]
    assert row[8:14] == ["400", "4.00", "", "1200", "4.00", ""]
    assert row[14:] == ["open up, down, p99", "demux 90"]


def test_a_ratio_is_of_the_two_samples_of_a_round() -> None:
    made = Rounds([turn(up, 100) for up in (1, 4, 9)], [turn(up, 100) for up in (2, 5, 10)], [turn(9, 9)] * 3)
    row = cells(table(figures("a flood", "pipeline", made)))[2]
    assert row[2:4] == ["44", "0.80"]


def test_with_enough_rounds_a_row_says_where_the_median_is() -> None:
    attacked = [turn(up / 10, 300) for up in range(1, 7)]
    row = cells(table(figures("a flood", "pipeline", rounds(attacked, turn(1, 100), turn(2, 100)))))[2]
    assert row[3:5] == ["0.35", "0.10 to 0.60"]
    assert row[14] == "MISSED up, down"


@pytest.mark.parametrize(
    ("shares", "delays", "words"),
    [
        ([0.7] * 6, [3.1] * 6, "MISSED up, p99"),
        ([0.7] * 5 + [0.9], [3.1] * 5 + [1.0], "open up, p99"),
        ([0.7] * 5, [1.0] * 6, "open up"),
        ([0.9] * 5 + [0.8], [3.0] * 6, "met"),
        ([0.7] * 6, [2.0, *[4.0] * 5], "MISSED up; open p99"),
    ],
)
def test_an_aim_is_missed_only_if_the_whole_interval_is_beyond_it(
    shares: list[float], delays: list[float], words: str
) -> None:
    assert verdict({"up": shares, "p99": delays}) == words


def test_shares_are_of_the_median_of_all_lines(found: list[report.Figure]) -> None:
    found += figures("idle", "pipeline", rounds([turn(15, 100)], turn(15, 100), turn(20, 100)))
    rows = cells(table(found))
    assert rows[3][:4] == ["idle", "1000", "100", "1.00"]


def test_each_placement_has_a_table(found: list[report.Figure]) -> None:
    found += figures("a flood", "pipeline auto", rounds([turn(9, 100)], turn(10, 100), turn(10, 100)))
    text = table(found)
    assert re.findall(r"^pipeline.*?;", text, re.MULTILINE) == ["pipeline;", "pipeline auto;"]
    assert len(cells(text)) == 6


def test_a_guest_that_moves_nothing_alone_is_a_failure() -> None:
    with pytest.raises(report.MeasurementError, match="alone"):
        figures("a flood", "pipeline", rounds([turn(1, 100)], turn(1, 100), turn(0, 100)))


def test_a_control_that_moves_nothing_has_no_ratio() -> None:
    text = table(figures("a flood", "pipeline", rounds([turn(1, 100)], turn(0, 100), turn(10, 100))))
    assert cells(text)[2][2:4] == ["10", "-"]


def test_the_results_file_gives_the_same_table(
    found: list[report.Figure], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    report.write("neighbours", found, {})
    assert table(suite.read("neighbours", 0)) == table(found)
