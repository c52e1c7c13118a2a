"""What ``tools/predict.py`` does: inputs to pictures and one file of predictions."""
import glob
import json
import os
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import mmcv
import numpy as np
from mmengine.utils import ProgressBar

from mmone.apis import draw, get_model, predict
from mmone.errors import InputError
from mmone.runtime.images import IMAGES

VIDEOS = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v')


def run(inputs: Sequence[str],
        model: str,
        weights: str | None = None,
        out_dir: str = 'predictions',
        device: str | None = None,
        batch_size: int = 8,
        score_thr: float = 0.3,
        no_draw: bool = False,
        branches: bool = False,
        trust: bool = False) -> list[str]:
    """Predict all inputs, write ``predictions.json`` and the drawn pictures to ``out_dir``.

    Returns:
        list[str]: The inputs that could not be decoded; they are named on stderr.

    Raises:
        InputError: If an input does not exist, or the model cannot be had.
    """
    files = [file for given in inputs for file in _files(given)]
    videos = {file: mmcv.VideoReader(file) for file in files if file.lower().endswith(VIDEOS)}
    for file, video in videos.items():
        if video.frame_cnt <= 0:
            raise InputError(f'video {file} cannot be decoded: replace it')
    # Folders' structure is kept, so that images of one name do not overwrite each other.
    out = Path(out_dir).absolute()
    base = os.path.commonpath([os.path.dirname(os.path.abspath(file)) for file in files])
    pictures = {file: out / os.path.relpath(os.path.abspath(file), base) for file in files}
    clash = [file for file, picture in pictures.items() if picture == Path(file).absolute()]
    if clash and not no_draw:
        raise InputError(f'--out-dir {out_dir}: the picture of {clash[0]} would replace it, give '
                         'another folder')
    net = get_model(model, weights, device, deploy=not branches, trust=trust)
    out.mkdir(parents=True, exist_ok=True)

    under_way = deque()  # (input, frame) of what is being predicted, in order

    def images() -> Iterator[str | np.ndarray]:
        for file in files:
            for frame, image in enumerate(videos.get(file, [file])):
                under_way.append((file, frame if file in videos else None))
                yield image

    records, failed = [], []
    bar = ProgressBar(sum(len(videos.get(file, [file])) for file in files))
    for prediction in predict(net, images(), batch_size):
        file, frame = under_way.popleft()
        record = prediction._replace(name=file).record(net)
        if frame is not None:
            record['frame'] = frame
        records.append(record)
        if prediction.sample is None:
            failed.append(file)
        elif not no_draw:
            picture = pictures[file]
            if frame is not None:
                picture = picture.with_suffix('') / f'{frame:06}.jpg'
            mmcv.imwrite(mmcv.rgb2bgr(draw(net, prediction, score_thr)), str(picture))
        bar.update()
    print()
    content = dict(model=str(model), weights=weights, predictions=records)
    partial = out / '.predictions.json.partial'
    partial.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding='utf-8')
    os.replace(partial, out / 'predictions.json')
    print(f'{len(records) - len(failed)} predictions in {out / "predictions.json"}'
          + ('' if no_draw else f', pictures in {out}'))
    for file in failed:
        print(f'cannot be decoded: {file}', file=sys.stderr)
    return failed


def _files(given: str) -> list[str]:
    path = Path(given)
    if path.is_dir():
        found = sorted(str(file) for file in path.rglob('*')
                       if file.suffix.lower() in IMAGES + VIDEOS)  # yapf: disable
        if not found:
            raise InputError(f'folder {given} has no images or videos ({", ".join(IMAGES)})')
        return found
    if path.is_file():
        return [given]
    found = sorted(file for file in glob.glob(given, recursive=True) if os.path.isfile(file))
    if not found:
        raise InputError(f'input {given} does not exist: give an image, a folder, a glob or a video')
    return found
