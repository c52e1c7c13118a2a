_base_ = 'imagenet.py'


def train_pipeline(size, strength):
    """Augmentation for images of ``size``, with a part of RandAugment's full ``strength``."""
    return [
        dict(type='LoadImageFromFile'),
        dict(type='RandomResizedCrop', scale=size, backend='pillow'),
        dict(type='RandomFlip', prob=0.5, direction='horizontal'),
        dict(
            type='RandAugment',
            policies='timm_increasing',
            num_policies=2,
            total_level=10,
            magnitude_level=7 * strength,
            magnitude_std=0.5,
            # The mean colour; images are BGR until the data preprocessor.
            hparams=dict(pad_val=[104, 116, 124])),
        dict(type='PackInputs')
    ]


train_dataloader = dict(dataset=dict(pipeline=train_pipeline(160, 0.3)))
switch_recipe = dict(
    type='SwitchRecipeHook',
    schedule=[
        dict(action_epoch=37, pipeline=train_pipeline(192, 0.7)),
        dict(action_epoch=112, pipeline=train_pipeline(224, 1.0))
    ])
