"""What a browser sends: checked, and turned into measurements.

Nothing of it is believed but numbers of a plausible size and short plain texts about the browser. What the model and
the setting are, the server knows by itself.
"""
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

from mmone.errors import InputError
from mmone.version import __version__

from .ort_web import VERSION
from .served import Served
from .store import Latency, Machine, Measurement, Setting

MOST_ROWS = 100
RUNTIME = 'onnxruntime-web'
# Letters, digits, and what browsers write beside them: nothing that HTML, Markdown or a terminal takes for its own.
_TEXT = re.compile(r'[\w .,:;()/+-]{0,200}')
_DAY, _HOUR = 24 * 3600, 3_600_000.0  # seconds, milliseconds


def read_results(body: bytes, models: Mapping[str, Served]) -> list[Measurement]:
    """The measurements in the body of a request.

    Args:
        body (bytes): JSON with ``machine`` and ``measurements``, as ``page/device.js`` and ``page/app.js`` make it.
        models (Mapping[str, Served]): Those that are served, by name.

    Raises:
        InputError: If anything of it is not as the page sends it; names what.
    """
    try:
        content = json.loads(body, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise InputError('the body is not JSON') from None
    _check(content, dict(machine=_is_any, measurements=_is_rows), 'the body')
    _check(content['machine'], _MACHINE, 'machine')
    machine = _machine(**content['machine'])
    rows = []
    for number, row in enumerate(content['measurements']):
        place = f'measurements[{number}]'
        _check(row, _ROW, place)
        if row['model'] not in models:
            raise InputError(f'{place}.model is none of those that are served')
        if not row['minimum'] <= row['p10'] <= row['median'] <= row['p90']:
            raise InputError(f'{place}: expected minimum <= p10 <= median <= p90')
        rows.append(_measurement(machine, models[row['model']], row))
    return rows


def _measurement(machine: Machine, served: Served, row: dict[str, Any]) -> Measurement:
    started = datetime.now(timezone.utc) - timedelta(seconds=row['seconds'])  # browsers' clocks may be wrong
    height, width = served.shape
    setting = Setting(RUNTIME, row['device'], served.precision, row['threads'], height=height, width=width)
    times = {name: float(row[name]) for name in ('median', 'p10', 'p90', 'minimum')}
    latency = Latency(started.isoformat(timespec='seconds'), row['runs'], row['discarded'], steady=row['steady'],
                      **times)
    return Measurement(machine, served.model, setting, latency)


def _machine(id: str, browser: str, version: str, system: str, device: str, processor: str, cores: int | None,
             memory: float | None) -> Machine:
    """The machine that a browser says it is on, whatever its version; another browser there is another machine."""
    told = '\n'.join([id, browser, device, processor, str(cores)])
    return Machine(
        key=hashlib.sha256(told.encode()).hexdigest()[:16], name=f'{device or system}, {browser}', kind='browser',
        processor=processor or device, cores=cores, memory=None if memory is None else int(memory * 2**30),
        system=system, versions={browser: version, RUNTIME: VERSION, 'mmone': __version__})


# The schema: for each key whether a value is right


def _is_any(value: Any) -> bool:
    return True


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and 0 < len(value) <= MOST_ROWS


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(_TEXT.fullmatch(value))


def _is_named(value: Any) -> bool:
    return _is_text(value) and value.strip() != ''


def _is_name(value: Any) -> bool:
    return isinstance(value, str)  # and one of those that are served


def _is_count(value: Any, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _is_number(value: Any, least: float, most: float) -> bool:
    return type(value) in (int, float) and least <= value <= most


def _is_time(value: Any) -> bool:
    return _is_number(value, 1e-3, _HOUR)


_MACHINE: dict[str, Callable[[Any], bool]] = dict(
    id=lambda value: isinstance(value, str) and bool(re.fullmatch('[0-9a-f]{32}', value)),
    browser=_is_named, version=_is_text, system=_is_named, device=_is_text, processor=_is_text,
    cores=lambda value: value is None or _is_count(value, 1, 1024),
    memory=lambda value: value is None or _is_number(value, 0.1, 4096))  # in GiB, as browsers tell it
_ROW: dict[str, Callable[[Any], bool]] = dict(
    model=_is_name, device=lambda value: value in ('wasm', 'webgpu'),
    threads=lambda value: _is_count(value, 0, 1024), runs=lambda value: _is_count(value, 1, 100_000),
    discarded=lambda value: _is_count(value, 0, 100_000), median=_is_time, p10=_is_time, p90=_is_time, minimum=_is_time,
    steady=lambda value: type(value) is bool, seconds=lambda value: _is_number(value, 0, _DAY))


def _check(value: Any, schema: Mapping[str, Callable[[Any], bool]], place: str) -> None:
    if not isinstance(value, dict) or value.keys() != schema.keys():
        raise InputError(f'{place}: expected {{{", ".join(schema)}}}')
    for key, is_right in schema.items():
        if not is_right(value[key]):
            raise InputError(f'{place}.{key} is not what the page sends')


def _refuse(constant: str) -> None:
    raise ValueError(constant)  # NaN and infinities, which Python's JSON has and JSON has not
