_base_ = 'adamw_3e.py'

train_cfg = dict(max_epochs=5, val_interval=5)
param_scheduler = [_base_.warmup_short, dict(_base_.cosine, end=5)]
