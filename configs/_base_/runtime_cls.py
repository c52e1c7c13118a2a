_base_ = ['mmpretrain::_base_/default_runtime.py', 'hooks.py']

# Not less than 2: the oldest checkpoint is deleted before the new one is written.
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3, save_best='auto'))
