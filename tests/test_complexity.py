"""Counts of parameters and multiply-adds."""
import pytest
import torch
from mmengine.config import Config

from mmone.complexity import complexity, config_complexity
from mmone.config import build_model
from mmone.errors import InputError
from tests.conftest import not_the_fork, not_the_lowest_torch
from tests.kit import ROOT
from tests.models import with_small_backbone

# The deployed classifiers' figures that mmpretrain publishes.
PUBLISHED = dict(s0=(2_078_504, 274_136_576), s1=(4_764_840, 823_839_744),
                 s2=(7_808_168, 1_296_478_848), s3=(10_078_312, 1_893_842_944),
                 s4=(14_838_352, 2_979_222_528))


@pytest.mark.parametrize('arch', PUBLISHED)
def test_published_complexity(arch):
    cfg = Config.fromfile(ROOT / f'configs/classification/mobileone-{arch}_8xb32_in1k.py')
    shape, forms = config_complexity(cfg)
    assert shape == (224, 224)
    deployed = forms['deployed']
    assert (deployed.parameters, deployed.multiply_adds) == PUBLISHED[arch]
    assert forms['training'].parameters > deployed.parameters


@pytest.mark.parametrize('name', [
    'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
    'mmdet::sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py',  # of random weights the proposals would be no boxes
    # Without post-processing it wants annotations.
    pytest.param('mmdet::yolact/yolact_r50_1xb8-55e_coco.py', marks=not_the_lowest_torch),
    pytest.param('mmseg::ocrnet/ocrnet_hr18_4xb4-80k_ade20k-512x512.py', marks=not_the_fork),  # it finds no mmseg::
])
def test_whatever_trains(name):
    """All stages and heads are counted, and as much each time."""
    cfg = with_small_backbone(name)
    if 'sparse' in name:
        cfg.model.rpn_head.num_proposals = 10
        cfg.model.roi_head.update(num_stages=2, bbox_head=cfg.model.roi_head.bbox_head[:2], stage_loss_weights=[1, 1])
    if 'faster' in name:
        cfg.model.test_cfg.rpn.max_per_img = 100
    counts = [config_complexity(cfg, (64, 96))[1] for _ in range(2)]
    assert counts[0] == counts[1]
    training, deployed = counts[0]['training'], counts[0]['deployed']
    assert training.parameters > deployed.parameters and training.multiply_adds > deployed.multiply_adds
    if 'faster' in name:  # the layers of the second stage, for each proposal
        model = build_model(cfg)
        before, head = model.rpn_head.test_cfg, model.roi_head.bbox_head
        proposals = [complexity(model, (64, 96)).multiply_adds]
        assert model.rpn_head.test_cfg is before
        before.max_per_img = 40
        proposals.append(complexity(model, (64, 96)).multiply_adds)
        weights = sum(module.weight.numel() for module in head.modules() if isinstance(module, torch.nn.Linear))
        assert proposals[0] - proposals[1] == 60 * weights


def test_a_size_that_cannot_be_computed_is_one_line():
    cfg = with_small_backbone('mmdet::deformable_detr/deformable-detr-refine-twostage_r50_16xb2-50e_coco.py')
    with pytest.raises(InputError, match='DeformableDETR cannot compute an image of 32x32 on cpu .*out of range'):
        config_complexity(cfg, (32, 32))
