"""The builders of layers by config: mmcv's, or where there is no mmcv ours for the layers that PyTorch has."""
try:
    from mmcv.cnn import ConvModule, build_activation_layer, build_norm_layer
except ModuleNotFoundError as error:
    if error.name != 'mmcv':  # it is there, and broken
        raise
    from .plain_layers import ConvModule, build_activation_layer, build_norm_layer  # type: ignore[assignment]

__all__ = ['ConvModule', 'build_activation_layer', 'build_norm_layer']
