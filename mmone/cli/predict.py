"""Predict images or videos with a classifier, detector or segmentor, and draw the predictions."""
import glob
import json
import os
import sys
from argparse import Namespace
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from .output import progress
from .parser import Parser, positive

# What pictures in colour are written as; of any other type of image, the picture is a PNG.
DRAWN_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff', '.ppm')

EXAMPLES = """\
INPUT is an image, a folder of images, a glob ('photos/*.jpg') or a video. DIR gets the drawn
pictures, by the names of their images, and predictions.json: {"model": …, "weights": …,
"predictions": [one record an input]}. A record has "input" (and "frame" of a video) and

  classification  "class", "label", "score", and "top5": [[class, score], …]; where an image may be of
                  several classes "labels": [{"class", "label", "score"}, …] in place of the first three
  detection       "boxes": [{"class", "label", "score", "box": [x1, y1, x2, y2]}, …], best first
  segmentation    "classes": {class: fraction of the pixels}
  unusable        "error"

Exit status: 0, 1 if an input could not be used or a folder has files of other types, which are
skipped and counted by type, 2 if nothing could be done.

examples:
  mmone predict photo.jpg --model mobileone-s0_8xb32_in1k --weights mobileone_s0.pth.tar
  mmone predict photos --model CONFIG --weights work_dirs/x/epoch_20_deploy.pth --out-dir out
"""


def add_arguments(parser: Parser) -> None:
    parser.add_argument('inputs', nargs='+', metavar='INPUT', help='image, folder, glob or video')
    parser.add_argument('--model', required=True, metavar='NAME|CONFIG',
                        help='name in the model zoo, config file, or exported model')
    parser.add_argument('--weights', metavar='CHECKPOINT',
                        help='any source, either form (default: those published for the name)')
    parser.add_argument('--out-dir', default='predictions', metavar='DIR',
                        help='folder for pictures and predictions.json (default: %(default)s)')
    parser.add_argument('--device', help='e.g. cpu or cuda:1 (default: a GPU where there is one)')
    parser.add_argument('--batch-size', type=positive, default=8, metavar='N', help='default: %(default)s')
    parser.add_argument('--score-thr', type=float, default=0.3, metavar='X',
                        help='boxes below it are not drawn (default: %(default)s)')
    parser.add_argument('--no-draw', action='store_true', help='write predictions.json only')
    parser.add_argument('--branches', action='store_true',
                        help='predict with the branches, as the model was trained')
    parser.add_trust()


def run(args: Namespace) -> int:
    from mmone.apis import get_model
    out = Path(args.out_dir).absolute()
    suffixes = _suffixes(args.model) if any(map(os.path.isdir, args.inputs)) else ()
    given, skipped = zip(*(_files(name, out, suffixes) for name in args.inputs))
    files = [file for found in given for file in found]
    videos = _videos(files)
    pictures = {} if args.no_draw else _pictures(files, out)
    model = get_model(args.model, args.weights, args.device, deploy=not args.branches, trust=args.trust)
    out.mkdir(parents=True, exist_ok=True)
    track = progress('predicting', sum(len(videos.get(file, [file])) for file in files))
    records = list(track(_records(model, files, videos, pictures, args)))
    return _write(records, sum(skipped, Counter()), out, args)


def _suffixes(model: str) -> tuple[str, ...]:
    """How the names of images and videos end that a model takes."""
    from mmone.pipeline import image_suffixes
    from mmone.runtime import is_exported
    from mmone.runtime.images import IMAGE_SUFFIXES, VIDEO_SUFFIXES
    from mmone.zoo import find_config
    return VIDEO_SUFFIXES + (IMAGE_SUFFIXES if is_exported(model) else image_suffixes(find_config(model)[0]))


def _files(given: str, out: Path, suffixes: tuple[str, ...]) -> tuple[list[str], Counter[str]]:
    """The images and videos that an input names, and the types of a folder's other files, counted.

    What lies in ``out``, where an earlier run may have left pictures, is not counted; nor are hidden files.
    """
    from mmone.errors import InputError
    from mmone.runtime.images import IMAGE_SUFFIXES
    path = Path(given)
    if path.is_dir():
        inside = path.absolute() in out.parents
        files = sorted(str(file) for file in path.rglob('*')
                       if not file.is_dir() and not (inside and out in file.absolute().parents))
        found = [file for file in files if file.lower().endswith(suffixes)]
        others = Counter(Path(file).suffix.lower() or 'no suffix' for file in set(files).difference(found)
                         if not Path(file).name.startswith('.'))
        if not found:
            raise InputError(f'folder {given} has no images or videos ({", ".join(IMAGE_SUFFIXES)})'
                             + (f', but files of other types: {_counted(others)}' if others else ''))
        return found, others
    if path.is_file():
        return [given], Counter()
    found = sorted(file for file in glob.glob(given, recursive=True) if os.path.isfile(file))
    if not found:
        raise InputError(f'input {given} does not exist: give an image, a folder, a glob or a video')
    return found, Counter()


def _counted(types: Counter[str]) -> str:
    return ', '.join(f'{count} {suffix}' for suffix, count in sorted(types.items()))


def _videos(files: Sequence[str]) -> dict:
    """Those of the files that are videos, each with mmcv's reader of its frames."""
    import mmcv

    from mmone.errors import InputError
    from mmone.runtime.images import VIDEO_SUFFIXES
    videos = {file: mmcv.VideoReader(file) for file in files if file.lower().endswith(VIDEO_SUFFIXES)}
    for file, video in videos.items():
        if video.frame_cnt <= 0:
            raise InputError(f'video {file} cannot be decoded: replace it')
    return videos


def _pictures(files: Sequence[str], out: Path) -> dict[str, Path]:
    """Where the picture of each file goes."""
    from mmone.errors import InputError
    from mmone.runtime.images import VIDEO_SUFFIXES
    # Folders' structure is kept, so that images of one name do not overwrite each other.
    base = os.path.commonpath([os.path.dirname(os.path.abspath(file)) for file in files])
    pictures = {file: out / os.path.relpath(os.path.abspath(file), base) for file in files}
    for file, picture in pictures.items():
        if not file.lower().endswith(DRAWN_SUFFIXES + VIDEO_SUFFIXES):
            pictures[file] = picture.with_name(f'{picture.name}.png')
    for file, picture in pictures.items():
        if picture == Path(file).absolute():
            raise InputError(f'the picture of {file} would replace it: give another folder', parameter='out_dir')
    return pictures


def _records(model, files: Sequence[str], videos: Mapping, pictures: Mapping[str, Path],
             args: Namespace) -> Iterator[dict]:
    """Predict all files and draw those that have a place in ``pictures``; yields the predictions as plain data."""
    from mmone.apis import predict
    under_way: deque[tuple[str, int | None]] = deque()  # (file, frame of a video) of what is being predicted

    def images():
        for file in files:
            for frame, image in enumerate(videos.get(file, [file])):
                under_way.append((file, frame if file in videos else None))
                yield image

    for prediction in predict(model, images(), args.batch_size):
        file, frame = under_way.popleft()
        record = prediction._replace(name=file).record(model)
        if frame is not None:
            record['frame'] = frame
        if file in pictures and prediction.sample is not None:
            picture = pictures[file]
            if frame is not None:
                picture = picture.with_suffix('') / f'{frame:06}.jpg'
            _draw(model, prediction, args.score_thr, picture)
        yield record


def _draw(model, prediction, score_thr: float, path: Path) -> None:
    import mmcv

    from mmone.apis import draw
    mmcv.imwrite(mmcv.rgb2bgr(draw(model, prediction, score_thr)), str(path))


def _write(records: Sequence[dict], skipped: Counter[str], out: Path, args: Namespace) -> int:
    """Write ``predictions.json`` and say what was done; returns the exit status."""
    from mmone.files import written_whole
    content = dict(model=args.model, weights=args.weights, predictions=records)
    with written_whole(out / 'predictions.json') as made:
        made.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding='utf-8')
    failed = [record for record in records if 'error' in record]
    print(f'{len(records) - len(failed)} predictions in {out / "predictions.json"}'
          + ('' if args.no_draw else f', pictures in {out}'))
    for record in failed:
        print(f'{record["error"]}: {record["input"]}', file=sys.stderr)
    if skipped:
        print(f'skipped, no images or videos by their names: {_counted(skipped)}', file=sys.stderr)
    return 1 if failed or skipped else 0
