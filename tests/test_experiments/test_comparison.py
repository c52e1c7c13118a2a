"""``mmone compare``, of tiny models on the generated shapes."""
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from markdown_it import MarkdownIt
from mmdet.evaluation import CocoMetric
from mmengine.config import Config

from mmone.apis import get_model
from mmone.cli import main
from mmone.engine.test import test as evaluate
from mmone.errors import InputError
from mmone.experiments.comparison import compare as run
from mmone.experiments.comparison import latency, predictions
from mmone.experiments.comparison.models import find_model
from mmone.experiments.comparison.report import verdict, write
from mmone.experiments.comparison.scores import Matches
from mmone.experiments.comparison.test_set import TestSet
from mmone.export import export_model
from mmone.lab.store import Latency, Measurement
from tests.kit import TASKS, command

METRIC = dict(mmpretrain=('accuracy/top1', 1), mmdet=('coco/bbox_mAP', 100), mmseg=('mIoU', 1))
EXTRA = "test_dataloader['num_workers'] = 0\ntest_dataloader['persistent_workers'] = False\n"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def two(trained):
    """A task's config with two checkpoints, as the command takes them."""

    def write(task, extra=''):
        path, weights = trained(task, EXTRA + extra)
        content = torch.load(weights)
        generator = torch.Generator().manual_seed(2)
        head = dict(mmpretrain='head.', mmdet='bbox_head.', mmseg='decode_head.')[task]
        for name, tensor in content['state_dict'].items():
            if name.startswith(head) and tensor.is_floating_point() and 'running' not in name:
                tensor += torch.randn(tensor.shape, generator=generator) * 0.3
        torch.save(content, 'other.pth')
        return f'{path}={weights}', f'{path}=other.pth'

    return write


def refused(*argv):
    """The line of an error."""
    with pytest.raises(InputError) as error:
        run(*argv, latency=False)
    return error.value.message


@pytest.mark.parametrize('task', TASKS)
def test_metrics_are_those_of_mmone_test_and_the_report_shows_them(task, two):
    names = two(task)
    found = run(names, latency=False)
    folder = write(found, 'comparison', pictures=2).parent
    text, page = ((folder / f'report.{kind}').read_text() for kind in ('md', 'html'))
    for row in found.rows:
        low, high = np.quantile(row.samples[:, 0], [0.025, 0.975])
        assert low <= row.metrics[0] <= high and row.complexity.parameters > 0
        assert f'{row.metrics[0]:.1f} [{low:.1f}, {high:.1f}]' in page
    config, _, weights = names[1].partition('=')
    (key, factor), metric = METRIC[task], found.rows[1].metrics[0]
    expected = factor * evaluate(config, weights, 'work', deploy=True)[key]
    assert metric == pytest.approx(expected, abs=0.06)  # as it is rounded
    pair, = found.pairs
    assert (pair.discordance is None) == (task != 'mmpretrain')
    said = verdict(pair, len(found.test_set))
    assert found.disagreements.max() > 0
    pictures = re.findall(r'\]\((\S+)\)', text)
    assert pictures == ['disagreement-1.jpg', 'disagreement-2.jpg']
    assert {path.name for path in folder.iterdir()} == {'report.md', 'report.html', *pictures}
    assert page.count('src="data:image/jpeg;base64,') == 2 and 'http' not in re.sub('http-equiv', '', page)
    assert '<table>' in MarkdownIt('commonmark').enable('table').render(text) and said[:20] in page


def test_boxes_are_those_that_the_evaluator_counts(config, data):
    """Which has them from the file of annotations."""
    test_set = TestSet(Config.fromfile(config('mmdet')))
    generator = np.random.default_rng(0)
    found, samples = [], []
    for index in range(len(test_set)):
        truth = test_set.truth(index)
        boxes = np.repeat(truth['boxes'], 2, axis=0)
        boxes += generator.normal(0, 2, boxes.shape)
        labels = np.where(generator.random(len(boxes)) < 0.8, np.repeat(truth['labels'], 2), 0)
        found.append(dict(boxes=boxes, labels=labels, scores=generator.random(len(boxes))))
        info = test_set._infos[index]
        samples.append(dict(img_id=info['img_id'], ori_shape=(info['height'], info['width']), pred_instances=dict(
            bboxes=torch.tensor(boxes), labels=torch.tensor(labels), scores=torch.tensor(found[-1]['scores']))))
    evaluator = CocoMetric(str(data / 'coco' / 'val.json'))
    evaluator.dataset_meta = dict(classes=test_set.classes)
    evaluator.process({}, samples)
    expected = evaluator.compute_metrics(evaluator.results)
    ours = Matches.of(test_set, found).weighted(np.ones((1, len(test_set))))[0]
    assert ours == pytest.approx([100 * expected[key] for key in ('bbox_mAP', 'bbox_mAP_50')], abs=0.051)
    assert 5 < ours[0] < 95


def test_the_command_tells_in_short_what_the_report_has(two, capsys):
    assert command('compare', *two('mmpretrain'), '--no-latency', '--pictures', 1) == 0
    head, first, second, said, where = capsys.readouterr().out.splitlines()[-5:]
    assert head.split() == ['model', 'top-1', 'parameters', '(M)', 'multiply-adds', '(M)']
    assert first.split()[:2] == ['A', 'tiny_mmpretrain=w.pth']
    assert second.split()[:2] == ['B', 'tiny_mmpretrain=other.pth']
    assert 'A − B' in said and where.startswith('report in ') and Path(where.split()[2]).is_file()


def test_predictions_are_kept_and_a_killed_run_goes_on(two, monkeypatch):
    names = two('mmpretrain')
    monkeypatch.setattr(predictions, 'CHUNK', 1)
    asked, predict = [], predictions.predict

    def counting(model, images, batch):
        if len(asked) == 7:
            raise KeyboardInterrupt
        asked.extend(images)
        return predict(model, images, batch)

    monkeypatch.setattr(predictions, 'predict', counting)
    assert main(['compare', *names, '--no-latency']) == 130
    assert len(asked) == 7 and not Path('comparison/report').exists()
    monkeypatch.setattr(predictions, 'predict', lambda *given: asked.extend(given[1]) or predict(*given))
    first = run(names, latency=False)
    assert len(asked) == 2 * len(first.test_set) == 2 * len(set(asked))  # each image once for each model
    monkeypatch.setattr('mmone.experiments.comparison.models.get_model', None)  # nothing is loaded again
    again = run(names, latency=False)
    assert len(asked) == 2 * len(first.test_set)
    assert [row.metrics.tolist() for row in again.rows] == [row.metrics.tolist() for row in first.rows]
    assert (again.rows[0].samples == first.rows[0].samples).all()
    assert not list(Path('comparison').rglob('.*'))


def test_what_is_changed_is_predicted_again(two, data, tmp_path):
    shutil.copytree(data, tmp_path / 'copy')
    names = two('mmpretrain', f"test_dataloader['dataset']['data_root'] = {str(tmp_path / 'copy' / 'classes')!r}\n")
    run(names, latency=False)
    there = set(Path('comparison/predictions').iterdir())
    assert len(there) == 2
    shutil.copy('other.pth', 'more.pth')
    content = torch.load('more.pth')
    content['state_dict']['head.fc.bias'] += 1
    torch.save(content, 'more.pth')
    run([names[0], names[1].replace('other', 'more')], latency=False)
    assert len(set(Path('comparison/predictions').iterdir()) - there) == 1
    image = next(path for path in (tmp_path / 'copy' / 'classes' / 'val').rglob('*') if path.is_file())
    image.touch()
    run(names, latency=False)
    assert len(set(Path('comparison/predictions').iterdir()) - there) == 3


def test_an_exported_file_beside_its_checkpoint_and_what_they_cost(two, monkeypatch):
    name, other = two('mmpretrain')
    config, _, weights = name.partition('=')
    export_model(get_model(config, weights, 'cpu'), 'model.onnx')
    made = Latency('2026-01-01T00:00:00Z', 97, 3, 1.5, 1.4, 1.6, 1.3, False)

    def measure(tasks, store, runs, listen):
        for task in tasks[:2]:
            store.add(Measurement(latency.this_machine(), task.subject.model, task.setting, made))
        return [latency.lab.Failure(tasks[2], 'it does not fit into the memory')]

    monkeypatch.setattr(latency.lab, 'measure', measure)
    found = run(['model.onnx', name, other], data=config)
    assert found.pairs[0].difference.value == 0 and found.pairs[0].p == 1
    file, network, failed = (row.cost for row in found.rows)
    assert file.size == Path('model.onnx').stat().st_size and file.measurement.latency == made
    assert network.measurement.setting.height == 32 and failed.measurement is None
    assert found.rows[0].complexity is None
    text = write(found, 'comparison').read_text()
    assert '1.50 †' in text and 'C was not measured: it does not fit into the memory' in text
    assert 'Each of the 3 p is of its pair alone' in text


def test_classes_of_other_names_or_in_another_order(two, config):
    name, other = two('mmpretrain')
    path, _, weights = name.partition('=')
    for classes, message in (
            (('cross', 'circle', 'square', 'star', 'triangle'), "another order: class 0 is 'cross' here and 'circle'"),
            (('circle', 'cross', 'square', 'star', 'hexagon'), "5 classes, the test set 5: they differ in 'hexagon'")):
        changed = Path('changed.py')
        changed.write_text(f'_base_ = {path!r}\ntest_dataloader = dict(dataset=dict(classes={classes}))\n')
        with pytest.raises(InputError, match=message):
            run([name, f'changed.py={weights}'], data=path, latency=False)


def test_bad_input_is_one_line(two, config, capsys):
    name, other = two('mmpretrain')
    path, _, weights = name.partition('=')
    empty = Path('empty.py')
    empty.write_text(f"_base_ = {path!r}\ntest_dataloader = dict(dataset=dict(indices=0))\n")
    detector = config('mmdet')
    for argv, message in (
            ([name], '1 model given: expected two or more to compare'),
            ([name, name], 'models A and B are the same'),
            ([name, path], f'no weights are published for {path}: give {path}=CHECKPOINT'),
            ([name, f'{path}=nowhere.pth'], 'checkpoint nowhere.pth does not exist'),
            ([name, f'nowhere.py={weights}'], 'config nowhere.py does not exist'),
            ([name, 'nowhere.onnx'], 'exported model nowhere.onnx does not exist'),
            ([name, 'mobileone-s9'], "no model 'mobileone-s9': .*nearest"),
            ([name, 'mmdet::ssd3000_coco'], "no model 'ssd3000_coco' in mmdet: the nearest are ssd300_coco"),
            ([name, 'timm::x'], 'no model timm::x: the libraries are mmpretrain, mmdet, mmseg'),
            ([name, f'{detector}={weights}'], 'model B, .*, is one of detection, the test set is of classification'),
            ([name, other, '--data', detector], 'model A, .*, is one of classification, the test set is of detection'),
            ([name, other, '--data', empty], 'the data set of test_dataloader has no samples'),
            ([name, other, '--cfg-options', 'test_dataloader.dataset.data_root=/nowhere'], '/nowhere'),
            ([name, other, '--out', 'no/where'], 'there is no directory .*no'),
            ([name, other, '--out', weights], r'cannot write to .*w\.pth: it is a file \(--out\)')):
        with pytest.raises(SystemExit) as stop:
            command('compare', *argv, '--no-latency')
        error = capsys.readouterr().err
        assert stop.value.code == 2 and error.count('\n') == 1 and re.search(message, error), error
    assert not list(Path().glob('comparison/predictions/*/*.npz'))


def test_an_image_that_cannot_be_read_and_a_foreign_folder(two, data, tmp_path, capsys):
    shutil.copytree(data / 'classes', tmp_path / 'copy')
    names = two('mmpretrain', f"test_dataloader['dataset']['data_root'] = {str(tmp_path / 'copy')!r}\n")
    image = next(path for path in (tmp_path / 'copy' / 'val').rglob('*') if path.is_file())
    content = image.read_bytes()
    image.write_bytes(b'no image')
    assert re.search(rf'image .*{image.name} .*: replace it, or remove it from the test set', refused(names))
    image.write_bytes(content)
    Path('comparison/report').mkdir()
    Path('comparison/report/thesis.tex').write_text('mine')
    assert 'thesis.tex, which no report wrote' in refused(names)


def test_names_of_a_librarys_zoo():
    model = find_model('A', 'mmpretrain::mobilenet-v2_8xb32_in1k')
    assert model.task == 'classification' and model.weights.startswith('https://')
    same = find_model('A', 'mmpretrain::mobilenet_v2/mobilenet-v2_8xb32_in1k.py')
    assert same.weights == model.weights and same.digest == model.digest
