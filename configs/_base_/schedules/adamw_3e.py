_base_ = 'adamw_12e.py'

# From the weights of a classifier of the same shapes.
train_cfg = dict(max_epochs=3, val_interval=3)
param_scheduler = [_base_.warmup_short, dict(_base_.cosine, end=3)]
