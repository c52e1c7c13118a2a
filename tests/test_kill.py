"""Commands that are killed lose nothing: a few rounds of what ``python -m tests.kill`` does by the hundred."""
import tempfile
from pathlib import Path

import pytest

from tests.kill import kill


@pytest.mark.slow
@pytest.mark.parametrize('name', ['train', 'convert', 'reparameterize', 'export', 'shapes'])
def test_killed_commands_lose_nothing(name):
    said = []
    with tempfile.TemporaryDirectory() as folder:  # whose path is short enough for the sockets in it
        harness, = kill([name], rounds=2, seed=1, folder=Path(folder), say=said.append)
    assert harness.lost == [], '\n'.join(said)
    assert sum(harness.seen.values()) == 2
