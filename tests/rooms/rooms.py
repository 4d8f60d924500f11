#!/usr/bin/env python3
"""Holds the sources against the table of rooms: who may include what, and what a room
must never do.  ROOMS below is that table as a program (CONTRIBUTING.md has it in words);
a new room or dependency is a row here.

Fails naming file:line.  Long files and functions are listed, and fail nothing.  It first
proves that it can fail, on a tree of small offences (self_test).  It reads lines, not C:
an offence spelled by a macro goes unseen.
"""
import os
import re
import sys
import tempfile

LIBC = """aio alloca assert ctype dirent dlfcn errno fcntl features fenv float getopt grp inttypes
    langinfo limits locale malloc math poll pwd sched signal stdalign stdarg stdatomic stdbool stddef stdint
    stdio stdlib string strings syslog termios time unistd wchar
    sys/eventfd sys/file sys/ioctl sys/mman sys/prctl sys/queue sys/random sys/resource sys/stat sys/statvfs
    sys/syscall sys/time sys/types sys/uio sys/utsname sys/wait linux/futex linux/memfd
    linux/close_range sys/sysinfo sys/auxv sys/signalfd sys/timerfd""".split()
GROUPS = {  # what a system header belongs to, by the beginning of its name
    'event2/': 'libevent', 'event.h': 'libevent', 'msgpack': 'msgpack', 'sqlite3': 'sqlite',
    'pcre2': 'pcre2', 'ini.h': 'inih', 'xxhash': 'xxhash', 'systemd/sd-journal': 'journal',
    'systemd/': 'systemd', 'editline/': 'libedit', 'histedit': 'libedit', 'pthread': 'pthread',
    'cuda': 'cuda', 'cublas': 'cuda', 'type_traits': 'cuda', 'immintrin': 'simd', 'x86intrin': 'simd', 'cpuid': 'simd',
    'arm_neon': 'simd', 'sys/socket': 'sockets', 'sys/un.h': 'sockets', 'netinet/': 'sockets',
    'arpa/': 'sockets', 'netdb': 'sockets', 'sys/epoll': 'epoll', 'cmocka': 'cmocka',
}
PUBLIC_SESSION = ['daemon/session/' + h for h in ('engine.h', 'event.h', 'row.h', 'store.h')]

# room: (what of ours it may include, which groups of system headers, what it must not call)
NO_EXIT = ('exit', '_exit', 'quick_exit')
NO_PRINT = ('printf', 'fprintf', 'vprintf', 'vfprintf', 'puts', 'fputs', 'putchar', 'perror', 'dprintf')
NO_ENV = ('getenv', 'secure_getenv', 'setenv')
NO_THREAD = ('pthread_create', 'thrd_create', 'fork', 'clone')
ROOMS = {
    'proto/':          (['proto/'], {'msgpack', 'sockets'}, NO_EXIT + NO_PRINT + NO_THREAD),
    'kernels/cuda/':   (['kernels/'], {'pthread', 'cuda'}, NO_EXIT + NO_PRINT + NO_ENV),
    'kernels/':        (['kernels/'], {'pthread', 'simd'}, NO_EXIT + NO_PRINT + NO_ENV),
    'daemon/base/':    (['daemon/base/'], {'inih', 'xxhash', 'journal', 'pthread'}, NO_EXIT),
    'daemon/model/':   (['daemon/base/', 'daemon/model/', 'kernels/'], {'pcre2', 'xxhash'},
                        NO_EXIT + NO_ENV + NO_THREAD),
    'daemon/session/': (['daemon/base/', 'daemon/model/', 'daemon/session/', 'kernels/'],
                        {'sqlite', 'xxhash', 'pthread'}, NO_EXIT + NO_ENV + NO_PRINT),
    'daemon/serve/':   (['daemon/base/', 'daemon/serve/', 'proto/'] + PUBLIC_SESSION,
                        {'libevent', 'msgpack', 'systemd', 'journal', 'sockets', 'epoll'}, NO_EXIT + NO_THREAD),
    'daemon/':         (['daemon/', 'proto/', 'kernels/backend.h'], {'inih', 'systemd', 'libevent', 'sockets'}, ()),
    'client/':         (['proto/', 'client/'], {'msgpack', 'libedit'}, ()),
}
INCLUDE = re.compile(r'\s*#\s*include\s*([<"])([^>"]+)[>"]')
REFUSE = re.compile(r'\brefuse\s*\(\s*[^,()]+(?:\([^)]*\))?\s*,\s*"([^"]*)"')
ERROR_ROW = re.compile(r'X\(\w+,\s*\d+,\s*"(\w+)"')


def sources(top):
    for room in ('proto', 'kernels', 'daemon', 'client'):
        for folder, _, files in sorted(os.walk(os.path.join(top, room))):
            for name in sorted(files):
                if name.endswith(('.c', '.h', '.cu', '.cuh')):
                    yield os.path.relpath(os.path.join(folder, name), top)


def strip(line, in_comment):
    """A line without comments and strings; whether a comment goes on behind it."""
    out, i = '', 0
    while i < len(line):
        if in_comment:
            end = line.find('*/', i)
            if end < 0:
                return out, True
            i, in_comment = end + 2, False
        elif line.startswith('/*', i):
            i, in_comment = i + 2, True
        elif line.startswith('//', i):
            break
        elif line[i] in '"\'':
            quote, i = line[i], i + 1
            while i < len(line) and line[i] != quote:
                i += 2 if line[i] == '\\' else 1
            i, out = i + 1, out + '""'
        else:
            out, i = out + line[i], i + 1
    return out, in_comment


def group_of(header):
    for start, group in GROUPS.items():
        if header.startswith(start):
            return group
    return 'libc' if header[:-2] in LIBC and header.endswith('.h') else None


def check_include(room, mark, header):
    """A sentence of what is wrong with one include, or None."""
    ours, groups, _ = ROOMS[room]
    if mark == '"':
        if header == 'config.h' or any(header.startswith(o) for o in ours):
            return None
        if '/' not in header:
            return f'"{header}" is not path-qualified from the top'
        return f'{room} must not include "{header}"'
    group = group_of(header)
    if group is None:
        return f'<{header}> is in no group of tests/rooms/rooms.py; add it there'
    return None if group == 'libc' or group in groups else f'{room} must not include <{header}> ({group})'


def offences(top):
    with open(os.path.join(top, 'proto/errors.h')) as f:
        names = set(ERROR_ROW.findall(f.read()))
    for path in sources(top):
        room = next(r for r in ROOMS if path.startswith(r))
        calls = re.compile(r'(?<![\w.>])(' + '|'.join(ROOMS[room][2]) + r')\s*\(') if ROOMS[room][2] else None
        in_comment = False
        with open(os.path.join(top, path), encoding='utf-8') as f:
            text = f.read()
        for n, line in enumerate(text.splitlines(), 1):
            include = None if in_comment else INCLUDE.match(line)
            bare, in_comment = strip(line, in_comment)
            why = include and check_include(room, *include.groups())
            called = calls and calls.search(bare)
            if not why and called:
                why = f'{room} must not call {called.group(1)}()'
            if why:
                yield f'{path}:{n}: {why}'
        for m in REFUSE.finditer(text):
            if m.group(1) not in names:
                n = text.count('\n', 0, m.start()) + 1
                yield f'{path}:{n}: refuse() with "{m.group(1)}", which is not in proto/errors.h'


def long_ones(top):
    for path in sources(top):
        with open(os.path.join(top, path), encoding='utf-8') as f:
            lines = f.read().splitlines()
        if len(lines) > 600:
            yield f'{path}: {len(lines)} lines'
        begin = None
        for n, line in enumerate(lines, 1):
            if line == '{':
                begin = n
            elif line == '}' and begin:
                if n - begin > 80:
                    yield f'{path}:{begin}: a function of {n - begin} lines'
                begin = None


OFFENCES = {  # file: (line, what must be said)
    'kernels/a.c': ('#include "daemon/base/log.h"', 'must not include'),
    'kernels/b.c': ('\tprintf("x");', 'must not call printf'),
    'kernels/c.c': ('\tx = getenv("A");', 'must not call getenv'),
    'proto/a.c': ('#include <event2/event.h>', 'libevent'),
    'proto/b.c': ('#include "frame.h"', 'not path-qualified'),
    'daemon/base/a.c': ('#include "kernels/quants.h"', 'must not include'),
    'daemon/model/a.c': ('#include <pthread.h>', 'pthread'),
    'daemon/model/b.c': ('\treturn refuse(why, "no_such_name", "x");', 'proto/errors.h'),
    'daemon/session/a.c': ('# include <sys/socket.h>', 'sockets'),
    'daemon/session/b.c': ('#include <msgpack.h>', 'msgpack'),
    'daemon/serve/a.c': ('#include "daemon/model/model.h"', 'must not include'),
    'daemon/serve/b.c': ('#include "daemon/session/slab.h"', 'must not include'),
    'client/a.c': ('#include "daemon/base/error.h"', 'must not include'),
    'client/b.c': ('#include <strange.h>', 'no group'),
}
CLEAN = '/* printf( in words; "#include <event2/event.h>" */\n#include <stdio.h>\n// exit(1)\nx = "exit(1)";\n'


def self_test():
    with tempfile.TemporaryDirectory() as top:
        def put(path, text):
            os.makedirs(os.path.dirname(os.path.join(top, path)), exist_ok=True)
            with open(os.path.join(top, path), 'w') as f:
                f.write(text)
        put('proto/errors.h', '#define PROTO_ERRORS(X) X(PARSE, 1, "parse", "x")\n')
        for path, (line, _) in OFFENCES.items():
            put(path, CLEAN + line + '\n')
        found = sorted(offences(top))
        for path, (_, said) in OFFENCES.items():
            mine = [o for o in found if o.startswith(path + ':5: ') and said in o]
            if len(mine) != 1:
                sys.exit(f'self-test: {path} should be found once, as "{said}"; found: {found}')
        if len(found) != len(OFFENCES):
            sys.exit(f'self-test: offences that are none: {found}')


def main():
    top = os.environ.get('SRCDIR') or os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    self_test()
    found = list(offences(top))
    n = len(list(sources(top)))
    for line in long_ones(top):
        print('long:', line)
    for line in found:
        print(line)
    if n == 0:
        sys.exit(f'no sources under {top}')
    print(f'{n} files, {len(found)} offences')
    sys.exit(1 if found else 0)


if __name__ == '__main__':
    main()
