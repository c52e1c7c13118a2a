# Output channels of stage1 to stage4: all that necks and heads need to know of a variant. Every other config derives
# them from here. Lists: mmdet's FPN takes nothing else.
widths = dict(
    s0=[48, 128, 256, 1024],
    s1=[96, 192, 512, 1280],
    s2=[96, 256, 640, 2048],
    s3=[128, 320, 768, 2048],
    s4=[192, 448, 896, 2048],
    s4_no_se=[192, 448, 896, 2048],
    micro214=[48, 128, 256, 512],
    micro139=[48, 96, 224, 512],
    micro68=[32, 64, 128, 384])
# Those of stage3 and stage4 alone.
channels = {arch: tuple(outputs[2:]) for arch, outputs in widths.items()}
