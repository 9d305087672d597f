from __future__ import annotations

from pathlib import Path

import pytest

from fuzzing.coverage_laws import hold

CORPUS = sorted((Path(__file__).parent.parent / "fuzzing" / "corpus").iterdir())
LARGEST_BYTES = 400_000


def test_corpus_of_the_fuzzer_is_small():
    """It is there to begin with, not to keep all that was ever found."""
    assert 100 < sum(path.stat().st_size for path in CORPUS) < LARGEST_BYTES


@pytest.mark.parametrize("first", range(8))
def test_inputs_of_the_fuzzer_keep_the_laws(first):
    """What once led somewhere new still raises nothing, and is told the same in every way of telling."""
    for path in CORPUS[first::8]:
        hold(path.read_bytes())
