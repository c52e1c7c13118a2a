# The small backbone of the examples, which starts as the demo's classifier.
_base_ = '../archs.py'

outputs = _base_.widths.micro68  # channels of stage1 to stage4
backbone = dict(
    type='mmone.MobileOne',
    arch='micro68',
    channels_last=True,  # faster on a CPU
    init_cfg=dict(
        type='Pretrained', checkpoint='work_dirs/demo/classification/last.pth', prefix='backbone.'))
