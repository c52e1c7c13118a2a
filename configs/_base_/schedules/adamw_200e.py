# AdamW, lr 9e-4 to 1e-6 by cosine after a warm-up of 500 iterations.
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=200, val_interval=5)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=0.0009, weight_decay=0.01),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0))

warmup = dict(type='LinearLR', start_factor=0.001, by_epoch=False, end=500)
cosine = dict(type='CosineAnnealingLR', eta_min=1e-6, end=200, convert_to_iter_based=True)
param_scheduler = [warmup, cosine]
