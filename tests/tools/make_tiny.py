#!/usr/bin/env python3
"""Writes the tests' tiny models: real GGUF files with random weights, which go the real way.

    make_tiny.py [FOLDER]        (default: ../data beside this script)

tiny-llama.gguf    llama: grouped queries, byte-level BPE vocabulary, chatml; Q4_0, Q4_1, Q8_0, F16, F32
tiny-gemma3.gguf   gemma3: QK norm, post norms, local and global layers, SentencePiece vocabulary; Q8_0, F16, F32

Deterministic to the byte: the generator is ours, and nothing depends on a maths library.
The scales are chosen so that attention is uneven and greedy output is not constant: the
memory of a session must show in what it says.
"""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from gguf_write import Gguf  # noqa: E402

TEXT = """the cat sat on the mat and the dog ran after the cat through the garden until the rain came down
there was a small house at the end of the road where an old man lived with his daughter and they were happy
when the evening came she would read to him from a book of stories about the sea and the ships that sail on it
he said that the world had changed but that the stories were still the same and she thought that he was right
in the morning the sun rose over the hills and the birds were singing in the trees that stood around the house
what would you like to know about this question I think that it should be possible to find a good answer here
"""


class Random:
    """SplitMix64; normal() is a sum of uniforms, the same on every machine."""
    def __init__(self, seed):
        self.s = seed

    def next(self):
        self.s = (self.s + 0x9E3779B97F4A7C15) % 2**64
        z = self.s
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        return z ^ z >> 31

    def uniform(self):
        return (self.next() >> 11) / 2**53

    def normal(self, scale):
        return scale * (sum(self.uniform() for _ in range(6)) - 3) * 2**0.5

    def matrix(self, n, scale):
        return [self.normal(scale) for _ in range(n)]

    def near(self, n, middle, spread, signs=False):
        out = [middle + self.normal(spread) for _ in range(n)]
        return [-x if signs and self.next() & 1 else x for x in out]


def pairs_learnt(words, n):
    """Byte-pair encoding, the plain way: the n most frequent merges of these words."""
    words, merges = [list(w) for w in words], []
    while len(merges) < n:
        count = {}
        for w in words:
            for p in zip(w, w[1:]):
                count[p] = count.get(p, 0) + 1
        if not count:
            break
        best = max(sorted(count), key=lambda p: count[p])
        merges.append(best)
        for w in words:
            i = 0
            while i + 1 < len(w):
                if (w[i], w[i + 1]) == best:
                    w[i:i + 2] = [w[i] + w[i + 1]]
                i += 1
    return merges


def byte_letters():
    """GPT-2's letters for bytes: printable ones stand for themselves."""
    own = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    out, extra = {}, 0
    for b in range(256):
        if b in own:
            out[b] = chr(b)
        else:
            out[b] = chr(256 + extra)
            extra += 1
    return out


CHATML = ("{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
          "{{ '<|im_start|>system\nYou are a tiny model of random numbers.<|im_end|>\n' }}{% endif %}"
          "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
          "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
GEMMA = ("{{ bos_token }}{%- for message in messages -%}{%- if (message['role'] == 'assistant') -%}"
         "{%- set role = \"model\" -%}{%- else -%}{%- set role = message['role'] -%}{%- endif -%}"
         "{{ '<start_of_turn>' + role + '\n' }}{{ message['content'] | trim }}{{ '<end_of_turn>\n' }}{%- endfor -%}"
         "{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}")


def llama_vocabulary(g):
    letter = byte_letters()
    special = ['<|endoftext|>', '<|im_start|>', '<|im_end|>']
    words = [letter[32] + w for w in TEXT.split()]
    merges = pairs_learnt(words, 160)
    tokens = special + [letter[b] for b in range(256)] + [a + b for a, b in merges]
    g.key('tokenizer.ggml.model', 'str', 'gpt2')
    g.key('tokenizer.ggml.pre', 'str', 'smollm')
    g.key('tokenizer.ggml.tokens', 'list:str', tokens)
    g.key('tokenizer.ggml.token_type', 'list:i32', [3] * 3 + [1] * (len(tokens) - 3))
    g.key('tokenizer.ggml.merges', 'list:str', [a + ' ' + b for a, b in merges])
    g.key('tokenizer.ggml.bos_token_id', 'u32', 1)
    g.key('tokenizer.ggml.eos_token_id', 'u32', 2)
    g.key('tokenizer.ggml.unknown_token_id', 'u32', 0)
    g.key('tokenizer.ggml.padding_token_id', 'u32', 2)
    g.key('tokenizer.ggml.add_space_prefix', 'bool', False)
    g.key('tokenizer.ggml.add_bos_token', 'bool', False)
    g.key('tokenizer.chat_template', 'str', CHATML)
    return len(tokens)


def gemma_vocabulary(g):
    tokens = [('<pad>', 3), ('<eos>', 3), ('<bos>', 3), ('<unk>', 2)]
    tokens += [('<0x%02X>' % b, 6) for b in range(256)]
    tokens += [('<start_of_turn>', 3), ('<end_of_turn>', 3)]
    words = ['\u2581' + w for w in TEXT.split()]
    single = ['\u2581', '\n'] + [chr(c) for c in range(33, 127)] + ['\u00e9', '\u00fc', '\u4e16', '\u754c']
    learnt = [a + b for a, b in pairs_learnt(words, 160)]
    # SentencePiece orders merges by score: the earlier learnt, the higher.  Letters come last.
    tokens += [(t, 1) for t in learnt + ['\u2581\u2581', '\u2581' * 4, '\n\n'] + single]
    scores = [0.0] * 262 + [-float(i) for i in range(len(tokens) - 262)]
    g.key('tokenizer.ggml.model', 'str', 'llama')
    g.key('tokenizer.ggml.pre', 'str', 'default')
    g.key('tokenizer.ggml.tokens', 'list:str', [t for t, _ in tokens])
    g.key('tokenizer.ggml.scores', 'list:f32', scores)
    g.key('tokenizer.ggml.token_type', 'list:i32', [k for _, k in tokens])
    g.key('tokenizer.ggml.bos_token_id', 'u32', 2)
    g.key('tokenizer.ggml.eos_token_id', 'u32', 1)
    g.key('tokenizer.ggml.unknown_token_id', 'u32', 3)
    g.key('tokenizer.ggml.padding_token_id', 'u32', 0)
    g.key('tokenizer.ggml.add_bos_token', 'bool', True)
    g.key('tokenizer.ggml.add_eos_token', 'bool', False)
    g.key('tokenizer.ggml.add_space_prefix', 'bool', False)
    g.key('tokenizer.chat_template', 'str', GEMMA)
    return len(tokens)


def tiny_llama():
    g, r = Gguf(), Random(1)
    layers, embd, heads, kv, dim, ff = 3, 64, 4, 2, 16, 128
    g.key('general.architecture', 'str', 'llama')
    g.key('general.name', 'str', 'Tiny llama')
    for k, v in dict(block_count=layers, context_length=1024, embedding_length=embd, feed_forward_length=ff).items():
        g.key('llama.' + k, 'u32', v)
    g.key('llama.attention.head_count', 'u32', heads)
    g.key('llama.attention.head_count_kv', 'u32', kv)
    g.key('llama.attention.layer_norm_rms_epsilon', 'f32', 1e-5)
    g.key('llama.rope.dimension_count', 'u32', dim)
    g.key('llama.rope.freq_base', 'f32', 10000.0)
    n_vocab = llama_vocabulary(g)
    g.key('llama.vocab_size', 'u32', n_vocab)

    def weight(name, n_in, n_out, fmt, scale):
        g.tensor(name + '.weight', [n_in, n_out], fmt, r.matrix(n_in * n_out, scale))

    weight('token_embd', embd, n_vocab, 'Q8_0', 1.0)
    mix = [('Q4_0', 'Q4_1', 'Q8_0', 'F16'), ('Q4_1', 'Q8_0', 'Q4_0', 'Q8_0'), ('Q8_0', 'F16', 'Q4_1', 'Q4_0')]
    for l in range(layers):
        b, (m0, m1, m2, m3) = 'blk.%d.' % l, mix[l]
        g.tensor(b + 'attn_norm.weight', [embd], 'F32', r.near(embd, 1, 0.1))
        weight(b + 'attn_q', embd, heads * dim, m0, 0.18)
        weight(b + 'attn_k', embd, kv * dim, m1, 0.18)
        weight(b + 'attn_v', embd, kv * dim, m2, 0.18)
        weight(b + 'attn_output', heads * dim, embd, m3, 0.18)
        g.tensor(b + 'ffn_norm.weight', [embd], 'F32', r.near(embd, 1, 0.1))
        weight(b + 'ffn_gate', embd, ff, m2, 0.15)
        weight(b + 'ffn_up', embd, ff, m1, 0.15)
        weight(b + 'ffn_down', ff, embd, m0, 0.12)
    g.tensor('output_norm.weight', [embd], 'F32', r.near(embd, 1, 0.1))
    weight('output', embd, n_vocab, 'Q8_0', 0.35)
    return g


def tiny_gemma3():
    g, r = Gguf(alignment=64), Random(3)
    layers, embd, heads, kv, dim, ff = 8, 64, 4, 1, 32, 128    # layer 5 is global, the others local
    g.key('general.architecture', 'str', 'gemma3')
    g.key('general.name', 'str', 'Tiny gemma3')
    g.key('general.alignment', 'u32', 64)
    for k, v in dict(block_count=layers, context_length=1024, embedding_length=embd, feed_forward_length=ff).items():
        g.key('gemma3.' + k, 'u32', v)
    for k, v in dict(head_count=heads, head_count_kv=kv, key_length=dim, value_length=dim, sliding_window=24).items():
        g.key('gemma3.attention.' + k, 'u32', v)
    g.key('gemma3.attention.layer_norm_rms_epsilon', 'f32', 1e-6)
    g.key('gemma3.rope.freq_base', 'f32', 1000000.0)
    n_vocab = gemma_vocabulary(g)

    def weight(name, n_in, n_out, fmt, scale):
        g.tensor(name + '.weight', [n_in, n_out], fmt, r.matrix(n_in * n_out, scale))

    def norm(name, n, middle, signs=False):
        g.tensor(name + '.weight', [n], 'F32', r.near(n, middle, 0.1, signs))

    # The output is tied to the embedding.  Random signs in the last norm keep a
    # token from simply naming itself.
    norm('output_norm', embd, 1.0, signs=True)
    weight('token_embd', embd, n_vocab, 'Q8_0', 0.3)
    for l in range(layers):
        b = 'blk.%d.' % l
        one, two = ('Q8_0', 'F16') if l % 2 == 0 else ('F16', 'Q8_0')
        norm(b + 'attn_norm', embd, 1.0)
        weight(b + 'attn_q', embd, heads * dim, one, 0.15)
        weight(b + 'attn_k', embd, kv * dim, two, 0.15)
        weight(b + 'attn_v', embd, kv * dim, one, 0.15)
        weight(b + 'attn_output', heads * dim, embd, two, 0.15)
        norm(b + 'attn_q_norm', dim, 1.2)
        norm(b + 'attn_k_norm', dim, 1.2)
        norm(b + 'post_attention_norm', embd, 1.0)
        norm(b + 'ffn_norm', embd, 1.0)
        weight(b + 'ffn_gate', embd, ff, two, 0.15)
        weight(b + 'ffn_up', embd, ff, one, 0.15)
        weight(b + 'ffn_down', ff, embd, 'Q8_0', 0.12)
        norm(b + 'post_ffw_norm', embd, 1.0)
    return g


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    folder = sys.argv[1] if len(sys.argv) > 1 else os.path.join(here, '..', 'data')
    tiny_llama().write(os.path.join(folder, 'tiny-llama.gguf'))
    tiny_gemma3().write(os.path.join(folder, 'tiny-gemma3.gguf'))


if __name__ == '__main__':
    main()
