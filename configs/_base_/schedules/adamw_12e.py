_base_ = 'adamw_200e.py'

# For the generated shapes, in some hundred iterations: a short memory of squared gradients learns in half as many.
train_cfg = dict(max_epochs=12, val_interval=12)
optim_wrapper = dict(optimizer=dict(lr=0.004, betas=(0.9, 0.95), weight_decay=0.1))
warmup_short = dict(_base_.warmup, end=10)
param_scheduler = [warmup_short, dict(_base_.cosine, end=12)]
