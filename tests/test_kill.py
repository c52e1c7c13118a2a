"""Commands that are killed lose nothing: a few rounds of what ``python -m tests.kill`` does by the hundred."""
import tempfile
from pathlib import Path

import pytest

from tests.kill import kill


@pytest.mark.slow
@pytest.mark.parametrize('name, rounds', [('train', 1), ('convert', 2), ('export', 2), ('quantize', 2), ('shapes', 4)])
def test_killed_commands_lose_nothing(name, rounds):
    said = []
    with tempfile.TemporaryDirectory() as folder:  # whose path is short enough for the sockets in it
        harness, = kill([name], rounds, seed=1, folder=Path(folder), say=said.append, turns=1)
    assert harness.lost == [], '\n'.join(said)
    assert sum(harness.seen.values()) == rounds
