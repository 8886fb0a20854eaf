"""Replies kept under the bytes of their query: how long, how many, and for whom."""

from pipeline.engines.dns import ready
from pipeline.engines.dns.ready import ReadyReplies

INF = float("inf")


def test_a_reply_has_the_id_of_the_query_that_it_answers() -> None:
    kept = ReadyReplies()
    kept.put(b"\0\1question", b"\0\1answer", 5.0, "counter")
    assert kept.get(b"\xab\xcdquestion", 4.9) == (b"\xab\xcdanswer", "counter")
    assert kept.get(b"\xab\xcdQuestion", 4.9) is None
    assert kept.get(b"", 4.9) is None


def test_a_reply_is_given_until_its_time_is_over_and_can_be_put_anew() -> None:
    kept = ReadyReplies()
    kept.put(b"\0\1question", b"\0\1old", 5.0, "counter")
    assert kept.get(b"\0\1question", 5.0) is None
    kept.put(b"\0\1question", b"\0\1new", 6.0, "counter")
    assert kept.get(b"\0\1question", 5.0) == (b"\0\1new", "counter")
    assert len(kept) == 1


def test_the_oldest_reply_makes_room() -> None:
    kept = ReadyReplies()
    queries = [n.to_bytes(4, "big") for n in range(ready.MAX_REPLIES + 1)]
    for query in queries[:-1]:
        kept.put(query, b"\0\1answer", INF, "counter")
    # A reply that is put anew is the youngest.
    kept.put(queries[0], b"\0\1answer", INF, "counter")
    kept.put(queries[-1], b"\0\1answer", INF, "counter")
    assert len(kept) == ready.MAX_REPLIES
    assert kept.get(queries[1], 0.0) is None
    assert all(kept.get(query, 0.0) for query in (queries[0], queries[2], queries[-1]))


def test_long_replies_are_not_kept() -> None:
    kept = ReadyReplies()
    kept.put(b"\0\1q", bytes(ready.MAX_BYTES - 2), INF, "counter")
    kept.put(b"\0\1qq", bytes(ready.MAX_BYTES - 4), INF, "counter")
    assert kept.get(b"\0\1q", 0.0) is None
    assert kept.get(b"\0\1qq", 0.0) is not None
    kept.clear()
    assert len(kept) == 0
