_base_ = 'adamw_4e.py'

train_cfg = dict(max_epochs=3, val_interval=3)
param_scheduler = [dict(_base_.warmup, end=60), dict(_base_.cosine, end=3)]
