_base_ = 'adamw_200e.py'

# For the generated shapes: a minute or two on a CPU.
train_cfg = dict(max_epochs=12, val_interval=12)
optim_wrapper = dict(optimizer=dict(lr=0.002))
param_scheduler = [dict(_base_.warmup, end=100), dict(_base_.cosine, end=12)]
