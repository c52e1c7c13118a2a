import os
import re
import shutil
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
# What mim and the config loader look for in an installed package's .mim folder.
MIM_FILES = ('configs', 'tools', 'model-index.yml')


def copy(source, target):
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns('__pycache__'))
    else:
        shutil.copy2(source, target)


def link(source, target):
    try:
        target.symlink_to(os.path.relpath(source, target.parent))
    except OSError:  # Windows lets only some users make links
        copy(source, target)


def fill_mim(package, put):
    """Make ``package/.mim`` anew, so that a file deleted from the source does not live on in it."""
    mim = Path(package, '.mim')
    shutil.rmtree(mim, ignore_errors=True)
    mim.mkdir(parents=True)
    for name in MIM_FILES:
        put(ROOT / name, mim / name)


class BuildPy(build_py):

    def run(self):
        super().run()
        if self.editable_mode:
            fill_mim(ROOT / 'mmone', link)
        else:
            fill_mim(Path(self.build_lib, 'mmone'), copy)


def requirements(name):
    """The requirements in ``requirements/<name>.txt`` and in the files that it includes."""
    found = []
    for line in (ROOT / 'requirements' / f'{name}.txt').read_text(encoding='utf-8').splitlines():
        line = line.partition('#')[0].strip()
        if line.startswith('-r '):
            found += requirements(line[len('-r '):].strip()[:-len('.txt')])
        elif line:
            found.append(line)
    return found


def extras():
    """What pip is to bring beside the runtime's requirements, by the names of the extras.

    mmcv is in none but ``mim``'s: pip builds it without operators, or not at all. ``mmcv-lite`` is apart, so that
    no library's extra writes it over an mmcv that is there.
    """
    def named(lines, *names):
        return [line for line in lines if re.match(r'[\w.-]+', line)[0] in names]

    mim, optional, export = requirements('mminstall'), requirements('optional'), requirements('export')
    lab, robustness = requirements('lab'), requirements('robustness')
    mmengine = named(mim, 'mmengine', 'setuptools')
    return {
        'backbone': mmengine,
        'classification': mmengine + named(optional, 'mmpretrain'),
        'detection': mmengine + named(optional, 'mmdet'),
        'segmentation': mmengine + named(optional, 'mmsegmentation', 'ftfy', 'regex'),
        'mmcv-lite': [line.replace('mmcv', 'mmcv-lite') for line in named(mim, 'mmcv')],
        'optional': mmengine + optional,
        'export': export,
        'lab': lab,
        'robustness': robustness,
        'all': mmengine + optional + export + lab + robustness,
        'mim': mim,
        'tests': requirements('tests'),
    }


def version():
    # Read, not imported: mmone need not be importable to be built.
    text = (ROOT / 'mmone' / 'version.py').read_text(encoding='utf-8')
    return re.search(r"__version__ = '([^']+)'", text).group(1)


def readme():
    path = ROOT / 'README.md'
    return path.read_text(encoding='utf-8') if path.exists() else ''


# What trains branches fast on a CPU. Optional: without GCC PyTorch's own operators do it, slower.
# OpenMP is not linked, so that the threads are those of the copy that PyTorch has loaded.
EXT = Extension(
    'mmone._ext', ['mmone/csrc/ext.c'], depends=['mmone/csrc/depthwise.h', 'mmone/csrc/norm.h'], optional=True,
    py_limited_api=True,
    extra_compile_args=['-O3', '-fopenmp', '-Wno-psabi'])

if 'develop' in sys.argv:  # `setup.py develop` of setuptools < 80 does not run build_py
    fill_mim(ROOT / 'mmone', link)

setup(
    name='mmone',
    version=version(),
    description='MobileOne backbones for OpenMMLab',
    long_description=readme(),
    long_description_content_type='text/markdown',
    keywords='computer vision, mobile, re-parameterization, OpenMMLab',
    license='Apache License 2.0',
    packages=find_packages(include=('mmone', 'mmone.*')),
    package_data={'mmone': ['py.typed'], 'mmone.lab': ['page/*']},
    python_requires='>=3.10',
    install_requires=requirements('runtime'),
    extras_require=extras(),
    entry_points={'console_scripts': ['mmone = mmone.cli:main']},
    ext_modules=[EXT] if sys.platform == 'linux' else [],
    options={'bdist_wheel': {'py_limited_api': 'cp310'}},
    cmdclass={'build_py': BuildPy},
    zip_safe=False,
)
