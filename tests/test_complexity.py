"""Counts of parameters and multiply-adds."""
import pytest
from mmengine.config import Config

from mmone.complexity import config_complexity
from tests.kit import ROOT

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
