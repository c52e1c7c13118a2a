_base_ = 'adamw_12e.py'

# From the weights of a classifier of the same shapes.
train_cfg = dict(max_epochs=4, val_interval=4)
param_scheduler = [dict(_base_.warmup, end=60), dict(_base_.cosine, end=4)]
