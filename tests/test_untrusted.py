"""What a pickle would do, read off without doing it."""
import os
import pickle

import pytest
import torch

from mmone.untrusted import look_into, pickles_in
from tests.evil import Evil


@pytest.mark.parametrize('protocol', range(6))
def test_what_a_pickle_imports_and_says(protocol):
    found = look_into(pickle.dumps({'stage0.weight': [1], 'again': 'stage0.weight', 'evil': Evil('x')}, protocol))
    assert f'{os.system.__module__}.system' in found.names and '?' not in found.names
    assert {'stage0.weight', 'again', 'x'} <= found.texts


@pytest.mark.parametrize('new', [True, False])
def test_checkpoints(tmp_path, new):
    torch.save({'a.weight': torch.zeros(1000)}, tmp_path / 'a.pth', _use_new_zipfile_serialization=new)
    found, = map(look_into, pickles_in(tmp_path / 'a.pth'))
    assert 'a.weight' in found.texts and 'torch._utils._rebuild_tensor_v2' in found.names
    assert '?' not in found.names


@pytest.mark.parametrize('content', [
    b'S\'\xc3\xa9\'\n0cposix\nsystem\n(S\'x\'\ntR.',  # what unpickles is not as strict about text
    b'\x80\x04(\x8c\x05posix\x8c\x06systeml\x30\x93.',
    b'\x82\x01.',
], ids=['not ASCII', 'computed', 'registered'])
def test_what_cannot_be_told_is_not_taken_for_nothing(content):
    assert '?' in look_into(content).names
