"""The table of variants, and archs of one's own."""
import pytest
import torch

from mmone import InputError
from mmone.models import MobileOne
from mmone.models.backbones.archs import ARCHS, check_arch, stage_channels, variant_of
from tests.conftest import TINY

# Parameters of the deployed classifiers of 1000 classes, as mmpretrain counts them; width of the stem.
# S4 without squeeze-excite is not there: see below.
PUBLISHED = dict(
    s0=(2_078_504, 48), s1=(4_764_840, 64), s2=(7_808_168, 64), s3=(10_078_312, 64), s4=(14_838_352, 64))


def test_all_variants_have_the_published_numbers_of_parameters():
    # The micro variants: test_lab/test_peers.py.
    assert PUBLISHED.keys() == {arch for arch in ARCHS if not arch.startswith('micro')} - {'s4_no_se'}
    for arch, (published, stem) in PUBLISHED.items():
        with torch.device('meta'):
            model = MobileOne(arch, deploy=True)
        channels = stage_channels(ARCHS[arch])
        assert channels[0] == stem and len(channels) == 5
        assert sum(p.numel() for p in model.parameters()) + 1000 * (channels[-1] + 1) == published


def count(arch, only=''):
    with torch.device('meta'):
        parameters = MobileOne(arch, deploy=True).named_parameters()
    return sum(parameter.numel() for name, parameter in parameters if only in name)


def test_s4_without_squeeze_excite_lacks_that_alone():
    """An SE layer of C channels has C / 16 between: 11 layers of 896 (stage3's last 5 pairs, stage4's depthwise block)
    and one of 2048."""
    layers = [896] * 11 + [2048]
    squeezed = sum(2 * wide * (wide // 16) + wide // 16 + wide for wide in layers)
    assert count('s4', '.se.') == squeezed and count('s4_no_se', '.se.') == 0
    assert count('s4_no_se') == count('s4') - squeezed == PUBLISHED['s4'][0] - 1000 * 2049 - squeezed


def test_weights_with_and_without_squeeze_excite_are_told_apart():
    with torch.device('meta'):
        plain, squeezing = (MobileOne(arch, deploy=True) for arch in ('s4_no_se', 's4'))
    for model, other, arch in ((plain, squeezing, 's4'), (squeezing, plain, 's4_no_se')):
        with pytest.raises(InputError, match=f"its squeeze-excite layers are those of arch='{arch}'"):
            model.load_state_dict(other.state_dict())


@pytest.mark.parametrize('deploy', [False, True])
def test_a_variant_is_known_by_its_weights(deploy):
    for arch in ARCHS:
        with torch.device('meta'):
            weights = MobileOne(arch, deploy=deploy).state_dict()
        assert variant_of(weights) == arch
        found = variant_of({k: v for k, v in weights.items() if 'stage4' not in k})
        assert stage_channels(ARCHS[found])[:4] == stage_channels(ARCHS[arch])[:4]
    assert variant_of(MobileOne(TINY, deploy=deploy).state_dict()) is None


def test_lists_and_tuples_are_alike():
    lists = {key: list(values) for key, values in TINY.items()}
    tuples = {key: tuple(values) for key, values in TINY.items()}
    assert check_arch(lists) == check_arch(tuples) == tuples


@pytest.mark.parametrize('arch, words', [
    ('s5', ["'s5'", 's0, s1, s2, s3, s4']),
    (None, ['NoneType']),
    ({**TINY, 'depth': [1] * 4}, ["'depth' is unknown"]),
    ({k: v for k, v in TINY.items() if k != 'num_se_blocks'}, ["'num_se_blocks' is missing"]),
    ({**TINY, 'num_blocks': [1, 2, 3]}, ["'num_blocks'", '[1, 2, 3]']),
    ({**TINY, 'num_conv_branches': [1, 0, 1, 1]}, ["'num_conv_branches'", '0']),
    ({**TINY, 'num_conv_branches': [1, 1.5, 1, 1]}, ["'num_conv_branches'", '1.5']),
    ({**TINY, 'num_blocks': [True, 1, 1, 1]}, ["'num_blocks'", 'True']),
    ({**TINY, 'width_factor': [1, -1, 1, 1]}, ["'width_factor'", '-1']),
    ({**TINY, 'width_factor': [0.001, 1, 1, 1]}, ["'width_factor'"]),
    ({**TINY, 'num_se_blocks': [0, 3, 0, 0]}, ["'num_se_blocks'", 'stage2']),
], ids=str)
def test_wrong_archs_are_named(arch, words):
    with pytest.raises(InputError) as error:
        MobileOne(arch)
    for word in words:
        assert word in str(error.value)
    assert '\n' not in str(error.value)
