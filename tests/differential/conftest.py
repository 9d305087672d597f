from __future__ import annotations

import json

import pytest

from fuzzing.oracle import Oracle, write_corpus


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """A directory with everything that real Paddle saves, and its manifest."""
    directory = tmp_path_factory.mktemp("corpus")
    write_corpus(directory)
    return directory


@pytest.fixture(scope="session")
def manifest(corpus):
    """What the files of the corpus are."""
    return json.loads((corpus / "manifest.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def oracle(tmp_path_factory):
    """A process that says what paddle.load makes of a file."""
    with Oracle(tmp_path_factory.mktemp("oracle") / "oracle.log") as running:
        yield running
