"""The machine that measures, as the lab's file has it. Imports none of the libraries that it names."""
import hashlib
import json
import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .store import Machine

# Those that compute, or that write what is computed.
LIBRARIES = ('mmone', 'torch', 'torchvision', 'timm', 'onnx', 'onnxruntime', 'openvino', 'ncnn', 'ai_edge_litert',
             'coremltools', 'numpy')


def this_machine() -> Machine:
    """This machine; its key is that of its processors and kind of system, whatever is installed."""
    model, cores, gpus = processor()[0], usable_cores(), _gpus()
    system = f'{platform.system()} {platform.machine()}'
    identity = json.dumps([model, cores, gpus, system])
    return Machine(
        key=hashlib.sha256(identity.encode()).hexdigest()[:16],
        name=', '.join([model, f'{cores} core{"s" if cores != 1 else ""}', *gpus]), kind='computer', processor=model,
        cores=cores, memory=_memory(), system=platform.platform(), governor=_governor(), versions=_versions())


def processor() -> tuple[str, set[str]]:
    """Model and features of the CPU, as far as the system tells."""
    if Path('/proc/cpuinfo').is_file():
        text = Path('/proc/cpuinfo').read_text()
        name = re.search(r'^model name\s*:\s*(.+)', text, re.MULTILINE)
        features = re.search(r'^(?:flags|Features)\s*:\s*(.+)', text, re.MULTILINE)
        return (name[1] if name else platform.machine()), set(features[1].split() if features else ())
    model = platform.processor() or platform.machine()
    if platform.system() == 'Darwin':
        model = subprocess.run(['sysctl', '-n', 'machdep.cpu.brand_string'], capture_output=True,
                               text=True).stdout.strip() or model
    return model, set()


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def load_average() -> float | None:
    """Of the last minute; None where the system has none."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


def _gpus() -> list[str]:
    """Models of NVIDIA's GPUs, as its driver on Linux tells."""
    found = sorted(Path('/proc/driver/nvidia/gpus').glob('*/information'))
    models = (re.search(r'^Model:\s*(.+)', path.read_text(), re.MULTILINE) for path in found)
    return [match[1].strip() for match in models if match]


def _memory() -> int | None:
    try:
        return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    except (AttributeError, ValueError, OSError):
        return None


def _governor() -> str | None:
    """Of the cores' frequency; all of them, where they differ."""
    paths = Path('/sys/devices/system/cpu').glob('cpu[0-9]*/cpufreq/scaling_governor')
    return ', '.join(sorted({path.read_text().strip() for path in paths})) or None


def _versions() -> dict[str, str]:
    found = {'Python': platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
