# Output channels of stage3 and stage4: all that necks and heads need to know of a variant. Every
# other config derives them from here.
channels = dict(
    s0=(256, 1024),
    s1=(512, 1280),
    s2=(640, 2048),
    s3=(768, 2048),
    s4=(896, 2048),
    micro214=(256, 512),
    micro139=(224, 512),
    micro68=(128, 384))
