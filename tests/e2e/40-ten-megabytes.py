"""10 MB through a pipe into the small model (4+252): a bounded computation, flat memory, the last window shown."""
import subprocess
import time

from harness import Daemon, SLOW, book, check, check_equal, small_model

SINKS, WINDOW, LAYERS, CHUNK = 4, 252, 30, 64
text = book(10 * 1000 * 1000)

with Daemon('--chunk', CHUNK, model=small_model()) as d:
    c = d.rpc(timeout=600)
    c.call('session.create', session='big', sinks=SINKS, window=WINDOW, raw=True)
    c.call('session.append', session='big', text=text[:20000].decode(), wait=True)
    begin = c.call('server.stats')
    memory = [d.rss()]
    p = d.sink_popen('append', 'big', stdin=subprocess.PIPE)
    t = time.monotonic()
    for i in range(20000, len(text), 100000):
        p.stdin.write(text[i:i + 100000])
        memory.append(d.rss())
    p.stdin.close()
    check_equal(p.wait(timeout=300 * SLOW), 0, "append's exit status")
    arrived, seconds = c.call('server.stats'), time.monotonic() - t
    while (info := c.call('session.info', session='big'))['state'] != 'idle' or info['queued']:
        memory.append(d.rss())
        time.sleep(0.05)
    end = c.call('server.stats')
    memory.append(d.rss())

    bound = SINKS + 1 + LAYERS * WINDOW
    after = end['computed_tokens'] - arrived['computed_tokens']
    during = arrived['computed_tokens'] - begin['computed_tokens']
    skipped = end['skipped_tokens'] - begin['skipped_tokens']
    print(f'{info["position"]} tokens; the pipe took {seconds:.1f} s; computed {during} meanwhile and {after} after it '
          f'(bound {bound}), skipped {skipped}; {time.monotonic() - t:.1f} s in all')
    print(f'memory {memory[0] >> 20} MiB before, {max(memory) >> 20} at most, {memory[-1] >> 20} after')
    # Pieces that were acknowledged and not yet tokenized when the pipe ended are caught up as well.
    check(after <= 2 * (bound + CHUNK), 'computed after the pipe had ended', after)
    check(skipped > info['position'] // 2, 'tokens skipped', skipped)
    check_equal(info['computed'], info['position'], 'caught up')
    check(max(memory) - memory[0] < 48 << 20, 'memory is flat', memory[0], max(memory))

    show = c.call('session.show', session='big')
    check_equal(len(show['window_tokens']), WINDOW + 1, 'tokens in the window, and the newest')
    check(text.decode().endswith(show['window']), 'show prints the last window', show['window'][-200:])
    check(text.decode().startswith(show['head']) and len(show['head_tokens']) == SINKS, 'and the head', show['head'])
    check_equal(show['forgotten'], info['position'] - SINKS - WINDOW - 1, 'forgotten')
