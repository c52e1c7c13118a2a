"""The tables of names, against weights of other people's models where their packages are at hand."""
import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.registry import MODELS
from mmengine.runner import load_checkpoint

from mmone import InputError
from mmone.checkpoints import SOURCES, recognise, rename, to_mmone
from mmone.models import MobileOne
from mmone.models.backbones.archs import check_arch, stage_channels
from tests.conftest import TINY, relative_difference

MMPRETRAIN = SOURCES['mmpretrain']
# One key of each kind, as the sources' own code names it.
KEYS = {
    'apple': ['stage0.rbr_conv.0.conv.weight', 'stage0.rbr_scale.bn.running_mean',
              'stage3.14.rbr_skip.num_batches_tracked', 'stage4.1.rbr_conv.3.bn.bias',
              'stage2.3.reparam_conv.bias', 'stage4.0.se.reduce.weight',
              'stage4.1.se.expand.bias', 'linear.weight'],
    'timm': ['stem.conv_kxk.0.conv.weight', 'stem.conv_scale.bn.running_mean',
             'stages.2.14.identity.num_batches_tracked', 'stages.3.1.conv_kxk.3.bn.bias',
             'stages.1.3.reparam_conv.bias', 'stages.3.0.attn.fc1.weight',
             'stages.3.1.attn.fc2.bias', 'head.fc.weight'],
    'cvnets': ['conv_1.rbr_conv.0.block.conv.weight', 'conv_1.rbr_scale.block.norm.running_mean',
               'layer_4.14.rbr_skip.num_batches_tracked', 'layer_5.1.rbr_conv.3.block.norm.bias',
               'layer_3.3.reparam_conv.bias', 'layer_5.0.se.se_layer.fc1.block.conv.weight',
               'layer_5.1.se.se_layer.fc2.block.conv.bias', 'classifier.classifier_fc.weight'],
}
OURS = ['backbone.stage0.branch_conv_list.0.conv.weight',
        'backbone.stage0.branch_scale.norm.running_mean',
        'backbone.stage3.14.branch_norm.num_batches_tracked',
        'backbone.stage4.1.branch_conv_list.3.norm.bias', 'backbone.stage2.3.branch_reparam.bias',
        'backbone.stage4.0.se.conv1.conv.weight', 'backbone.stage4.1.se.conv2.conv.bias',
        'head.fc.weight']


def classifier(arch, deploy, backbone='mmone.MobileOne'):
    """mmpretrain's classifier of 7 classes with our backbone, or theirs."""
    return MODELS.build(dict(
        type='mmpretrain.ImageClassifier',
        backbone=dict(type=backbone, arch=arch, deploy=deploy),
        neck=dict(type='mmpretrain.GlobalAveragePooling'),
        head=dict(type='mmpretrain.LinearClsHead', num_classes=7,
                  in_channels=stage_channels(check_arch(arch))[-1])))


@pytest.mark.parametrize('name', KEYS)
def test_names_of_each_kind(name):
    theirs = {key: torch.zeros(()) for key in KEYS[name]}
    assert list(rename(theirs, SOURCES[name], MMPRETRAIN)) == OURS
    assert list(rename({key: torch.zeros(()) for key in OURS}, MMPRETRAIN, SOURCES[name])) == KEYS[name]


@pytest.mark.parametrize('name', SOURCES)
@pytest.mark.parametrize('deploy', [False, True])
def test_there_and_back_is_the_same_tensors(name, deploy):
    ours = classifier(TINY, deploy).state_dict()
    theirs = rename(ours, MMPRETRAIN, SOURCES[name])
    assert recognise(theirs) is SOURCES[name]
    assert len(theirs) == len(ours)
    back = to_mmone(theirs)
    assert list(back) == list(ours)
    assert all(back[key] is ours[key] for key in ours)


@pytest.mark.parametrize('arch', ['s0', 's4'])  # the others differ from them in widths only
@pytest.mark.parametrize('fused', [False, True])
@pytest.mark.parametrize('package', ['timm', 'mmpretrain'])
def test_the_sources_own_model_gives_the_same_logits(package, arch, fused, moved, tmp_path):
    """Saved by its package, loaded as a user gives ``load_from``, in both of our forms."""
    if package == 'timm':
        timm = pytest.importorskip('timm')
        peer = moved(timm.create_model(f'mobileone_{arch}', num_classes=7)).double().eval()
        if fused:
            # Not timm's inference_mode=True, whose convolutions lack their padding.
            peer = timm.utils.reparameterize_model(peer)
    else:
        peer = moved(classifier(arch, False, 'mmpretrain.MobileOne')).double().eval()
        if fused:
            peer.backbone.switch_to_deploy()
    torch.save(peer.state_dict(), tmp_path / 'model.pth')
    image = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    for deploy in {fused, True}:
        ours = classifier(arch, deploy).double().eval()
        load_checkpoint(ours, str(tmp_path / 'model.pth'), map_location='cpu')
        with torch.no_grad():
            expected = peer(image)
            assert relative_difference(ours(image), expected) < 1e-10
            single = relative_difference(ours.float()(image.float()), expected.float())
            assert single < 1e-5


def test_what_is_nobodys_is_left_alone():
    other = {'conv1.weight': torch.zeros(1), 'backbone.layer1.weight': torch.zeros(1)}
    assert recognise(other) is None and recognise({}) is None
    assert to_mmone(other) is other


def test_another_family_with_timms_names_is_not_taken_for_mobileone():
    timm = pytest.importorskip('timm')
    model = timm.utils.reparameterize_model(timm.create_model('repvgg_a0').eval())
    assert 'stem.reparam_conv.weight' in model.state_dict()
    assert recognise(model.state_dict()) is None


def test_unknown_keys_are_named_with_the_nearest_known():
    state_dict = rename(classifier('s0', False).state_dict(), MMPRETRAIN, SOURCES['apple'])
    state_dict['stage3.14.rbr_skp.weight'] = state_dict.pop('stage3.14.rbr_skip.weight')
    state_dict['stage1.0.rbr_conv.0.bn.momentum'] = torch.zeros(1)
    with pytest.raises(InputError) as error:
        to_mmone(state_dict)
    message = str(error.value)
    assert 'stage3.14.rbr_skp.weight (nearest known: stage3.14.rbr_skip.weight)' in message
    assert 'stage1.0.rbr_conv.0.bn.momentum (nearest known: stage1.0.rbr_conv.0.bn.' in message
    assert '\n' not in message


@pytest.mark.parametrize('name', ['apple', 'timm', 'cvnets'])
@pytest.mark.parametrize('prefix', [None, 'backbone.'])
def test_a_backbone_alone_takes_its_part(name, prefix, tmp_path):
    ours = classifier(TINY, True).state_dict()
    torch.save(rename(ours, MMPRETRAIN, SOURCES[name]), tmp_path / 'model.pth')
    model = MobileOne(TINY, deploy=True, init_cfg=dict(
        type='Pretrained', checkpoint=str(tmp_path / 'model.pth'), prefix=prefix))
    model.init_weights()
    for key, value in model.state_dict().items():
        assert torch.equal(value, ours['backbone.' + key])


def test_pytorchs_own_loading_recognises_names_too():
    ours = classifier(TINY, True).state_dict()
    model = MobileOne(TINY, deploy=True)
    theirs = rename(ours, MMPRETRAIN, SOURCES['timm'])
    result = model.load_state_dict(theirs, strict=False)
    assert result.missing_keys == []
    assert result.unexpected_keys == ['head.fc.weight', 'head.fc.bias']
    assert torch.equal(model.stage0.branch_reparam.weight,
                       ours['backbone.stage0.branch_reparam.weight'])


def test_renaming_is_logged_in_one_line_and_nothing_is_unexpected(tmp_path, caplog):
    ours = classifier(TINY, True)
    torch.save(rename(ours.state_dict(), MMPRETRAIN, SOURCES['apple']), tmp_path / 'model.pth.tar')
    logger = MMLogger.get_current_instance()
    logger.setLevel('INFO')
    logger.addHandler(caplog.handler)
    load_checkpoint(classifier(TINY, True), str(tmp_path / 'model.pth.tar'), map_location='cpu',
                    logger='current')
    assert [message for message in caplog.messages if 'names' in message] == [
        f"{tmp_path}/model.pth.tar has apple's names: renamed to mmone's"]
    assert 'do not match' not in caplog.text
