"""Options: what is wrong is said by file and line, the command line wins over the file,
a dump is a configuration that gives the same dump, the man page knows every option, and
SIGHUP takes over what it can."""
from harness import *

d = tempfile.mkdtemp(prefix='sinkd-test.')


def conf(text):
    path = os.path.join(d, 'sinkd.conf')
    with open(path, 'w') as f:
        f.write(text)
    return path


try:
    # Mistakes, each with its line.
    path = conf('# a comment\n[sinkd]\nmodel = m.gguf ; a comment\nslots = many\nthreads = -1\ntemperature = nan\n'
                'backend = gpu\nno-such = 1\nslots = 3\nmax-stored-bytes = 5X\nconfig = /x\nhelp = yes\njunk\n'
                '[other]\nchunk = 7\n')
    r = run_sinkd('--config', path, '--check-config')
    check_equal(r.code, 2, 'exit status')
    lines = {int(m.group(1)): m.group(2) for m in re.finditer(rf'{re.escape(path)}:(\d+): (.*)', r.err)}
    check_equal(sorted(lines), [4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15], 'lines that are wrong: ' + r.err)
    for line, word in ((4, 'slots'), (5, 'threads'), (6, 'temperature'), (7, 'auto|cpu|cuda'), (8, 'no such option'),
                       (9, 'twice'), (10, 'max-stored-bytes'), (11, 'command line'), (15, '[sinkd]')):
        check(word in lines[line], f'line {line}', lines[line])
    check_equal(run_sinkd('--config', path, '--dump-config').code, 2, 'a dump of a wrong file')
    r = run_sinkd('--config', os.path.join(d, 'absent'), '--check-config')
    check(r.code == 2 and 'No such file' in r.err, 'a file that is not there', r.err)
    r = run_sinkd('--config', conf('[sinkd]\nmodel = ' + 'x' * 500 + '\n'), '--check-config')
    check(r.code == 2 and ':2: a line of over' in r.err, 'a long line', r.err)
    r = run_sinkd('--config', d, '--check-config')
    check(r.code == 2, 'a directory', r.err)

    # The same on the command line.
    for args, word in ((['--slots'], 'missing'), (['--slots=-1'], 'slots'), (['--nope', '1'], 'no such option'), (['x'], '--'),
                       (['--help=1'], 'no value'), (['--slots', '4097'], '0 to 4096'), (['-v'], '--')):
        r = run_sinkd(*args)
        check(r.code == 2 and word in r.err, f'{args}', r.code, r.err)
    r = run_sinkd('--config', conf('[sinkd]\n'), '--check-config')
    check(r.code == 1 and 'no model' in r.err, 'no model', r.err)
    r = run_sinkd('--config', conf('[sinkd]\nmodel = x\n'), '--check-config')
    check_equal(r.code, 0, 'a good one')

    # Who wins; units; the way round.
    path = conf('[sinkd]\nmodel = from-file\nslots = 5\nmax-stored-bytes = 3M\ntop-p = 0.5\n')
    r = run_sinkd('--slots', '6', '--config', path, '--top-k=7', '--dump-config').text
    for line in ('model = from-file', 'slots = 6', 'max-stored-bytes = 3M', 'top-p = 0.5', 'top-k = 7', 'sinks = 4'):
        check(line + '\n' in r, line, r)
    check_equal(run_sinkd('--config', conf(r), '--dump-config').text, r, 'the dump of a dump')

    # The man page and the help have the same options.
    helped = set(re.findall(r'^  --([a-z-]+)', run_sinkd('--help').text, re.M))
    man = open(os.path.join(SRCDIR, 'daemon/sinkd.8')).read()
    manned = {m.replace('\\-', '-') for m in re.findall(r'^\.TP\n\.BI? \\-\\-([a-z\\-]+)', man, re.M)}
    check_equal(sorted(manned), sorted(helped), 'options in the man page')
    check(len(helped) > 25, 'options', len(helped))
    check(re.match(r'sinkd \d+\.\d+', run_sinkd('--version').text), 'version')

    # SIGHUP.
    path = conf(f'[sinkd]\nlog-level = info\nslots = 2\n')
    with Daemon('--config', path) as daemon:
        conf('[sinkd]\nlog-level = debug\nslots = 3\n')
        daemon.process.send_signal(signal.SIGHUP)
        wait_for(lambda: 'slots: has changed' in daemon.log_text(), what='what wants a restart')
        wait_for(lambda: 'log-level: taken over' in daemon.log_text(), what='log level')
        daemon.rpc().call('hello', client='seen')
        wait_for(lambda: 'is seen' in daemon.log_text(), what='a line of debug')
        conf('[sinkd]\nlog-level = loud\nslots = 4\n')
        daemon.process.send_signal(signal.SIGHUP)
        wait_for(lambda: ':2: log-level' in daemon.log_text(), what='the mistake')
        wait_for(lambda: 'as it was' in daemon.log_text(), what='nothing taken over')
        daemon.rpc().call('hello')

    # What every new session gets is one that it can have.
    with Daemon('--top-p', 0, '--window', 5000) as daemon:
        info = daemon.rpc().call('session.create', session='a')
        check_equal(info['window'], 1019, 'a window that is cut to the model')
        check_equal(daemon.rpc().call('session.info', session='a')['top_p'], 0, 'top_p')
        check('new sessions get 1019' in daemon.log_text(), 'a warning', daemon.log_text())
    with Daemon('--sinks', 5000, start=False) as daemon:
        daemon.start(ready=False)
        check_equal(daemon.process.wait(30 * SLOW), 1, 'exit status with sinks that the model has no room for')
        daemon.process = None
        check('window_too_large: sinks 5000' in daemon.log_text(), 'the reason', daemon.log_text())

    # Tools.
    r = run_sinkd('--gguf', TINY)
    check(r.code == 0 and 'llama' in r.text, 'inspect', r.text, r.err)
    r = run_sinkd('--gguf', path)
    check(r.code == 1 and 'bad_model' in r.err, 'inspect what is none', r.err)
    r = run_sinkd('--model', TINY, '--tokenize', 'Hello there')
    check(r.code == 0 and all(re.match(r'\d+\t', l) for l in r.text.splitlines()) and r.text, 'tokenize', r.text, r.err)
finally:
    shutil.rmtree(d, ignore_errors=True)
