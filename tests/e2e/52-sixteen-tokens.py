"""Sixteen tokens of the small model, also under the sanitizers; greedy, so always the same."""
from harness import Daemon, check, check_equal, small_model

with Daemon(model=small_model(always=True)) as d:
    d.sink('new', 'a', '--temperature', 0, '--window', 200, timeout=300)
    reply = d.sink('say', 'a', '-n', 16, 'What is the capital of France? Answer in one short sentence.', timeout=300).text
    print(reply)
    check('Paris' in reply, 'the capital of France', reply)
