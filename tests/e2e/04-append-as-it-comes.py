"""append sends lines as they come, while the pipe stays open; a follower sees each at once."""
import subprocess

from harness import Daemon, check, check_equal, output, SLOW, wait_for

with Daemon() as d:
    # How long a row takes is not known yet, and may be long.
    c = d.new('first')
    c.call('session.append', session='first', tokens=[65] * 40)
    d.idle('first')
    check_equal(c.call('server.stats')['steps'], 2, 'steps, of which the first tells how long they take')

    d.new('log')
    follower = d.sink_popen('read', 'log', '-f', stdout=subprocess.PIPE)
    writer = d.sink_popen('append', 'log', stdin=subprocess.PIPE)
    for i in range(5):
        line = f'line {i} of the log\n'.encode()
        writer.stdin.write(line)
        writer.stdin.flush()
        check_equal(output(follower, len(line)), line, 'what the follower sees while the pipe is open')
    writer.stdin.write(b'no newline at the end')
    writer.stdin.close()
    check_equal(writer.wait(timeout=30 * SLOW), 0, "append's exit status")
    check_equal(output(follower, 21), b'no newline at the end')

    # The daemon goes away and comes back under an open pipe: nothing lost, nothing doubled.
    writer = d.sink_popen('append', 'log', stdin=subprocess.PIPE)
    for i in range(30):
        writer.stdin.write(f'[{i}]\n'.encode())
        writer.stdin.flush()
        if i in (10, 20):
            d.kill()
            d.start()
    writer.stdin.close()
    check_equal(writer.wait(timeout=30 * SLOW), 0, "append's exit status")
    d.idle('log')
    text = d.transcript('log')
    check_equal(text[text.index(b'[0]'):], b''.join(b'[%d]\n' % i for i in range(30)), 'over two SIGKILLs')
    follower.kill()
    follower.wait()
