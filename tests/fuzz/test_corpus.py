"""The fuzzers' corpora, and noise, played without a fuzzer."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuzz import corpus, engine_target, names_target, wire_target

TARGETS = {"wire": wire_target.one_input, "engine": engine_target.one_input, "names": names_target.one_input}
NOISE = 300


def test_the_corpus_of_the_wire_fuzzer() -> None:
    inputs = corpus.read("wire")
    assert len(inputs) > 50
    for data in inputs:
        wire_target.one_input(data)


def test_the_corpus_of_the_engine_fuzzer() -> None:
    inputs = corpus.read("engine")
    assert len(inputs) > 50
    for data in inputs:
        engine_target.one_input(data)


def test_the_corpus_of_the_fuzzer_of_names() -> None:
    inputs = corpus.read("names")
    assert len(inputs) > 20
    for data in inputs:
        names_target.one_input(data)


@pytest.mark.parametrize("name", TARGETS)
def test_noise(name: str) -> None:
    target: Callable[[bytes], None] = TARGETS[name]
    rng = random.Random(name)
    for _ in range(NOISE):
        target(rng.randbytes(rng.randrange(300)))


def test_a_corpus_comes_back_from_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    monkeypatch.setattr(corpus, "DIRECTORY", kept)
    (kept / "some.txt").write_text("0102\nff\n")
    corpus.unpack("some", tmp_path / "files")
    assert corpus.pack("some", tmp_path / "files") == 2
    assert corpus.read("some") == [b"\xff", b"\x01\x02"]


def test_corpora_are_small() -> None:
    for name in TARGETS:
        inputs = corpus.read(name)
        assert len(inputs) <= corpus.MAX_INPUTS
        assert sum(map(len, inputs)) <= corpus.MAX_BYTES
