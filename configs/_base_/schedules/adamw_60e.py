_base_ = 'adamw_20e.py'

train_cfg = dict(max_epochs=60, val_interval=10)
param_scheduler = [dict(_base_.warmup, end=100), dict(_base_.cosine, end=60)]
