_base_ = 'adamw_200e.py'

train_cfg = dict(max_epochs=50)
param_scheduler = [_base_.warmup, dict(_base_.cosine, end=50)]
