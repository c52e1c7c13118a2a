"""The fused S0 weights as Apple publishes them, on 500 photographs; where both lie in data/."""
from pathlib import Path

import pytest
import torch
from mmengine.dataset import pseudo_collate
from torch.nn.functional import cross_entropy

from mmone.apis import get_model, predict
from mmone.convert import expand
from mmone.pipeline import ImagePipeline

DATA = Path(__file__).parent.parent / 'data'
WEIGHTS, IMAGES = DATA / 'mobileone_s0.pth.tar', DATA / 'imagenet_sample'

pytestmark = pytest.mark.skipif(not (WEIGHTS.is_file() and IMAGES.is_dir()),
                                reason='no published weights or photographs in data/')


@pytest.fixture(scope='module')
def model():
    return get_model('mobileone-s0_8xb32_in1k', str(WEIGHTS), 'cpu')


@pytest.fixture(scope='module')
def labelled():
    names = (IMAGES / 'classes.txt').read_text().split()
    return {str(path): names.index(path.parent.name) for path in sorted(IMAGES.glob('*/*.jpg'))}


def test_top_1_by_name_and_by_the_stock_inferencer(model, labelled):
    from mmpretrain import ImageClassificationInferencer
    ours = [prediction.sample.pred_label.item() for prediction in predict(model, labelled, 50)]
    top1 = 100 * sum(a == b for a, b in zip(ours, labelled.values())) / len(labelled)
    assert abs(top1 - 79.4) <= 0.6
    some = list(labelled)[:50]
    theirs = ImageClassificationInferencer(model)(some, batch_size=50)
    assert [result['pred_label'] for result in theirs] == ours[:50]


def test_expanded_goes_on_from_where_the_fused_network_is(labelled):
    """The same logits in eval mode; in training mode, at a batch of 125, nearly the same loss."""
    model = get_model('mobileone-s0_8xb32_in1k', str(WEIGHTS), 'cpu')
    files = list(labelled)[::4]
    pipeline = ImagePipeline(model.cfg)
    samples = [pipeline.prepare(pipeline.read(file)) for file in files]
    images = model.data_preprocessor(pseudo_collate(samples))['inputs']
    labels = torch.tensor([labelled[file] for file in files])

    def logits():
        with torch.no_grad():
            return model(images)

    fused = logits()
    expand(model.backbone, images.split(25))
    torch.testing.assert_close(logits(), fused, rtol=1e-5, atol=1e-5 * fused.abs().max().item())
    model.train()
    assert cross_entropy(logits(), labels) < 1.05 * cross_entropy(fused, labels)
