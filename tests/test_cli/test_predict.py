"""``mmone predict``, and the three functions behind it, for all three tasks."""
import json
from pathlib import Path

import cv2
import pytest

from tests.kit import TASKS, command

CLASSES = ('circle', 'cross', 'square', 'star', 'triangle')


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


def test_files_of_other_types_are_counted(trained, data, tmp_path, capsys):
    path, weights = trained('mmpretrain')
    folder = tmp_path / 'photos'
    (folder / 'deep.jpg').mkdir(parents=True)
    (folder / 'a.JPG').write_bytes(images(data)[0].read_bytes())
    names = ('b.heic', 'deep.jpg/c.HEIC', 'd.txt', 'README', '.DS_Store')
    for name in names:
        (folder / name).touch()

    def predict(*inputs):
        status = command('predict', *inputs, '--model', path, '--weights', weights, '--out-dir', folder / 'out',
                         '--device', 'cpu')
        return status, capsys.readouterr().err

    for _ in range(2):  # the pictures and predictions of the first run are not counted
        assert predict(folder) == (1, 'skipped, no images or videos by their names: 2 .heic, 1 .txt, 1 no suffix\n')
        records = json.loads((folder / 'out' / 'predictions.json').read_text())['predictions']
        assert [record['input'] for record in records] == [str(folder / 'a.JPG')]
    assert predict(folder / 'a.JPG') == (0, '')
    (folder / 'a.JPG').unlink()
    with pytest.raises(SystemExit) as error:
        predict(folder / 'deep.jpg')
    assert error.value.code == 2
    assert 'has no images or videos' in (line := capsys.readouterr().err) and 'other types: 1 .heic' in line
