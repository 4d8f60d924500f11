"""A learned sink token (the paper's second proposal): it is the head of every timeline where the configuration
or the model names it, and the
rule 1+63, which tests/golden/archs.c holds to the reference, goes on from there."""
from harness import *

NAME = 'llama'
MODEL = os.path.join(SRCDIR, f'tests/golden/arch/{NAME}.gguf')
golden = json.load(open(os.path.join(SRCDIR, f'tests/golden/arch/{NAME}.json')))
ids = golden['tokens']
sink, text = ids[0], ids[1:]


def named(folder):
    """The model with a key that names its sink token, made of the key of its end token.  That is one byte
    longer, and the model's name one shorter: the tensors stay where they are."""
    with open(MODEL, 'rb') as f:
        data = f.read()
    old, new = b'tokenizer.ggml.eos_token_id', b'tokenizer.ggml.sink_token_id'
    name = b'general.name' + (8).to_bytes(4, 'little')
    at = data.index(name) + len(name)
    n = int.from_bytes(data[at:at + 8], 'little')
    data = data[:at] + (n - 1).to_bytes(8, 'little') + data[at + 8:at + 8 + n - 1] + data[at + 8 + n:]
    at = data.index(old)
    value = at + len(old) + 4                  # behind its type
    data = data[:at - 8] + len(new).to_bytes(8, 'little') + new + data[at + len(old):value] + \
        sink.to_bytes(4, 'little') + data[value + 4:]
    path = os.path.join(folder, 'named.gguf')
    with open(path, 'wb') as f:
        f.write(data)
    return path


def answer(d, tokens):
    """What a session says after the tokens, and all that it sees, when nothing is special about its model."""
    c = d.new('a', sinks=1, window=63, temperature=0)
    c.call('session.append', session='a', tokens=tokens, wait=True)
    c.call('session.generate', session='a', max_tokens=40)
    d.idle('a')
    show = c.call('session.show', session='a')
    return text_of(e for e in d.events('a') if e.get('role') == 'assistant'), show['head'], show['position']


with Daemon(model=MODEL) as d:
    want = answer(d, ids)
with Daemon('--sink-token', sink, model=MODEL) as d:
    check_equal(answer(d, text), want, 'with the sink token of the configuration')
    check_equal(d.rpc().call('score', text='some text')['ids'][0], sink, 'the first id of a scored text')
with Daemon(model=named) as d:
    check_equal(answer(d, text), want, 'with the sink token of the model')
    c = d.new('b', sinks=1, window=63)
    c.call('session.append', session='b', tokens=ids, wait=True)
    check_equal(c.call('session.info', session='b')['position'], len(ids), 'a sink token that was given is not doubled')
with Daemon('--sink-token', 'no such token', model=MODEL, start=False) as d:
    d.start(ready=False)
    check_equal(d.process.wait(30 * SLOW), 1, 'exit status with an unknown sink token')
    d.process = None
    check('bad_config: sink-token no such token' in d.log_text(), 'the reason', d.log_text())
