"""Questions of DHCP clients to the fleet: their number is bounded, in all and for each link."""

from typing import Any

from pipeline.stages.resolver.fleet import MAX_A_LINK, MAX_WAITING, WAIT_S, FleetQuestions, Waiting


class FakeWorker:
    def __init__(self) -> None:
        self.sent = 0

    def send_event(self, event: object) -> None:
        self.sent += 1


def made() -> tuple[FleetQuestions, FakeWorker]:
    worker: Any = FakeWorker()
    return FleetQuestions(worker), worker


def message(link: int, now: float = 0.0) -> Waiting:
    return Waiting(b"discover", link, 0, 68, now + WAIT_S)


def mac(number: int, link: int) -> bytes:
    return bytes((2, 0, 0, link, number >> 8, number & 0xFF))


def test_a_guest_with_many_mac_addresses_leaves_room_for_others() -> None:
    questions, worker = made()
    asked = [questions.ask(mac(number, 1), 60.0, message(1), 0.0) for number in range(1000)]
    assert asked.count(True) == MAX_A_LINK == worker.sent
    assert questions.ask(mac(0, 1), 60.0, message(1), 0.0), "one that waits already may repeat its message"
    assert worker.sent == MAX_A_LINK
    assert questions.ask(mac(0, 2), 60.0, message(2), 0.0)
    later = WAIT_S + 1
    assert questions.ask(mac(5000, 1), 60.0, message(1, later), later), "the others have given up"


def test_the_number_of_questions_is_bounded() -> None:
    questions, _ = made()
    for link in range(20):
        for number in range(MAX_A_LINK):
            questions.ask(mac(number, link), 60.0, message(link), 0.0)
    assert len(questions) == MAX_WAITING
