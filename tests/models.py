"""Models of the libraries' own configs, made small."""
from mmengine.hub import get_config

ARCH = dict(num_blocks=(1, 1, 1, 1), width_factor=(0.25, 0.25, 0.125, 0.125), num_conv_branches=(1, 1, 1, 2),
            num_se_blocks=(0, 0, 0, 1))
WIDTHS = [16, 32, 32, 64]  # of its stages


def with_small_backbone(name):
    """A config of a library, ``scope::name``, whose backbone is a small MobileOne."""
    cfg = get_config(name)
    inputs = (cfg.model.get('neck') or {}).get('in_channels')
    stages = len(inputs) if isinstance(inputs, (list, tuple)) else 1
    cfg.model.backbone = dict(type='mmone.MobileOne', arch=ARCH, out_indices=tuple(range(4 - stages, 4)))
    if stages > 1:
        cfg.model.neck.in_channels = WIDTHS[4 - stages:]
    elif inputs:
        cfg.model.neck.in_channels = WIDTHS[3] if isinstance(inputs, int) else [WIDTHS[3]]
    cfg.model.pop('pretrained', None)
    for head in ('decode_head', 'auxiliary_head'):
        for part in cfg.model.get(head) if isinstance(cfg.model.get(head), list) else [cfg.model.get(head)]:
            if part:
                part.update(in_channels=WIDTHS[3], in_index=0, norm_cfg=dict(type='BN'))
                part.pop('input_transform', None)
    return cfg
