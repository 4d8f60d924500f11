"""client/sink.1 against the client's tables, as `sink help` prints them: every verb, its
arguments, and every option of it are on the page and the other way round; and `sink help`
knows every verb that it lists.

It first proves on a page with one line left out, for each, that it can fail.
"""
import os
import re
import subprocess
import sys

SINK = os.environ.get('SINK', './sink')
PAGE = os.path.join(os.environ.get('SRCDIR', '.'), 'client/sink.1')


def sink(*args):
    return subprocess.run([SINK, *args], stdout=subprocess.PIPE, check=True, text=True).stdout


def options_of(help_text):
    """(name, argument) of the indented lines."""
    for line in help_text.splitlines():
        m = re.match(r'  (--?[A-Za-z-]+)(?: ([A-Z]+))?  +', line)
        if m:
            yield m.group(1), m.group(2) or ''


def tables():
    rows, verbs = set(), sink('help').split('verbs:\n')[1]
    for name, arg in options_of(sink('help').split('verbs:\n')[0]):
        rows.add(('option', '', name, arg))
    for line in verbs.splitlines():
        m = re.match(r'  ([a-z]+)(?: (.*?))?  +', line)
        if not m:
            continue
        verb = m.group(1)
        text = sink('help', verb)
        usage = text.splitlines()[0].removeprefix(f'usage: sink {verb}').replace(' [OPTION...]', '').strip()
        if usage != (m.group(2) or ''):
            sys.exit(f'sink help and sink help {verb} differ: {usage}')
        rows.add(('verb', verb, usage, 'not in this version' in text))
        rows.update(('option', verb, *o) for o in options_of(text))
    return rows


def plain(line):
    """A line of the page without its macro and fonts."""
    line = re.sub(r'^\.[A-Z]+ ', '', line).replace('\\-', '-').replace('"', '')
    return re.sub(r'\\f[A-Z]', '', line)


def page_rows(lines):
    rows, section, verb, tag = set(), '', '', False
    for at, line in enumerate(lines):
        if line.startswith('.SH '):
            section, verb = line[4:], ''
        elif line.startswith('.SS ') and section == 'VERBS':
            verb, _, args = plain(line).strip().partition(' ')
            rows.add(('verb', verb, args, any('Not in this version' in x for x in lines[at + 1:at + 3])))
        elif tag and section in ('OPTIONS', 'VERBS'):
            name, _, arg = plain(line).strip().partition(' ')
            rows.add(('option', verb, name, arg.strip()))
        tag = line.startswith('.TP')
    return rows


def differences(table, page):
    return ([f'only in the tables: {r}' for r in sorted(table - page)] +
            [f'only on the page: {r}' for r in sorted(page - table)])


def page_of(table):
    """The VERBS section as the tables have it, to paste (help texts follow by hand)."""
    for line in sink('help').split('verbs:\n')[1].splitlines():
        m = re.match(r'  ([a-z]+)(?: (.*?))?  +(.*)', line)
        if not m:
            continue
        text = sink('help', m.group(1)).splitlines()
        print(f'.SS "{m.group(1)}{" " + m.group(2) if m.group(2) else ""}"'.replace('-', '\\-'))
        what = m.group(3).replace(' (not in this version)', '')
        print(what[0].upper() + what[1:] + '.')
        if '(not in this version)' in line:
            print('Not in this version.')
        for o in text[2:]:
            m = re.match(r'  (--?[A-Za-z-]+)(?: ([A-Z]+))?  +(.*)', o)
            name = m.group(1).replace('-', '\\-')
            print('.TP\n' + (f'.BI {name} " {m.group(2)}"' if m.group(2) else f'.B {name}'))
            print(m.group(3)[0].upper() + m.group(3)[1:] + '.')


def main():
    table = tables()
    if sys.argv[1:] == ['--page']:
        return page_of(table)
    with open(PAGE, encoding='utf-8') as f:
        lines = f.read().splitlines()
    wrong = differences(table, page_rows(lines))
    if not wrong:
        for at, line in enumerate(lines):
            if (line.startswith('.SS ') or (at and lines[at - 1] == '.TP' and '\\-' in line)) and \
                    not differences(table, page_rows(lines[:at] + ['.PP'] + lines[at + 1:])):
                sys.exit(f'a page without "{line}" passes')
    if len(table) < 50:
        wrong.append(f'only {len(table)} rows')
    print('\n'.join(wrong))
    sys.exit(1 if wrong else 0)


main()
