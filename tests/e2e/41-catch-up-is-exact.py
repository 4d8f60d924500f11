"""A long append that jumps over tokens leaves the same state as computing every one of them."""
import os

from harness import SRCDIR, Daemon, book, check, check_equal

TINY = ('tiny-llama.gguf', 'tiny-gemma3.gguf')      # all layers global; local layers among them

for model in TINY:
    with Daemon(model=os.path.join(SRCDIR, 'tests/data', model)) as d:
        c = d.rpc()
        ids = c.call('model.tokenize', text=book(9000).decode())['tokens']

        def session(name, slice_length):
            c.call('session.create', session=name, raw=True, sinks=4, window=28, seed=11, temperature=1, top_k=0, top_p=1, min_p=0)
            before = c.call('server.stats')
            for i in range(0, len(ids), slice_length):
                c.call('session.append', session=name, tokens=ids[i:i + slice_length], wait=True)
                if slice_length < len(ids):
                    d.idle(name)
            n = d.idle(name)['position']       # a model may put a token of its own before the first
            after = c.call('server.stats')
            c.call('session.generate', session=name, max_tokens=120)
            d.idle(name)
            events = [e for e in d.events(name) if e['kind'] == 'text' and e['role'] == 'assistant']
            return ([n - len(ids)] + [after[k] - before[k] for k in ('computed_tokens', 'skipped_tokens')],
                    [(e['position'], e['text']) for e in events], c.call('session.show', session=name)['window_tokens'])

        (more, computed, skipped), answer, window = session('every', 40)
        check_equal((computed, skipped), (len(ids) + more, 0), 'computed and skipped, in small slices')
        (more, computed, skipped), jumped, window_jumped = session('jump', len(ids))
        check(skipped > 0 and computed + skipped == len(ids) + more, f'{model}: the long append should jump', computed, skipped)
        check(''.join(t for _, t in answer), 'an answer')
        check_equal(jumped, answer, f'{model}: the continuation')
        check_equal(window_jumped, window, f'{model}: what the model sees')
        print(f'{model}: {len(ids)} tokens, computed {computed}, skipped {skipped}; the same {len(window)} + answer')
