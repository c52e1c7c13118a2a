"""The command ``mmone`` itself: its help, its tools, its errors, and what it tells of models and machine."""
import importlib.metadata
import os
import re
import runpy
import subprocess
import sys
import warnings

import pytest
from mmengine.config import Config

from mmone.cli import COMMANDS, info, main
from mmone.cli.boundary import error_boundary, warnings_on_stdout
from mmone.cli.parser import Parser
from mmone.engine.explain import SampleError
from mmone.errors import InputError
from mmone.zoo import list_models, root
from tests.kit import ROOT, command, environment

TOOLS = dict(
    browse_dataset='browse', convert='convert', demo='demo', export='export', get_flops='flops', make_shapes='shapes',
    predict='predict', print_config='config', reparameterize='reparameterize', test='test', train='train')


def shown(capsys, *argv):
    """What a command prints before it ends by itself."""
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 0
    return capsys.readouterr().out


# Runs help after help and tells what each has imported.
HELP = '''
import contextlib, io, sys
from mmone.cli import COMMANDS, main

for argv in ([], ['--version'], ['train', 'nowhere.py'], *([name, '--help'] for name in COMMANDS)):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        main(argv)
    print(argv, sorted({name.partition('.')[0] for name in sys.modules} - set(sys.stdlib_module_names)))
'''


def test_help_imports_the_standard_library_only():
    """So it comes at once: importing torch alone takes seconds."""
    result = subprocess.run([sys.executable, '-S', '-c', HELP], cwd=ROOT, env=environment(), capture_output=True,
                            text=True, check=True)
    lines = result.stdout.splitlines()
    assert len(lines) == 3 + len(COMMANDS)
    for line in lines:
        assert line.endswith("['__main__', 'mmone']"), line


def test_alone_it_lists_the_commands(capsys):
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in COMMANDS:
        line, = (line for line in lines if line.startswith(f'  {name} '))
        assert line.endswith('.')
    assert {path.stem for path in (ROOT / 'mmone/cli').glob('*.py')} - {
        '__init__', '__main__', 'boundary', 'output', 'parser', 'studies'} == set(COMMANDS)


def test_unknown_command_is_one_line(capsys):
    with pytest.raises(SystemExit) as stop:
        main(['trian', '--resume'])
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.startswith('mmone: error: ') and "'trian'" in error and error.count('\n') == 1


@pytest.mark.parametrize('name', COMMANDS)
def test_help_teaches(name, capsys):
    text = shown(capsys, name, '--help')
    if name != 'info':
        assert re.search(rf'^  mmone {name}\b', text, re.MULTILINE)


@pytest.mark.parametrize('tool', TOOLS)
def test_tool_is_its_command(tool, capsys, monkeypatch):
    monkeypatch.setattr(sys, 'argv', [f'{tool}.py', '--help'])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / 'tools' / f'{tool}.py'), run_name='__main__')
    assert stop.value.code == 0
    usage, rest = capsys.readouterr().out.split('\n\n', 1)
    same_usage, same_rest = shown(capsys, TOOLS[tool], '--help').split('\n\n', 1)
    assert rest == same_rest
    assert usage.split()[1] == (tool if tool == 'make_shapes' else f'{tool}.py')
    assert usage.split()[2:] == same_usage.split()[3:]


@pytest.mark.parametrize('parameter, remedy', [
    ('trust', ' (--trust)'),
    ('overwrite', ' (--force)'),
    ('cfg_options', ' (--cfg-options)'),
    ('drop_head', ' (mmone convert CHECKPOINT OUT --drop-head)'),
    ('launcher', ''),
    ('checkpoint', ''),
    (None, ''),
])
def test_error_names_the_flag_if_the_command_has_it(parameter, remedy, capsys):
    parser = Parser('mmone x', '')
    parser.add_argument('checkpoint')
    parser.add_config()
    parser.add_trust()
    parser.add_force('')
    with pytest.raises(SystemExit) as stop, error_boundary(parser):
        raise InputError('this\nis wrong', parameter)
    assert stop.value.code == 2
    assert capsys.readouterr().err == f'mmone x: error: this is wrong{remedy}\n'


@pytest.mark.parametrize('variable', ['RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK'])
def test_other_ranks_tell_what_they_alone_know(variable, capsys, monkeypatch):
    monkeypatch.setenv(variable, '1')
    for error, lines in ((InputError('all know it'), 0), (SampleError('one knows it'), 1)):
        with pytest.raises(SystemExit) as stop, error_boundary(Parser('mmone x', '')):
            raise error
        assert stop.value.code == 2
        assert capsys.readouterr().err.count('\n') == lines
    with pytest.raises(SystemExit) as stop:
        main(['train', 'nowhere.py'])
    assert stop.value.code == 2
    assert capsys.readouterr().err == ''


def test_warnings_are_in_the_log_until_the_command_ends(capsys):
    before = warnings.showwarning
    with pytest.raises(ZeroDivisionError), warnings_on_stdout():
        warnings.warn('beware', UserWarning, stacklevel=1)
        raise ZeroDivisionError
    assert warnings.showwarning is before
    assert 'UserWarning: beware' in capsys.readouterr().out


def test_local_rank_of_old_launchers(monkeypatch):
    monkeypatch.setattr(os, 'environ', {})
    parser = Parser('mmone x', '')
    parser.add_launcher()
    assert vars(parser.parse_args(['--local_rank=3', '--launcher', 'pytorch'])) == dict(launcher='pytorch')
    assert os.environ == dict(LOCAL_RANK='3')


def test_name_of_the_model_zoo_is_a_config(capsys):
    command('config', 'mobileone-s2_8xb32_in1k', '--cfg-options', 'model.head.num_classes=7')
    cfg = Config.fromstring(capsys.readouterr().out, '.py')
    assert cfg.model.backbone.arch == 's2' and cfg.model.head.num_classes == 7


def test_zoo(capsys):
    command('zoo')
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ['name', 'task', 'parameters', 'result', 'weights']
    assert [line.split()[0] for line in lines] == list_models()
    line = next(line for line in lines if line.startswith('mobileone-s0_8xb32_in1k '))
    assert re.search(r' classification +2\.08 M +ImageNet-1k: Top 1 Accuracy 71\.34, .* published$', line)
    assert any('not trained yet' in line for line in lines)

    command('zoo', 'Detection', 's0')
    _, *lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [name for name in list_models('detection') if 's0' in name]
    with pytest.raises(SystemExit) as stop:
        command('zoo', 'resnet')
    assert stop.value.code == 2
    assert 'resnet' in capsys.readouterr().err


def test_info(capsys):
    command('info')
    told = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line.startswith('  '))
    assert told['torch'] == importlib.metadata.version('torch')
    assert told['mmcv._ext'].endswith('.so')
    assert told['configs'] == str(root() / 'configs')
    assert told['Python'].startswith('.'.join(map(str, sys.version_info[:3])))


# A machine that has nothing but NumPy.
BARE = '''
import importlib.abc, sys
from mmone.cli import info, main

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in set(info.PACKAGES) - {'numpy'}:
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)

sys.meta_path.insert(0, Blocked())
raise SystemExit(main(['info']))
'''


def test_info_where_nothing_is_installed():
    result = subprocess.run([sys.executable, '-c', BARE], env=environment(), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ''
    assert len(re.findall(r'^  \S+ +not installed$', result.stdout, re.MULTILINE)) == len(info.PACKAGES) - 1
    assert re.search(r'^  numpy +\d', result.stdout, re.MULTILINE)
    assert re.search(r'^  GPU +unknown.*torch', result.stdout, re.MULTILINE)
    assert re.search(r'^  mmone\._ext +not loaded: ', result.stdout, re.MULTILINE)
    assert re.search(r'^  \.onnx +onnxruntime not installed$', result.stdout, re.MULTILINE)


def test_info_looks_for_every_requirement():
    known = {re.sub('[-_.]+', '-', name).lower() for names in info.PACKAGES.values() for name in names}
    for file in ('mminstall', 'runtime', 'optional', 'export'):
        for line in (ROOT / f'requirements/{file}.txt').read_text().splitlines():
            name = re.match(r'[\w.-]*', line)[0].lower()
            assert not name or name.startswith('-') or name in known, f'{file}.txt has {name}'
