_base_ = 'adamw_200e.py'

# For some hundreds of images: an epoch has some tens of iterations.
train_cfg = dict(max_epochs=20)
param_scheduler = [dict(_base_.warmup, end=100), dict(_base_.cosine, end=20)]
