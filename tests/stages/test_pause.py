"""A worker that pauses: what it serves, what it keeps for later, and how it goes on or ends."""

from pipeline.records.frames import Frame
from pipeline.topology import DEMUX, INGRESS
from tests.support.toy_workers import Message, Spawn, Toy


class Remembers(Toy):
    """It answers each request with the number of its requests so far."""

    asked = 0

    def on_control(self, message: Message, fds: list[int]) -> Message | None:
        self.asked += 1
        return {"asked": self.asked}


def test_requests_for_the_stage_wait_until_the_pause_is_over(spawn: Spawn) -> None:
    child = spawn(DEMUX, Remembers)
    assert child.ask("guests")["asked"] == 1
    assert child.ask("pause") == {"ok": True}
    child.send({"id": 8, "op": "guests"})
    # A pause may be asked for again, when another worker has died meanwhile.
    assert child.ask("pause") == {"ok": True}
    assert child.ask("ping") == {"ok": True}
    child.send({"id": 9, "op": "resume"})
    answers = [child.next_message()[0] for _ in range(2)]
    assert {answer["id"] for answer in answers} == {8, 9}
    assert {"id": 8, "asked": 2, "ok": True} in answers
    assert child.ask("guests")["asked"] == 3


def test_a_worker_that_pauses_reports_what_it_holds_and_takes_the_sum(spawn: Spawn) -> None:
    child = spawn(DEMUX, Toy)
    assert "error" in child.ask("lost", workers=[INGRESS])
    child.ask("pause")
    assert child.ask("lost", workers=[INGRESS]) == {"ok": True, "slots": {}}
    first = child.ask("audit")
    answer = child.ask("settle", workers=[INGRESS], links={}, peers=[], slots={})
    assert answer == {"ok": True, "returned": 0}
    child.ask("resume")
    assert child.ask("audit") == first


def test_a_worker_that_pauses_ends_when_it_is_asked(spawn: Spawn) -> None:
    child = spawn(DEMUX, Toy)
    child.ask("pause")
    child.ask("stop")
    assert child.join() == 0


def test_what_a_dead_worker_has_sent_is_dropped(spawn: Spawn) -> None:
    child = spawn(DEMUX, Toy)
    child.ask("pause")
    ring = child.fabric.ports(INGRESS).rings_out[DEMUX]
    ring.push(Frame(1, 5, 256, 60, vnet=False).pack())
    ring.publish()
    assert child.ask("lost", workers=["tcp0"])["slots"] == {5: 1}
    assert child.ask("lost", workers=[INGRESS])["slots"] == {}
