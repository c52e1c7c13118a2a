"""Apple's names, against networks built by hand with them."""
import pytest
import torch

from mmone import InputError
from mmone.checkpoints import convert, read_checkpoint, recognise, to_mmone
from mmone.models import MobileOne

OURS_TO_APPLE = {
    'branch_conv_list.': 'rbr_conv.', 'branch_scale.': 'rbr_scale.', 'branch_norm.': 'rbr_skip.',
    'branch_reparam.': 'reparam_conv.', '.norm.': '.bn.', 'se.conv1.conv.': 'se.reduce.',
    'se.conv2.conv.': 'se.expand.'
}  # yapf: disable


def _apple(arch, deploy):
    """A state dict as Apple publishes it, and ours that it should become."""
    ours = {f'backbone.{k}': v for k, v in MobileOne(arch, deploy=deploy).state_dict().items()}
    ours['head.fc.weight'], ours['head.fc.bias'] = torch.randn(7, 5), torch.randn(7)
    theirs = {}
    for key, value in ours.items():
        key = key.replace('backbone.', '').replace('head.fc.', 'linear.')
        for a, b in OURS_TO_APPLE.items():
            key = key.replace(a, b)
        theirs[key] = value
    return theirs, ours


@pytest.mark.parametrize('arch', ['s0', 's4'])
@pytest.mark.parametrize('deploy', [False, True])
def test_apple_is_recognised_and_renamed_without_loss(arch, deploy):
    theirs, ours = _apple(arch, deploy)
    assert recognise(theirs) == 'apple' and recognise(ours) == 'mmone'
    assert 'stage0.rbr_conv.0.bn.weight' in theirs or deploy
    renamed = to_mmone(theirs)
    assert renamed.keys() == ours.keys()
    assert all(renamed[key] is ours[key] for key in ours)
    assert to_mmone(ours).keys() == ours.keys()


def test_nobodys_weights_are_refused(tmp_path):
    torch.save({'conv1.weight': torch.zeros(1)}, tmp_path / 'resnet.pth')
    with pytest.raises(InputError, match="first key is 'conv1.weight'"):
        convert(tmp_path / 'resnet.pth', tmp_path / 'out.pth')
    assert not (tmp_path / 'out.pth').exists()


def test_convert_writes_what_the_backbone_loads(tmp_path):
    theirs, ours = _apple('s0', True)
    torch.save(theirs, tmp_path / 'in.pth.tar')
    assert convert(tmp_path / 'in.pth.tar', tmp_path / 'out.pth') == 'apple'
    assert read_checkpoint(tmp_path / 'out.pth')['state_dict'].keys() == ours.keys()
    model = MobileOne('s0', deploy=True, init_cfg=dict(
        type='Pretrained', checkpoint=str(tmp_path / 'out.pth'), prefix='backbone.'))
    model.init_weights()
    assert torch.equal(model.stage0.branch_reparam.weight,
                       ours['backbone.stage0.branch_reparam.weight'])
    with pytest.raises(InputError, match='exists'):
        convert(tmp_path / 'in.pth.tar', tmp_path / 'out.pth')
    with pytest.raises(InputError, match='no directory'):
        convert(tmp_path / 'in.pth.tar', tmp_path / 'no' / 'out.pth')
