"""Make the virtual environment of a stack, and do nothing when it is up to date.

    python3 requirements/make_env.py [STACK]

The reference stack goes to ``.venv``, a stack NAME to ``.venv-NAME`` with ``constraints-NAME.txt``. A run after a
failed or killed one goes on from there: pip leaves alone what is installed, and an mmcv that was compiled is kept. For
Linux and macOS; only the standard library is used, since nothing else is there yet.
"""
import fcntl
import glob
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / 'requirements'
PYTHON = 'python{}.{}'.format(*sys.version_info)
JOBS = int(os.environ.get('MAX_JOBS') or os.cpu_count())
# What a log says, and what that means to the person who reads it. The first that matches wins.
SYMPTOMS = {
    'No space left on device': 'the disk is full: free some space',
    'ensurepip is not': f'this Python makes no environments: install its venv package (Debian: {PYTHON}-venv)',
    'Killed signal|memory exhausted|allocate memory': 'the compiler ran out of memory: run again with MAX_JOBS=1',
    'fatal error: |error: command ': 'the compiler failed',
    # pip goes on after this one, to find that it has no versions to choose from.
    'NewConnection|NameResolution|ConnectTimeout|Max retries|Read ?timed ?out|ProxyError|SSLError|Connection broken':
        'the package index cannot be reached: check the network, and the proxy or index in `pip config list`',
    'Cannot install (.+) because these package': 'the package index has no {} that agrees with the constraints',
    'No matching distribution found for ([^ \n]+)': 'the package index has no {} for this Python and platform',
}


def fail(step, why):
    sys.exit(f'make_env: step {step} failed: {why}. The next run continues with it.')


def diagnose(log):
    found = ((re.search(pattern, log, re.IGNORECASE), meaning) for pattern, meaning in SYMPTOMS.items())
    return next((meaning.format(*match.groups()) for match, meaning in found if match), 'see the lines above')


def check_python(constraints):
    """The first line of a stack's constraints names the Python that they are for."""
    wanted, newer = re.match(r'#.*?Python (\d+\.\d+)( or newer)?', constraints).groups('')
    tried, this = tuple(map(int, wanted.split('.'))), sys.version_info[:2]
    if this < tried or this > tried and not newer:
        fail('python', f'Python {wanted}{newer} is needed, {sys.executable} is {sys.version.split()[0]}: '
                       f'install Python {wanted} and say `make PYTHON=python{wanted} ...`')


def check_compiler():
    compiler = os.environ.get('CXX', 'c++').split()[0]
    header = Path(sysconfig.get_path('include'), 'Python.h')
    if shutil.which(compiler) is None or not header.exists():
        missing = header if shutil.which(compiler) else f'C++ compiler ({compiler} is not on the PATH)'
        fail('mmcv', f'no {missing}, and mmcv must be compiled: install it (Debian: apt install g++ {PYTHON}-dev)')


def with_cuda():
    """Whether mmcv is to be built with its CUDA ops: there is a GPU, and a compiler for it."""
    return os.environ.get('CUDA_VISIBLE_DEVICES') != '' and glob.glob('/dev/nvidia[0-9]*') and shutil.which('nvcc')


class Environment:
    """The virtual environment of one stack."""

    def __init__(self, stack='reference'):
        suffix = '' if stack == 'reference' else f'-{stack}'
        self.constraints = REQUIREMENTS / f'constraints{suffix}.txt'
        if not self.constraints.exists():
            known = sorted(path.stem[len('constraints-'):] for path in REQUIREMENTS.glob('constraints-*.txt'))
            fail('start', f'no stack {stack}: there are {", ".join(["reference", *known])}')
        text = self.constraints.read_text()
        check_python(text)
        own = REQUIREMENTS / f'{stack}.txt'
        self.requirements = own if own.exists() else ROOT / 'requirements.txt'
        self.path = ROOT / f'.venv{suffix}'
        self.python, self.state = self.path / 'bin' / 'python', self.path / '.mmone'
        self.temporary = self.state / 'tmp'  # what a killed pip leaves there, the next run removes
        # mmcv or the fork's, kept for all environments: pip's own cache does not know for which torch it was compiled.
        self.mmcv, torch = (re.search(rf'^\S*{name}==\S+', text, re.MULTILINE).group() for name in ('mmcv', 'torch'))
        cache = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache')
        self.wheels = cache / 'mmone' / 'wheels' / f'{PYTHON}-{torch}-{"cuda" if with_cuda() else "cpu"}'
        # The path is in it because the scripts of a virtual environment do not survive a move.
        self.interpreter = f'{sys.version} {sys.base_prefix} {self.path}'
        files = [*(ROOT / name for name in ('setup.py', 'pyproject.toml', 'mmone/version.py', 'requirements.txt')),
                 self.constraints, *(path for path in REQUIREMENTS.glob('[!c]*.txt') if path.stem != 'docs'),
                 *(ROOT / 'mmone' / 'csrc').glob('*.[ch]')]
        inputs = [self.interpreter.encode(), *(path.read_bytes() for path in sorted(files))]
        self.key = hashlib.sha256(b'\0'.join(inputs)).hexdigest()
        # What each step still takes, in seconds on two cores, and when it began.
        self.seconds = dict(venv=6, torch=65, mmcv=0 if self.has_mmcv() else 400 / JOBS, requirements=50, check=10)
        self.began = {}

    def has_mmcv(self):
        return any(self.wheels.glob(f'{self.mmcv.replace("-", "_").replace("==", "-")}-*.whl'))

    def is_made(self):
        made = self.state / 'made'
        return self.python.exists() and made.exists() and made.read_text() == self.key

    def make(self):
        self.state.mkdir(parents=True, exist_ok=True)
        with open(self.state / 'lock', 'w') as self.lock:
            try:
                fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f'{self.path.name}: another run is making it, waiting', flush=True)
                fcntl.flock(self.lock, fcntl.LOCK_EX)
            if not self.is_made():
                (self.state / 'made').unlink(missing_ok=True)
                shutil.rmtree(self.temporary, ignore_errors=True)
                self.temporary.mkdir()
                self.make_steps()
                (self.state / 'made').write_text(self.key)

    def make_steps(self):
        print(f'Making {self.path.name}', flush=True)
        if not self.has_mmcv():
            check_compiler()  # already, so that nobody waits for torch's gigabytes to learn that there is none
        Thread(target=self.report, daemon=True).start()
        self.step('venv', self.make_venv)
        # First, since all that is compiled or resolved has to agree with it; and what mmcv is built with.
        self.step('torch', self.pip, 'install', 'torch', 'torchvision', 'numpy', 'setuptools', 'wheel', 'packaging',
                  'ninja', 'psutil')
        with ThreadPoolExecutor() as pool:
            both = [pool.submit(self.step, 'mmcv', self.build_mmcv),
                    pool.submit(self.step, 'requirements', self.install_requirements)]
        for step in both:
            step.result()
        self.step('check', self.check)

    def make_venv(self, step):
        made = self.state / 'venv'
        if not self.python.exists() or not made.exists() or made.read_text() != self.interpreter:
            for entry in self.path.iterdir():
                if entry != self.state:
                    shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
            self.run(step, sys.executable, '-m', 'venv', self.path)
            made.write_text(self.interpreter)
        # What a killed pip left: it would count a package with no RECORD yet as installed.
        for info in self.path.glob('lib/python*/site-packages/*.dist-info'):
            if not (info / 'RECORD').exists():
                shutil.rmtree(info)

    def build_mmcv(self, step):
        if self.has_mmcv():
            return
        folder = self.wheels / hashlib.sha256(str(self.path).encode()).hexdigest()[:12]  # of this environment alone
        shutil.rmtree(folder, ignore_errors=True)
        # Its setup.py imports torch: no isolation. Our compiler has no path, since ninja splits that at its spaces.
        self.pip(step, 'wheel', '--verbose', '--no-build-isolation', '--no-deps', '--no-cache-dir', '--no-binary=:all:',
                 f'--wheel-dir={folder}', self.mmcv, MMCV_WITH_OPS='1', MAX_JOBS=str(JOBS), CFLAGS='-g0 -O2',
                 CXXFLAGS='-g0 -O2', CXX='precompiled_cxx.py', MMONE_CXX=os.environ.get('CXX', 'c++'),
                 **({'FORCE_CUDA': '1'} if with_cuda() else {'CUDA_VISIBLE_DEVICES': ''}))
        wheel, = folder.iterdir()
        os.replace(wheel, self.wheels / wheel.name)  # where it is whole: somebody else may be looking for it
        folder.rmdir()

    def install_requirements(self, step):
        self.pip(step, 'install', '-r', self.requirements)
        self.pip(step, 'install', '--no-deps', '--no-build-isolation', '--editable', ROOT)

    def check(self, step):
        # By force: the same version, compiled for another torch, may be installed.
        self.pip(step, 'install', '--no-deps', '--no-index', '--force-reinstall', '-f', self.wheels, self.mmcv)
        self.pip(step, 'check')
        self.run(step, self.python, '-c', 'import mmcv.ops, torchvision.ops')

    def step(self, name, work, *args):
        """Do ``work(name, *args)``, which writes into the step's log."""
        (self.state / f'{name}.log').write_bytes(b'')
        self.began[name] = time.monotonic()
        work(name, *args)
        print(f'  {name:<12} done ({time.monotonic() - self.began.pop(name):.0f} s)', flush=True)
        self.seconds[name] = 0

    def report(self):
        """Say every 15 seconds what is being done, and how long all the rest will take."""
        while not time.sleep(15):
            left = dict(self.seconds)
            for name, began in self.began.copy().items():
                elapsed = time.monotonic() - began
                files = re.findall(rb'\[(\d+)/(\d+)\]', (self.state / f'{name}.log').read_bytes())  # ninja's count
                done, total = map(int, files[-1] if files else (0, 0))
                # The header that is compiled first takes as long as 16 files.
                left[name] = elapsed * (total - done) / (done + 16) if files else max(left[name] - elapsed, 0)
            rest = left['venv'] + left['torch'] + max(left['mmcv'], left['requirements']) + left['check']
            print(f'  {" and ".join(self.began)} ..., about {rest / 60:.1f} minutes left', flush=True)

    def pip(self, step, *args, **env):
        self.run(step, self.python, '-m', 'pip', *args, **env)

    def run(self, step, *command, **env):
        # A PYTHONPATH makes pip count as installed what the environment does not have.
        unwanted = ('PYTHONPATH', 'PYTHONHOME', 'PIP_TARGET', 'PIP_PREFIX', 'PIP_USER')
        environ = {key: value for key, value in os.environ.items() if key not in unwanted}
        # Constraints by variable, for the environments too in which pip builds packages; as an address, since pip
        # splits the variable at spaces.
        uri = self.constraints.as_uri()
        environ.update(PIP_CONSTRAINT=uri, PIP_BUILD_CONSTRAINT=uri, PIP_NO_INPUT='1', PIP_PROGRESS_BAR='off',
                       PIP_DISABLE_PIP_VERSION_CHECK='1', TMPDIR=str(self.temporary), **env)
        # setup.py of a package may call tools of the environment, such as ninja; mmcv's calls our compiler.
        environ['PATH'] = f'{self.python.parent}{os.pathsep}{REQUIREMENTS}{os.pathsep}{environ.get("PATH", os.defpath)}'
        log = self.state / f'{step}.log'
        with open(log, 'ab') as output:
            # The lock is handed down: a child that outlives us keeps the next run waiting until it is done.
            status = subprocess.call([str(arg) for arg in command], cwd=ROOT, env=environ, stdin=subprocess.DEVNULL,
                                     stdout=output, stderr=output, pass_fds=[self.lock.fileno()])
        if status:
            text = log.read_text(errors='replace')
            print('', *text.splitlines()[-25:], sep='\n')
            fail(step, f'{diagnose(text)} (whole log: {log})')


if __name__ == '__main__':
    try:
        environment = Environment(*sys.argv[1:2])
        if not environment.is_made():
            environment.make()
    except (KeyboardInterrupt, OSError) as error:
        sys.exit(f'make_env: {str(error) or "interrupted"}, the next run continues here')
