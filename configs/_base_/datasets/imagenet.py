_base_ = 'mmpretrain::_base_/datasets/imagenet_bs32_pil_resize.py'

train_dataloader = dict(persistent_workers=False)  # see EpochSeedHook
val_dataloader = dict(batch_size=256)
test_dataloader = dict(batch_size=256)
