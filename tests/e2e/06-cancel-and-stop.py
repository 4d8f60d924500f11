"""An answer ends by cancel, by a stop string, by its length, or with its client when it was asked to."""
import signal
import subprocess

from harness import SLOW, Daemon, check, check_equal, endless, output, text_of, wait_for


def ended(d, name):
    """Turn ends, one for each answer."""
    return [e for e in d.events(name) if e['kind'] == 'turn' and e['state'] == 'end']


with Daemon(model=endless) as d:
    c = d.new('a', temperature=0.8)
    c.call('session.append', session='a', text='once upon a time')
    c.call('session.generate', session='a', max_tokens=10)
    d.idle('a')
    end = ended(d, 'a')[-1]
    check(end['reason'] in ('length', 'stop') and end['generated_tokens'] <= 10, 'by length', end)
    answer = text_of([e for e in d.events('a') if e.get('request') == end['request']])

    # The same session again, with a piece of that answer as a stop string.
    c.call('session.create', session='b', raw=True, sinks=4, window=28, seed=1, temperature=0.8)
    c.call('session.append', session='b', text='once upon a time')
    stop = answer[len(answer) // 2:][:3]
    check(len(stop) > 0, 'an answer long enough', answer)
    c.call('session.generate', session='b', max_tokens=10, stop=[stop, 'never in there'])
    d.idle('b')
    end = ended(d, 'b')[-1]
    cut = text_of([e for e in d.events('b') if e.get('request') == end['request']])
    check_equal(end['reason'], 'stop', 'by a stop string')
    check_equal(cut, answer[:answer.index(stop)], 'the answer before the stop string')

    c.call('session.generate', session='a', max_tokens=500000)
    wait_for(lambda: c.call('session.info', session='a')['state'] == 'generating', what='generating')
    check_equal(c.call('session.cancel', session='a')['cancelled'], True)
    d.idle('a')
    check_equal(ended(d, 'a')[-1]['reason'], 'cancelled')
    check_equal(c.call('session.cancel', session='a')['cancelled'], False, 'nothing to cancel')

    # Right behind its answer, which is on its way to disk.
    begun, stop = c.send('session.generate', session='a', max_tokens=500000), c.send('session.cancel', session='a')
    check_equal(c.wait(stop)['cancelled'], True, 'an answer that has not begun')
    request = c.wait(begun)['request']
    d.idle('a')
    check_equal((ended(d, 'a')[-1]['request'], ended(d, 'a')[-1]['reason']), (request, 'cancelled'))

    # until_disconnect: the answer leaves with its client; another one stays.
    other = d.rpc()
    n = len(ended(d, 'a'))
    other.call('session.generate', session='a', max_tokens=500000, until_disconnect=True)
    wait_for(lambda: c.call('session.info', session='a')['state'] == 'generating', what='generating')
    other.close()
    d.idle('a')
    check_equal(ended(d, 'a')[-1]['reason'], 'cancelled', 'until_disconnect')
    other = d.rpc()
    other.call('session.generate', session='a', max_tokens=30)
    other.close()
    wait_for(lambda: len(ended(d, 'a')) == n + 2, what='an answer whose client has left')
    check(ended(d, 'a')[-1]['reason'] != 'cancelled', 'goes on when its client leaves')

    # Ctrl-C of a client whose session has another name by now, and whose old name another session has.
    c.call('session.create', session='c', sinks=4, window=28, seed=1)
    p = d.sink_popen('say', 'c', 'hello', '-n', 500000, stdout=subprocess.PIPE)
    output(p, 10)                              # it has begun
    c.call('session.rename', session='c', new_name='d')
    c.call('session.create', session='c', raw=True, sinks=4, window=28, seed=1)
    c.call('session.generate', session='c', max_tokens=500000)
    output(p, 5000)                            # of these the last came after the renaming
    p.send_signal(signal.SIGINT)
    p.communicate(timeout=30 * SLOW)
    check_equal(p.returncode, 130, 'exit status')
    d.idle('d')
    check_equal(ended(d, 'd')[-1]['reason'], 'cancelled', 'the answer that was to be stopped')
    check_equal(ended(d, 'c'), [], 'ends of the answer of the session that has the name now')
    c.call('session.cancel', session='c')
