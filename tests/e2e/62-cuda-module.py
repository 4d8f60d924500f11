"""Which backend: a module of another version, one that is none, none at all, no cuBLAS, no driver, no device: cuda is
refused by name with the reason, auto computes on the CPU and says so once.  The CUDA module need not be built for this."""
from harness import *

OTHER = 'struct { unsigned version; const char *build; } sinkd_backend = { 999, "9.9" };'
EMPTY = 'int nothing;'
LACKS = 'extern int sinkd_no_such_thing; int *sinkd_backend = &sinkd_no_such_thing;'


def run(backend, module=None, mode=None, options=(), good=None):
    """Starts a daemon; its log, its exit status (None: it became ready)."""
    args = ['--backend', backend, *options, *(['--cuda-module', module] if module else [])]
    env = {'CUSIM': mode or '', 'ASAN_OPTIONS': os.environ.get('ASAN_OPTIONS', '')}
    with Daemon(*args, env=env, start=False) as d:
        try:
            d.start()
        except Failed:
            check(d.process.poll() is not None, 'it ended', d.log_text()[-500:])
            status, d.process = d.process.returncode, None
            return d.log_text(), status
        about = d.rpc().call('server.info')['backend']
        check_equal(about.split(':')[0], good, 'the backend in use')
        return d.log_text(), None


with tempfile.TemporaryDirectory() as folder:
    def made(name, text, *more):
        path = os.path.join(folder, name + '.so')
        p = subprocess.run(['gcc', '-shared', '-fPIC', '-x', 'c', '-', '-o', path, *more], input=text.encode())
        if p.returncode != 0:
            skip('no gcc to make a module with')
        return path

    # As where cuBLAS is not installed: what the module was linked with is gone.
    absent = made('libblas_of_cuda', EMPTY)
    orphan = made('orphan', EMPTY, '-Wl,--no-as-needed', '-L' + folder, '-lblas_of_cuda')
    os.unlink(absent)

    cases = [
        (dict(module=made('other', OTHER)), 'warning', 'of another version: interface 999 of sinkd 9.9'),
        (dict(module=made('empty', EMPTY)), 'warning', 'is not a backend'),
        (dict(module=made('lacks', LACKS)), 'warning', 'sinkd_no_such_thing'),
        (dict(module=orphan), 'warning', 'the module cannot be opened: libblas_of_cuda.so: '),
        (dict(module=os.path.join(folder, 'absent.so')), 'warning', 'there is no module ' + folder),
    ]
    cusim = os.path.join(os.path.dirname(SINKD), 'sinkd-cusim.so')
    if os.path.exists(cusim):
        cases += [
            (dict(module=cusim, mode='nodevice'), 'info', 'no GPU that CUDA can use'),
            (dict(module=cusim, mode='nodriver'), 'info', 'no GPU that CUDA can use'),
            (dict(module=cusim, mode='memory:64K'), 'warning', 'memory'),
            (dict(module=cusim, mode='fail:cublasCreate:1'), 'warning', 'cuBLAS: start: '),
            (dict(module=cusim, options=('--kv-type', 'q8')), 'warning', 'no caches of kv-type q8'),
            (dict(module=cusim, options=('--activation-bits', '8')), 'warning', 'activations of 8 bits'),
            (dict(module=cusim, mode='nodevice', options=('--activation-bits', '8')), 'info', 'no GPU that CUDA can use'),
        ]
        run('auto', cusim, good='cuda')
    for how, level, text in cases:
        log, status = run('cuda', **how)
        check_equal(status, 1, f'cuda, {text}: exit status')
        check(text in log, f'cuda: {text}', log[-500:])
        log, status = run('auto', **how, good='cpu')
        lines = [line for line in log.splitlines() if 'backend cuda is not used' in line]
        check_equal(len(lines), 1, f'auto, {text}: lines')
        check(text in lines[0] and f' {level}: ' in lines[0], f'auto: {text}', lines)

if not os.path.exists(cusim):
    print('no simulated CUDA module: a device that is not there was not tried')
