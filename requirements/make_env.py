"""Make the virtual environment of a stack, and do nothing when it is up to date.

    python3 requirements/make_env.py [STACK]

The reference stack goes to ``.venv``, a stack NAME to ``.venv-NAME`` with ``constraints-NAME.txt``. Every step leaves a
stamp once it has succeeded: a run after a failed or killed one continues with the first step whose stamp is missing or
whose inputs have changed. Only the standard library is used, since nothing else is there yet.
"""
import argparse
import contextlib
import fcntl
import glob
import hashlib
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / 'requirements'
# The constraints were resolved, and mmcv compiled, for this Python only.
PYTHON = (3, 11)
NINJA_PROGRESS = re.compile(rb'\[(\d+)/(\d+)\]')

# What a log says, and what that means to the person who reads it. The first that matches wins.
SYMPTOMS = (
    ('No space left on device', 'the disk is full: free some space'),
    ('ensurepip is not', 'this Python cannot make environments: install its venv package (Debian: python3.11-venv)'),
    ('Killed signal|virtual memory exhausted|cannot allocate memory',
     'the compiler ran out of memory: run again with MAX_JOBS=1'),
    ('fatal error: |error: command ', 'the compiler failed'),
    # pip goes on after this one, to find that it has no versions to choose from.
    ('NewConnectionError|NameResolutionError|Temporary failure in name resolution|ConnectTimeout|Max retries exceeded|'
     'ReadTimeout|Read timed out|ProxyError|SSLError|IncompleteRead|Connection broken',
     'the package index cannot be reached: check the network, and the proxy or index in `pip config list`'),
    ('Cannot install (.+) because these package versions',
     'the package index has no {} that agrees with the constraints'),
    ('No matching distribution found for ([^ \n]+)', 'the package index has no {} for this Python and platform'),
)
INTERRUPTED = 'make_env: interrupted, the next run continues here'


class StepError(Exception):
    """A step failed: the message says why and what to do."""


def constraints_file(stack):
    return REQUIREMENTS / ('constraints.txt' if stack == 'reference' else f'constraints-{stack}.txt')


def pinned(constraints, name):
    return re.search(rf'^{name}==(\S+)', constraints.read_text(), re.MULTILINE).group(1)


def digest(*parts):
    """A hash of files (by content) and strings."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(part.read_bytes() if isinstance(part, Path) else part.encode())
        sha.update(b'\0')
    return sha.hexdigest()


def duration(seconds):
    minutes, seconds = divmod(int(seconds), 60)
    return f'{minutes}m{seconds:02d}s' if minutes else f'{seconds}s'


def diagnose(log):
    for pattern, meaning in SYMPTOMS:
        found = re.search(pattern, log, re.IGNORECASE)
        if found:
            return meaning.format(*found.groups())
    return 'see the lines above'


def with_cuda():
    """Whether mmcv is to be built with its CUDA ops: there is a GPU, and a compiler for it."""
    visible = os.environ.get('CUDA_VISIBLE_DEVICES') != ''
    return visible and bool(glob.glob('/dev/nvidia[0-9]*')) and shutil.which('nvcc') is not None


def wheel_folder(constraints):
    """Where the user's mmcv wheels for this torch are kept; their file names tell mmcv, Python and platform."""
    cache = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache')
    device = 'cuda' if with_cuda() else 'cpu'
    return cache / 'mmone' / 'wheels' / f'torch-{pinned(constraints, "torch")}-{device}'


def cached_wheel(constraints):
    platform = sysconfig.get_platform().replace('-', '_').replace('.', '_')
    tag = 'cp{}{}'.format(*PYTHON)
    name = f'mmcv-{pinned(constraints, "mmcv")}-{tag}-{tag}-{platform}.whl'
    return wheel_folder(constraints) / name


def check_python():
    if sys.version_info[:2] != PYTHON:
        wanted = '{}.{}'.format(*PYTHON)
        raise StepError(f'Python {wanted} is needed, {sys.executable} is {sys.version.split()[0]}: '
                        f'install Python {wanted} and say `make PYTHON=python{wanted} ...`')


def check_compiler():
    compiler = os.environ.get('CXX', 'c++').split()[0]
    if shutil.which(compiler) is None:
        raise StepError(f'no C++ compiler ({compiler} is not on the PATH), and mmcv must be compiled: '
                        'install one (Debian: apt install g++) or set CXX')
    if not Path(sysconfig.get_path('include'), 'Python.h').exists():
        raise StepError('Python.h is missing, and mmcv must be compiled: install the headers of this Python '
                        '(Debian: apt install python3.11-dev)')


class Environment:
    """The virtual environment of one stack.

    Args:
        stack (str): ``reference``, or NAME where there is a ``constraints-NAME.txt``.
    """

    def __init__(self, stack):
        self.path = ROOT / ('.venv' if stack == 'reference' else f'.venv-{stack}')
        self.python = self.path / 'bin' / 'python'
        self.state = self.path / '.mmone'
        self.constraints = constraints_file(stack)
        if not self.constraints.exists():
            known = [path.stem[len('constraints-'):] for path in REQUIREMENTS.glob('constraints-*.txt')]
            raise StepError(f'no stack {stack}: there are {", ".join(["reference", *sorted(known)])}')
        # The inputs of each step, those of the steps before it included: what changes one outdates all that follow.
        # The path is one of them because the scripts of a virtual environment do not survive a move.
        interpreter = digest(sys.version, sys.base_prefix, str(self.path))
        constrained = digest(interpreter, self.constraints)
        names = ('mminstall', 'runtime', 'optional', 'export', 'tests')
        required = digest(constrained, ROOT / 'requirements.txt', *(REQUIREMENTS / f'{name}.txt' for name in names))
        package = digest(required, *(ROOT / name for name in ('setup.py', 'pyproject.toml', 'mmone/version.py')),
                         *sorted((ROOT / 'mmone' / 'csrc').glob('*.[ch]')))
        self.step = 'start'
        self.steps = {
            'venv': (self.make_venv, interpreter),
            'torch': (self.install_torch, constrained),
            'build tools': (self.install_build_tools, constrained),
            'mmcv': (self.install_mmcv, constrained),
            'requirements': (self.install_requirements, required),
            'mmone': (self.install_mmone, package),
            'check': (self.check, package),
        }

    # Steps

    def make_venv(self):
        for entry in self.path.iterdir():
            if entry == self.state:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        self.run([sys.executable, '-m', 'venv', self.path], 'making')

    def install_torch(self):
        # First, because everything else that is compiled or resolved has to agree with it.
        self.pip('install', 'torch', 'torchvision')

    def install_build_tools(self):
        # mmcv's setup.py imports torch and pkg_resources: it is built with what stands here, not in isolation.
        self.pip('install', 'setuptools', 'wheel', 'ninja', 'psutil')

    def install_mmcv(self):
        wheel = cached_wheel(self.constraints)
        if not wheel.exists():
            check_compiler()
            self.build_mmcv(wheel)
        # By force: the same version, built for another torch, may be installed.
        self.pip('install', '--no-deps', '--no-index', '--force-reinstall', wheel)

    def build_mmcv(self, wheel):
        flags = {
            'MMCV_WITH_OPS': '1',
            'MAX_JOBS': os.environ.get('MAX_JOBS') or str(os.cpu_count()),
            'CFLAGS': '-g0 -O2',
            'CXXFLAGS': '-g0 -O2',
            # By name, since ninja splits a path at its spaces.
            'PATH': f'{REQUIREMENTS}{os.pathsep}{os.environ.get("PATH", os.defpath)}',
            'CXX': 'precompiled_cxx.py',
            'MMONE_CXX': os.environ.get('CXX', 'c++'),
            **({'FORCE_CUDA': '1'} if with_cuda() else {'CUDA_VISIBLE_DEVICES': ''}),
        }
        folder = self.state / 'wheel'
        shutil.rmtree(folder, ignore_errors=True)
        # pip's own cache does not know which torch a wheel was built against.
        self.pip('wheel', '--verbose', '--no-build-isolation', '--no-cache-dir', '--no-deps', '--no-binary', 'mmcv',
                 '--wheel-dir', folder, f'mmcv=={pinned(self.constraints, "mmcv")}',
                 env=flags, doing='compiling, once for all environments with this torch')
        built, = folder.glob('*.whl')
        # Under its name the wheel is whole: somebody else may be looking for it.
        wheel.parent.mkdir(parents=True, exist_ok=True)
        partial = wheel.with_suffix(f'.{os.getpid()}')
        shutil.move(built, partial)
        os.replace(partial, wheel)

    def install_requirements(self):
        self.pip('install', '-r', ROOT / 'requirements.txt')

    def install_mmone(self):
        self.pip('install', '--no-deps', '--no-build-isolation', '--editable', ROOT)

    def check(self):
        self.pip('check', doing='checking')
        self.run([self.python, '-c', 'import mmcv.ops, torchvision.ops'], 'checking')

    # How a step runs

    def pip(self, command, *args, env=None, doing='installing'):
        self.run([self.python, '-m', 'pip', '--no-input', command,
                  *(() if command == 'check' else ('--progress-bar=off', )), *args], doing, env)

    def environ(self, extra):
        # A PYTHONPATH makes pip count as installed what the environment does not have.
        env = {key: value for key, value in os.environ.items()
               if key not in ('PYTHONPATH', 'PYTHONHOME', 'PIP_TARGET', 'PIP_PREFIX', 'PIP_USER')}
        # By variable, because the environments in which pip builds other packages must be constrained too; as an
        # address, because pip splits the variable at spaces.
        uri = self.constraints.as_uri()
        env.update(PIP_CONSTRAINT=uri, PIP_BUILD_CONSTRAINT=uri, PIP_DISABLE_PIP_VERSION_CHECK='1', **(extra or {}))
        # setup.py of a package may call tools of the environment, such as ninja.
        env['PATH'] = f'{self.python.parent}{os.pathsep}{env.get("PATH", os.defpath)}'
        return env

    def run(self, command, doing, env=None):
        """Run a command into the step's log, and show how long it has been at it."""
        start = time.monotonic()
        shown = start
        # The lock is handed down: a child that outlives us keeps the next run waiting until it is done.
        child = subprocess.Popen([str(arg) for arg in command], cwd=ROOT, env=self.environ(env), pass_fds=(self.lock, ),
                                 stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        progress, tail = '', b''
        try:
            while True:
                ready, _, _ = select.select([child.stdout], [], [], 1)
                if ready:
                    chunk = os.read(child.stdout.fileno(), 65536)
                    if not chunk:
                        break
                    self.log.write(chunk)
                    self.log.flush()
                    tail = tail[-64:] + chunk
                now = time.monotonic()
                for done, total in NINJA_PROGRESS.findall(tail):
                    left = (now - start) * (int(total) - int(done)) / int(done)
                    progress = f', {int(done)} of {int(total)} files, about {duration(left)} left'
                if now - shown >= (1 if sys.stdout.isatty() else 15):
                    shown = now
                    self.say(f'{doing} ({duration(now - start)}{progress})', final=False)
            status = child.wait()
        finally:
            if child.poll() is None:
                child.terminate()
                child.wait()
        if status:
            raise subprocess.CalledProcessError(status, command[0])

    def say(self, text, final=True):
        line = f'  {self.step:<12} {text}'
        if sys.stdout.isatty():
            print(f'\r\033[K{line}', end='\n' if final else '', flush=True)
        else:
            print(line, flush=True)

    def stamp(self, step):
        return self.state / f'{step.replace(" ", "-")}.done'

    def is_done(self, step):
        try:
            return self.stamp(step).read_text() == self.steps[step][1]
        except OSError:
            return False

    def is_current(self):
        return self.python.exists() and all(map(self.is_done, self.steps))

    def remove_half_installed(self):
        """Remove what pip left when it was killed: it would count a package with no RECORD yet as installed."""
        for site in self.path.glob('lib/python*/site-packages'):
            for info in site.glob('*.dist-info'):
                if not (info / 'RECORD').exists():
                    shutil.rmtree(info)
            for old in site.glob('~*'):
                shutil.rmtree(old)

    @contextlib.contextmanager
    def locked(self):
        self.state.mkdir(parents=True, exist_ok=True)
        with open(self.state / 'lock', 'w') as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f'{self.path.name}: another run is making it, waiting', flush=True)
                fcntl.flock(file, fcntl.LOCK_EX)
            self.lock = file.fileno()
            yield

    def make(self):
        if self.is_current():
            return
        with self.locked():
            if not self.is_current():
                self.make_steps()

    def make_steps(self):
        print(f'Making {self.path.name}', flush=True)
        if not self.is_done('mmcv') and not cached_wheel(self.constraints).exists():
            # Already here, so that nobody waits for torch's gigabytes to learn that a compiler is missing.
            self.step = 'mmcv'
            check_compiler()
        self.remove_half_installed()
        names = list(self.steps)
        done = [name for name in names if self.is_done(name)] if self.python.exists() else []
        first = next(i for i, name in enumerate(names) if name not in done)
        for name in names[:first]:
            self.step = name
            self.say('done before')
        # What a step changes, the ones after it have to see.
        for name in names[first:]:
            self.stamp(name).unlink(missing_ok=True)
        for name in names[first:]:
            self.make_step(name)

    def make_step(self, name):
        self.step = name
        action, key = self.steps[name]
        start = time.monotonic()
        log = self.stamp(name).with_suffix('.log')
        try:
            with open(log, 'wb') as self.log:
                action()
        except subprocess.CalledProcessError:
            text = log.read_text(errors='replace')
            print('', *text.splitlines()[-25:], sep='\n')
            raise StepError(f'{diagnose(text)} (whole log: {log})') from None
        self.stamp(name).write_text(key)
        self.say(f'done ({duration(time.monotonic() - start)})')


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('stack', nargs='?', default='reference')
    stack = parser.parse_args().stack
    # As an exception, so that the child is stopped on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(INTERRUPTED))
    environment = None
    try:
        check_python()
        environment = Environment(stack)
        environment.make()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except (StepError, OSError) as error:
        step = environment.step if environment else 'python'
        sys.exit(f'make_env: step {step} failed: {error}. The next run continues with it.')


if __name__ == '__main__':
    main()
