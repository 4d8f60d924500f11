"""proto/PROTOCOL.md against the tables of proto/: every method, parameter, type, needed mark
and error of the tables is on the page and the other way round; every example's bytes decode to
the line above them.

    docs.py [--errors]       with SRCDIR and BUILDDIR, where the program tests/proto/dump is
                             --errors: prints the page's table of errors, to paste

It first proves on a page with one row left out, for each row, that it can fail.
"""
import json
import os
import re
import subprocess
import sys


def table_rows(dump):
    rows = set()
    for line in dump.splitlines():
        kind, *rest = line.split('\t')
        if kind == 'broken':
            sys.exit('methods.c: ' + rest[0])
        rows.add((kind, *rest))
    return rows


def page_rows(page):
    """The same rows, as the page has them."""
    rows, method, finished = set(), None, True
    for line in page.splitlines():
        if line.startswith('### Not in this version'):
            method, finished = None, False
            continue
        m = re.fullmatch(r'### ([a-z_]+(?:\.[a-z_]+)?)', line)
        if m:
            method = m.group(1)
            rows.add(('method', method, 'finished' if finished else 'not_finished'))
            continue
        if re.match(r'#{1,3} ', line):
            method = None
        m = re.fullmatch(r'\| `(\w+)`(\*?) \| (\w+) \|(.*)', line)
        if m and method and m.group(3) in ('bool', 'uint', 'real', 'name', 'text', 'key', 'ids', 'texts'):
            rows.add(('param', method, m.group(1), m.group(3), m.group(2)))
        m = re.fullmatch(r'\| (\d+) \| `(\w+)` \| (.*) \|', line)
        if m:
            rows.add(('error', *m.groups()))
    return rows


# server.info is a method without parameters whose answer is a table.
RESULT_TABLES = {'server.info'}


def differences(table, page):
    page = {r for r in page if not (r[0] == 'param' and r[1] in RESULT_TABLES)}
    return ([f'only in the tables: {" ".join(r)}' for r in sorted(table - page)] +
            [f'only on the page: {" ".join(r)}' for r in sorted(page - table)])


def examples(page):
    """(line, its value, its bytes)"""
    lines = page.split('## Examples', 1)[1].splitlines()
    at = 0
    while at < len(lines):
        m = re.fullmatch(r'    (?:->|<-) (\[.*\])', lines[at])
        at += 1
        if not m:
            continue
        digits = ''
        while at < len(lines) and re.fullmatch(r'       ([0-9a-f]{2} ?)+', lines[at]):
            digits += lines[at]
            at += 1
        yield m.group(1), json.loads(m.group(1)), bytes.fromhex(digits)


def check_examples(page):
    import msgpack
    wrong, n = [], 0
    for line, want, data in examples(page):
        n += 1
        try:
            got = msgpack.unpackb(data, raw=False)
        except Exception as e:
            got = repr(e)
        if got != want:
            wrong.append(f'example {line}: its bytes say {got}')
    if n < 6:
        wrong.append(f'only {n} examples')
    return wrong


def can_fail(table, page):
    lines = page.splitlines()
    for row in table:
        # the line of the row, its last mention as such
        mark = {'method': f'### {row[1]}', 'error': f'| {row[1]} | `{row[2]}` |'}.get(row[0])
        if mark is None:
            continue
        without = '\n'.join(x for x in lines if not x.startswith(mark) or (row[0] == 'method' and x != mark))
        if not differences(table, page_rows(without)):
            sys.exit(f'a page without {mark} passes')


def main():
    program = os.path.join(os.environ.get('BUILDDIR', '.'), 'tests/proto/dump')
    dump = subprocess.run([program], stdout=subprocess.PIPE, check=True, text=True).stdout
    with open(os.path.join(os.environ.get('SRCDIR', '.'), 'proto/PROTOCOL.md'), encoding='utf-8') as f:
        page = f.read()
    table = table_rows(dump)
    if sys.argv[1:] == ['--errors']:
        rows = sorted((int(r[1]), r[2], r[3]) for r in table if r[0] == 'error')
        print('\n'.join(f'| {c} | `{n}` | {h} |' for c, n, h in rows))
        return
    wrong = differences(table, page_rows(page))
    if not wrong:
        can_fail(table, page)
    try:
        wrong += check_examples(page)
    except ImportError:
        print('python3-msgpack is missing: examples not decoded')
        sys.exit(77)
    for w in wrong:
        print('PROTOCOL.md:', w)
    sys.exit(1 if wrong else 0)


main()
