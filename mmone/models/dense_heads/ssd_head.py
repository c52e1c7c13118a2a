"""An SSD head that also evaluates."""
from mmdet.models.dense_heads import SSDHead as _SSDHead


class SSDHead(_SSDHead):
    """mmdet's SSDHead, with the attribute that its prediction reads.

    Since mmdet 3.2, ``BaseDenseHead.predict_by_feat`` asks ``self.loss_cls`` whether the loss has
    class channels of its own. SSDHead has no loss module, its loss is a plain cross entropy, so
    every SSD model trains and then stops at its first evaluation with ``'SSDHead' object has no
    attribute 'loss_cls'`` (open upstream: mmdetection #11063, #11305, #11780). Parameters and
    their names are the stock head's, so are its arguments; works with mmdet 3.0 to 3.3.
    """

    loss_cls = None
