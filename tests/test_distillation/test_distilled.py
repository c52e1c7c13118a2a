"""Students and their teachers: what a student's model is made of, what teachers see, and real trainings."""
import copy
from pathlib import Path

import pytest
import torch

from mmone.apis import get_model
from mmone.checkpoints import read_checkpoint
from mmone.config import build_model, default_scope, load_config
from mmone.errors import InputError
from tests.kit import command

STUDENT = '''
model['type'] = 'mmone.Distilled{kind}'
model['teachers'] = [dict(model={model!r}, checkpoint={checkpoint!r})]
'''
KINDS = dict(mmpretrain='Classifier', mmseg='Segmentor')


@pytest.fixture
def taught(trained, config, tmp_path, monkeypatch):
    """Write a teacher's config and checkpoint, and a student's config; returns their paths.

    The teacher's are short: yapf, which mmengine writes configs with, takes seconds for long ones in nested lists.
    """
    monkeypatch.chdir(tmp_path)

    def write(task, extra='', teacher=''):
        path, weights = trained(task, teacher)
        Path('teacher.py').write_text(Path(path).read_text())
        return 'teacher.py', weights, str(config(task, STUDENT.format(
            kind=KINDS[task], model='teacher.py', checkpoint=Path(weights).name) + extra))

    return write


def student_of(path):
    cfg = load_config(path)
    model = build_model(cfg)
    with default_scope(cfg):
        model.init_weights()
    return model


def teacher_of(model):
    return model.teachers._teachers[0]


def samples(task, count=2):
    if task == 'mmpretrain':
        from mmpretrain.structures import DataSample
        return [DataSample().set_gt_label(i) for i in range(count)]
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample
    return [SegDataSample(gt_sem_seg=PixelData(data=torch.randint(6, (1, 64, 64)))) for _ in range(count)]


@pytest.mark.parametrize('task', KINDS)
def test_a_student_is_its_own_network_alone(taught, config, task):
    student, plain = student_of(taught(task)[2]), build_model(load_config(str(config(task))))
    assert student.state_dict().keys() == plain.state_dict().keys()
    assert [name for name, _ in student.named_parameters()] == [name for name, _ in plain.named_parameters()]
    assert not any('teacher' in name for name, _ in student.named_modules())


@pytest.mark.parametrize('task', KINDS)
def test_copies_share_the_teachers_which_do_not_train(taught, task):
    student = student_of(taught(task)[2])
    assert copy.deepcopy(student).teachers is student.teachers
    student.train()
    net = teacher_of(student).net
    assert not any(module.training for module in net.modules())
    assert not any(parameter.requires_grad for parameter in net.parameters())
    assert net.backbone.deploy
    student.double()
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float64}


@pytest.mark.parametrize('task', KINDS)
def test_losses_are_those_of_the_formula(taught, task):
    """And the teacher, loaded with its branches folded, says what it says by itself."""
    path, weights, student_path = taught(task)
    student = student_of(student_path).train()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        said, = student.teachers(x, 5 if task == 'mmpretrain' else 6)
        expected = get_model(path, weights, 'cpu', deploy=False)(x, mode='tensor')
    torch.testing.assert_close(said, expected, atol=1e-4, rtol=1e-4)
    found = student.loss(x, samples(task))
    if task == 'mmpretrain':
        assert found.keys() == {'loss_distill'}
    else:
        assert {'decode.loss_ce', 'decode.loss_distill', 'aux.loss_ce', 'decode.acc_seg'} <= found.keys()
    sum(loss for name, loss in found.items() if 'loss' in name).backward()
    assert all(parameter.grad is not None for name, parameter in student.named_parameters()
               if name.startswith(('backbone', 'head', 'decode_head')))


def test_labels_count_by_their_weight(taught):
    weights = 'model.update(hard_weight=0.5, soft_weight=2., temperature=4.)'
    student = student_of(taught('mmpretrain', weights)[2]).eval()
    x, labels = torch.randn(2, 3, 64, 64), samples('mmpretrain')
    found = student.loss(x, labels)
    plain = student.head.loss(student.extract_feat(x), labels)
    torch.testing.assert_close(found['loss'], plain['loss'] / 2)
    said = teacher_of(student).logits(x)
    logits = student(x)
    expected = 2 * 16 * torch.nn.functional.kl_div((logits / 4).log_softmax(1), (said / 4).softmax(1),
                                                   reduction='batchmean')
    torch.testing.assert_close(found['loss_distill'], expected)


@pytest.mark.parametrize('student, teacher', [
    (dict(to_rgb=True), dict(to_rgb=True)),
    (dict(to_rgb=True), dict(to_rgb=False)),
    (dict(to_rgb=False), dict(to_rgb=True)),
    (dict(to_rgb=False), dict(to_rgb=False)),
])
def test_a_teacher_sees_images_as_it_normalizes_them(taught, student, teacher):
    normal = "model['data_preprocessor'] = dict(num_classes=5, mean={}, std={}, to_rgb={})\n"
    theirs = normal.format([120., 110., 100.], [60., 50., 40.], teacher['to_rgb'])
    ours = normal.format([10., 20., 30.], [5., 6., 7.], student['to_rgb'])
    model = student_of(taught('mmpretrain', ours, theirs)[2])
    raw = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    seen = {}
    one = teacher_of(model)
    one.net.backbone.register_forward_pre_hook(lambda module, args: seen.update(images=args[0]))
    model.teachers(model.data_preprocessor(dict(inputs=raw))['inputs'], 5)
    torch.testing.assert_close(seen['images'], one.net.data_preprocessor(dict(inputs=raw))['inputs'])


def test_timms_teachers_have_timms_normalization(taught, tmp_path):
    timm = pytest.importorskip('timm')
    name = 'test_resnet'
    net = timm.create_model(name, num_classes=5)
    torch.save(net.state_dict(), tmp_path / 'timm.pth')
    model = student_of(taught('mmpretrain', "model['data_preprocessor']['to_rgb'] = True\nmodel['teachers'] = [dict("
                              f"model=dict(type='TimmClassifier', model_name='{name}', num_classes=5), "
                              f"checkpoint='{tmp_path}/timm.pth')]\n")[2])
    raw = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
    said, = model.teachers(model.data_preprocessor(dict(inputs=raw))['inputs'], 5)
    mean, std = (torch.tensor(net.pretrained_cfg[key]).view(3, 1, 1) for key in ('mean', 'std'))
    expected = net.eval()((raw.flip(1).float() / 255 - mean) / std)
    torch.testing.assert_close(said, expected, atol=1e-4, rtol=1e-4)


def test_several_teachers_are_averaged(taught):
    student = student_of(taught('mmpretrain', "model['teachers'] *= 2\n")[2]).eval()
    first, second = (teacher.net for teacher in student.teachers._teachers)
    second.head.fc.weight.data *= -3
    x = torch.randn(2, 3, 32, 32)
    soft = (first(x).softmax(1) + second(x).softmax(1)) / 2
    expected = torch.nn.functional.kl_div(student(x).log_softmax(1), soft, reduction='batchmean')
    torch.testing.assert_close(student.loss(x, samples('mmpretrain'))['loss_distill'], expected)


@pytest.mark.parametrize('extra, message', [
    ("model['teachers'] = []", 'teachers is empty'),
    ("model['teachers'] = ['resnet']", 'a teacher is dict'),
    ("model['teachers'][0]['weights'] = 'x'", 'a teacher is dict'),
    ("model['teachers'][0].pop('checkpoint')", 'has no weights: give its checkpoint'),
    ("model['teachers'][0]['checkpoint'] = 'nowhere.pth'", 'nowhere.pth'),
    ("model['teachers'][0]['model'] = 'mobileone-s9'", 'mobileone-s9'),
    ("model['temperature'] = 0", 'temperature must be a positive number, got 0'),
    ("model['soft_weight'] = -1", 'soft_weight must be a number from 0 on, got -1'),
    ("model['head']['num_classes'] = 7", 'has 5 classes, the student 7'),
])
def test_what_is_wrong_is_said_before_anything_is_learned(taught, extra, message):
    path = taught('mmpretrain', extra + '\n')[2]
    with pytest.raises(InputError, match=message):
        student_of(path).loss(torch.randn(2, 3, 32, 32), samples('mmpretrain'))


def test_a_checkpoint_that_lacks_something_is_refused(taught):
    _, weights, path = taught('mmpretrain')
    state = torch.load(weights, weights_only=True)
    del state['state_dict']['head.fc.bias']
    torch.save(state, weights)
    with pytest.raises(InputError, match='has no weights for head.fc.bias'):
        student_of(path)


@pytest.mark.parametrize('task', KINDS)
def test_trains_resumes_and_ships_the_student(taught, config, tmp_path, task):
    """With the average of the weights and the deploying hook; then it is evaluated without any teacher."""
    extra = '''
custom_hooks = [dict(type='EMAHook', momentum=0.1, update_buffers=True), *custom_hooks]
train_cfg['max_epochs'] = train_cfg['val_interval'] = 2
train_dataloader['num_workers'] = test_dataloader['num_workers'] = 0
'''
    _, weights, path = taught(task, extra)
    half = tmp_path / 'half'
    assert command('train', path, '--work-dir', half, '--cfg-options', 'train_cfg.max_epochs=1') == 0
    assert command('train', path, '--work-dir', half, '--resume') == 0
    checkpoint = read_checkpoint(half / 'epoch_2.pth')
    kept = half / Path(path).name  # the student's config, as the run has written it
    model = build_model(load_config(str(config(task))))
    for key in ('state_dict', 'ema_state_dict'):
        assert not any('teacher' in name for name in checkpoint[key])
    model.load_state_dict(checkpoint['state_dict'])

    Path(weights).unlink()
    assert command('test', kept, half / 'epoch_2_deploy.pth', '--deploy', '--work-dir', tmp_path / 'tested') == 0
