_base_ = 'classifier.py'

# MEAL V2's teachers for images of 224×224 (https://github.com/szq0214/MEAL-V2), by timm's names.
model = dict(
    type='mmone.DistilledClassifier',
    teachers=[
        dict(model=dict(type='TimmClassifier', model_name=name, pretrained=True))
        for name in ('senet154.gluon_in1k', 'resnet152s.gluon_in1k')
    ])
