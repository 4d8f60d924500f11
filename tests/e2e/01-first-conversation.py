"""new, say, say, generate: replies stream out, the log has all of it, a restart loses nothing."""
from harness import Daemon, check, check_equal, text_of

with Daemon() as d:
    d.sink('new', 'talk', '--seed', 5, '--window', 40)
    first = d.sink('say', 'talk', '-n', 24, 'Hello, who are you?').out
    second = d.sink('say', 'talk', '-n', 24, input=b'And what do you like?\n').out
    more = d.sink('generate', 'talk', '-n', 8).out
    check(first.strip() and second.strip(), 'replies', first, second)

    events = d.events('talk')
    by_role = {r: [e for e in events if e['kind'] == 'text' and e['role'] == r] for r in ('user', 'assistant')}
    user = text_of(by_role['user'])
    check(user.startswith(b'Hello, who are you?') and b'And what do you like?' in user, 'what the user said', user)
    answers, inside = [], None
    for e in events:
        if e['kind'] == 'turn' and e['state'] == 'begin':
            inside = b''
        elif e['kind'] == 'turn':
            check(e['reason'] in ('stop', 'length') and 0 < e['generated_tokens'] <= 24, 'turn end', e)
            answers.append(inside)
        elif e['kind'] == 'text' and e['role'] == 'assistant':
            inside += e['text'].encode()
    check_equal(len(answers), 3, 'answers')
    for said, kept in zip((first, second, more), answers):
        check_equal(said.rstrip(b'\n'), kept.rstrip(b'\n'), 'what was streamed and what is kept')
    check_equal([e['seq'] for e in events], list(range(1, len(events) + 1)), 'seqs')

    info = d.rpc().call('session.info', session='talk')
    d.restart()
    check_equal(d.events('talk'), events, 'the log after a restart')
    check_equal(d.rpc().call('session.info', session='talk')['position'], info['position'])
    check(d.sink('say', 'talk', '-n', 8, 'Still there?').out.strip(), 'a reply after the restart')
    d.kill()
    d.start()
    check_equal(d.events('talk')[:len(events)], events, 'the log after SIGKILL')

    made = d.sink('say', 'fresh', '-n', 4, 'Hi')
    check('fresh' in made.err, 'say makes a session where it is missing and says so', made.err)
