"""The lab's file: machines, models and measurements, in SQLite.

Each measurement is written when it is made, in write-ahead mode, so that a killed run loses at most the one under
way, and two runs may write one file. The schema is below and nowhere else; ``PRAGMA user_version`` is its version.
"""
import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass, field, fields
from pathlib import Path
from typing import Any

from mmone.errors import InputError

APPLICATION_ID = 0x6D6D316C  # 'mm1l', by which `file` and we know the lab's files
# One step a version: what brings a file of the version before it here. Never changed once released.
MIGRATIONS = ("""
CREATE TABLE machines (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,      -- by which it is known again
    name TEXT NOT NULL,            -- for people
    kind TEXT NOT NULL,            -- 'computer' or 'browser'
    processor TEXT NOT NULL,
    cores INTEGER,                 -- usable
    memory INTEGER,                -- bytes
    system TEXT NOT NULL,
    governor TEXT,                 -- of the cores' frequency, where the system tells
    versions TEXT NOT NULL         -- JSON: library -> version
);
CREATE TABLE models (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    source TEXT NOT NULL,          -- what defines it: 'mmone', 'timm', 'torchvision', a file
    family TEXT NOT NULL,
    parameters INTEGER,            -- as timed: branches folded
    multiply_adds INTEGER,         -- at the image size that it was first measured at
    top1 REAL,                     -- published, in percent of ImageNet's validation images
    top1_source TEXT
);
CREATE TABLE measurements (
    id INTEGER PRIMARY KEY,
    machine INTEGER NOT NULL REFERENCES machines,
    model INTEGER NOT NULL REFERENCES models,
    runtime TEXT NOT NULL,
    device TEXT NOT NULL,          -- 'cpu', 'cuda', 'wasm', 'webgpu'
    precision TEXT NOT NULL,       -- 'float32', 'float16', 'int8'
    threads INTEGER NOT NULL,      -- 0 where the runtime does not tell
    batch INTEGER NOT NULL,
    height INTEGER NOT NULL,
    width INTEGER NOT NULL,
    started TEXT NOT NULL,         -- UTC, ISO 8601
    runs INTEGER NOT NULL,         -- that are kept
    discarded INTEGER NOT NULL,    -- outliers that are not
    median REAL NOT NULL,          -- milliseconds, of a batch
    p10 REAL NOT NULL,
    p90 REAL NOT NULL,
    minimum REAL NOT NULL,
    steady INTEGER NOT NULL,       -- 0: the spread stayed too large
    load REAL,                     -- the machine's, of one minute, before it
    UNIQUE (machine, model, runtime, device, precision, threads, batch, height, width)
);
CREATE TABLE rounds (              -- of measurements under way, from which a killed run goes on
    measurement TEXT NOT NULL,
    number INTEGER NOT NULL,
    times TEXT NOT NULL,           -- JSON: milliseconds of its runs
    PRIMARY KEY (measurement, number)
);
""", )


@dataclass(frozen=True)
class Machine:
    """Where measurements are made.

    Attributes:
        key (str): By which it is known again.
        name (str): For people.
        kind (str): ``'computer'`` or ``'browser'``.
        processor (str): As the system names it.
        cores (int, optional): Usable ones.
        memory (int, optional): In bytes.
        system (str): Operating system, or browser and system.
        governor (str, optional): Of the cores' frequency.
        versions (dict[str, str]): Of the libraries.
    """
    key: str
    name: str
    kind: str
    processor: str
    cores: int | None = None
    memory: int | None = None
    system: str = ''
    governor: str | None = None
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Model:
    """What is measured.

    Attributes:
        name (str): By which it is asked for.
        source (str): What defines it: ``'mmone'``, ``'timm'``, ``'torchvision'`` or a file.
        family (str): By which reports colour it.
        parameters (int, optional): With branches folded, as it is timed.
        multiply_adds (int, optional): At its image size.
        top1 (float, optional): Published top-1 in percent on ImageNet.
        top1_source (str, optional): Where it is published.
    """
    name: str
    source: str
    family: str
    parameters: int | None = None
    multiply_adds: int | None = None
    top1: float | None = None
    top1_source: str | None = None


@dataclass(frozen=True)
class Setting:
    """How a model is run: no two measurements of a model on a machine have the same.

    Attributes:
        runtime (str): Such as ``'onnxruntime'``.
        device (str): ``'cpu'``, ``'cuda'``, ``'wasm'`` or ``'webgpu'``.
        precision (str): ``'float32'``, ``'float16'`` or ``'int8'``.
        threads (int): 0 where the runtime does not tell.
        batch (int): Images at once.
        height (int): Of an image, in pixels.
        width (int): Of an image, in pixels.
    """
    runtime: str
    device: str = 'cpu'
    precision: str = 'float32'
    threads: int = 1
    batch: int = 1
    height: int = 224
    width: int = 224


@dataclass(frozen=True)
class Latency:
    """What was measured: milliseconds of a batch, over the runs that are kept.

    Attributes:
        started (str): UTC, ISO 8601.
        runs (int): That are kept.
        discarded (int): Outliers that are not.
        median (float): In milliseconds.
        p10 (float): 10th percentile.
        p90 (float): 90th percentile.
        minimum (float): The shortest.
        steady (bool): Whether the spread is small enough to rely on.
        load (float, optional): The machine's, of one minute, before it.
    """
    started: str
    runs: int
    discarded: int
    median: float
    p10: float
    p90: float
    minimum: float
    steady: bool
    load: float | None = None


@dataclass(frozen=True)
class Measurement:
    """A row of the lab's file."""
    machine: Machine
    model: Model
    setting: Setting
    latency: Latency


class Store:
    """The lab's file, made if it is not there.

    Args:
        path (str | Path): SQLite file.

    Raises:
        InputError: If it cannot be opened, is not the lab's, or is of a newer mmone.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if self.path.is_dir() or not self.path.absolute().parent.is_dir():
            raise InputError(f'cannot keep measurements in {path}: expected a file in a directory that exists')
        try:
            self._connection = sqlite3.connect(self.path, timeout=60, isolation_level=None)
            self._prepare()
        except sqlite3.Error as error:
            raise InputError(f'cannot keep measurements in {path}: {error}') from None

    def _prepare(self) -> None:
        with self._writing() as execute:  # two new runs make the tables once
            version = self._pragma('user_version')
            tables, = execute('SELECT count(*) FROM sqlite_master').fetchone()
            if tables and self._pragma('application_id') != APPLICATION_ID:
                raise InputError(f'{self.path} is a database of something else: give another file')
            if version > len(MIGRATIONS):
                raise InputError(f'{self.path} was written by a newer mmone (schema {version}, this one knows '
                                 f'{len(MIGRATIONS)}): upgrade mmone, or give another file')
            for migration in MIGRATIONS[version:]:
                for statement in migration.split(';'):
                    execute(statement)
            execute(f'PRAGMA application_id = {APPLICATION_ID}')
            execute(f'PRAGMA user_version = {len(MIGRATIONS)}')
        self._connection.execute('PRAGMA journal_mode = WAL')
        self._connection.execute('PRAGMA foreign_keys = ON')

    def _pragma(self, name: str) -> int:
        return self._connection.execute(f'PRAGMA {name}').fetchone()[0]

    @contextmanager
    def _writing(self) -> Iterator[Any]:
        """A transaction that holds the file from its beginning; nothing of it stays if it fails."""
        self._connection.execute('BEGIN IMMEDIATE')
        try:
            yield self._connection.execute
        except BaseException:
            self._connection.execute('ROLLBACK')
            raise
        self._connection.execute('COMMIT')

    def add(self, measurement: Measurement) -> None:
        """Keep a measurement, in place of an older one of the same machine, model and setting."""
        machine, model, setting, latency = (getattr(measurement, part.name) for part in fields(measurement))
        with self._writing() as execute:
            ids = [_upsert(execute, table, asdict(row), (key, ))
                   for table, row, key in (('machines', machine, 'key'), ('models', model, 'name'))]
            row = dict(machine=ids[0], model=ids[1], **asdict(setting), **asdict(latency))
            _upsert(execute, 'measurements', row, ('machine', 'model', *asdict(setting)))

    def has(self, machine: str, model: str, setting: Setting) -> bool:
        """Whether there is a measurement, by the machine's key and the model's name."""
        same = ' AND '.join(f'x.{name} = ?' for name in asdict(setting))
        return self._connection.execute(
            'SELECT 1 FROM measurements x JOIN machines a ON a.id = x.machine JOIN models b ON b.id = x.model '
            f'WHERE a.key = ? AND b.name = ? AND {same}', (machine, model, *astuple(setting))).fetchone() is not None

    def measurements(self) -> list[Measurement]:
        """All of them, the oldest first."""
        columns = [f'{table}.{part.name}' for table, kind in _PARTS for part in fields(kind)]
        rows = self._connection.execute(
            f'SELECT {", ".join(columns)} FROM measurements x JOIN machines a ON a.id = x.machine '
            'JOIN models b ON b.id = x.model ORDER BY x.id')
        return [_measurement(row) for row in rows]

    def add_round(self, measurement: str, number: int, times: Sequence[float]) -> None:
        """Keep the milliseconds of one round of a measurement under way, by a name for it."""
        with self._writing() as execute:
            execute('INSERT OR REPLACE INTO rounds VALUES (?, ?, ?)', (measurement, number, json.dumps(times)))

    def rounds(self, measurement: str) -> dict[int, list[float]]:
        """The rounds of a measurement under way, by their numbers."""
        rows = self._connection.execute('SELECT number, times FROM rounds WHERE measurement = ?', (measurement, ))
        return {number: json.loads(times) for number, times in rows}

    def forget_rounds(self, measurement: str) -> None:
        with self._writing() as execute:
            execute('DELETE FROM rounds WHERE measurement = ?', (measurement, ))

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> 'Store':
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_PARTS = (('a', Machine), ('b', Model), ('x', Setting), ('x', Latency))


def _measurement(row: Sequence) -> Measurement:
    values = iter(row)
    parts: list[Any] = [{part.name: next(values) for part in fields(kind)} for _, kind in _PARTS]
    parts[0]['versions'] = json.loads(parts[0]['versions'])
    parts[3]['steady'] = bool(parts[3]['steady'])
    return Measurement(*(kind(**part) for (_, kind), part in zip(_PARTS, parts)))


def _upsert(execute: Any, table: str, row: dict[str, Any], key: Sequence[str]) -> int:
    """Insert a row, or bring the one with the same key up to date; returns its id.

    What the new row does not know, the old one keeps: a browser knows a model by its name alone.
    """
    row = {name: json.dumps(value) if isinstance(value, dict) else value for name, value in row.items()}
    changes = ', '.join(f'{name} = coalesce(excluded.{name}, {name})' for name in row if name not in key)
    return execute(
        f'INSERT INTO {table} ({", ".join(row)}) VALUES ({", ".join("?" * len(row))}) '
        f'ON CONFLICT ({", ".join(key)}) DO UPDATE SET {changes} RETURNING id', list(row.values())).fetchone()[0]
