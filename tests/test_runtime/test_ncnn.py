"""The text of ncnn's ``.param``, which ncnn itself believes."""
import numpy as np
import pytest

from mmone.pnnx import convert
from mmone.runtime.ncnn import Layer, _largest, read_param, write_param

LAYERS = [Layer('Input', 'images', [], ['images'], []), Layer('Split', 'split', ['images'], ['a', 'b'], []),
          Layer('BinaryOp', 'add', ['a', 'b'], ['logits'], ['0=0'])]


def test_what_is_written_is_read():
    text = write_param(LAYERS, '{"a=b": 1}')
    assert text.isascii() and text.count('=') == 1  # the layer's own
    assert read_param(text) == (LAYERS, '{"a\\u003db": 1}')
    assert read_param(text.rpartition('mmone')[0]) == (LAYERS, None)


@pytest.mark.parametrize('old, new, words', [
    ('7767517', '7767518', 'begin with 7767517'), ('3 4', '4 4', 'cut off: it has 3 of 4'), ('3 4', '2 4', '3 of 2'),
    ('3 4', '-1 4', '3 of -1'), ('3 4', '3 3', 'has 4 blobs, not 3'), ('3 4', '3 5', 'has 4 blobs, not 5'),
    ('2 1 a b', '2 1 a c', 'add has inputs that are none'), ('2 1 a b', '9 1 a b', 'add is none'),
    ('2 1 a b', '-1 1 a b', 'add is none'), ('1 2 images a b', '1 2 images a a', 'add has inputs that are none'),
    ('b logits', f'b {"c" * 300}', 'add is none'),
    ('add  ', 'add x', 'invalid literal')])
def test_what_is_not_true_is_refused(old, new, words):
    text = write_param(LAYERS, '{}')
    assert text.count(old) == 1
    with pytest.raises(ValueError, match=words):
        read_param(text.replace(old, new))


@pytest.mark.parametrize('text', ['', '\n', '7767517', '7767517\n', '7767517\n1 1', '\x00'])
def test_what_is_no_param(text):
    with pytest.raises(ValueError):
        read_param(text)


def test_pnnx_says_why(tmp_path, capfd):
    pytest.importorskip('pnnx')
    (tmp_path / 'model.pt').write_bytes(b'no model')
    with pytest.raises(RuntimeError, match=r'^pnnx ended with status [-\d]+ \([^\n]*\)$'):
        convert(tmp_path / 'model.pt', (1, 3, 8, 8))
    assert capfd.readouterr() == ('', '')


def test_labels_are_those_of_argmax():
    logits = np.random.default_rng(0).integers(0, 5, (21, 8, 9)).astype(np.float32)  # with equals
    np.testing.assert_array_equal(_largest(logits), logits.argmax(0))
