"""``mmone predict``, and the three functions behind it, for all three tasks."""
import json
from pathlib import Path

import cv2
import pytest

from tests.kit import TASKS, command

CLASSES = ('circle', 'square', 'triangle', 'star', 'cross')


def images(data, number=5):
    return sorted(Path(data, 'JPEGImages').glob('*.jpg'))[:number]


@pytest.mark.parametrize('task', TASKS)
def test_folder_with_an_undecodable_file(trained, task, data, tmp_path, capsys):
    path, weights = trained(task)
    folder = tmp_path / 'photos' / 'deep'
    folder.mkdir(parents=True)
    for image in images(data):
        (folder / image.name).write_bytes(image.read_bytes())
    (folder / '000.jpg').write_text('no image')
    status = command('predict', folder.parent, '--model', path, '--weights', weights,
                     '--out-dir', 'out', '--batch-size', 4, '--device', 'cpu')
    assert status == 1
    assert capsys.readouterr().err == f'cannot be decoded: {folder / "000.jpg"}\n'
    content = json.loads(Path('out/predictions.json').read_text())
    assert content['model'] == str(path) and content['weights'] == str(weights)
    broken, *records = content['predictions']
    assert broken == dict(input=str(folder / '000.jpg'), error='cannot be decoded')
    assert [Path(record['input']).name for record in records] == [image.name for image in images(data)]
    for record in records:
        if task == 'mmpretrain':
            assert record['class'] == CLASSES[record['label']] == record['top5'][0][0]
            assert sum(score for _, score in record['top5']) == pytest.approx(1, abs=1e-5)
        elif task == 'mmdet':
            scores = [box['score'] for box in record['boxes']]
            assert scores == sorted(scores, reverse=True) and 0 < len(scores) <= 20
            assert all(0 <= value <= 64 for box in record['boxes'] for value in box['box'])
        else:
            assert sum(record['classes'].values()) == pytest.approx(1)
            assert set(record['classes']) <= {'background', *CLASSES}
    drawn = sorted(Path('out').rglob('*.jpg'))
    assert [picture.name for picture in drawn] == [image.name for image in images(data)]
    for picture, image in zip(drawn, images(data)):
        assert cv2.imread(str(picture)).shape[2] == 3
        original = cv2.imread(str(image))
        if task != 'mmpretrain':  # whose small pictures are enlarged for the label
            assert cv2.imread(str(picture)).shape == original.shape


def test_video(trained, data, tmp_path):
    path, weights = trained('mmpretrain')
    writer = cv2.VideoWriter(str(tmp_path / 'clip.avi'), cv2.VideoWriter_fourcc(*'MJPG'), 5, (64, 64))
    for image in images(data, 4):
        writer.write(cv2.resize(cv2.imread(str(image)), (64, 64)))
    writer.release()
    status = command('predict', 'clip.avi', images(data)[0], '--model', path, '--weights', weights,
                     '--out-dir', 'out', '--batch-size', 3)
    assert status == 0
    records = json.loads(Path('out/predictions.json').read_text())['predictions']
    assert [record.get('frame') for record in records] == [0, 1, 2, 3, None]
    assert len(list(Path('out').rglob('00000?.jpg'))) >= 4
