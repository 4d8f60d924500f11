"""Writes a model of transformers as GGUF with the `gguf` package: its names, a small vocabulary.

The vocabulary is a real byte-level BPE (bytes, a few merges, three special tokens), so that any
loader takes the file; its size is the model's vocab_size.
"""
import re

import gguf
import torch

from make_tiny import TEXT, byte_letters, pairs_learnt

N_VOCAB = 320
MXFP4 = gguf.GGMLQuantizationType.MXFP4


def vocabulary(w):
    letter = byte_letters()
    special = ['<|endoftext|>', '<|im_start|>', '<|im_end|>']
    merges = pairs_learnt([letter[32] + x for x in TEXT.split()], N_VOCAB - 256 - len(special))
    tokens = special + [letter[b] for b in range(256)] + [a + b for a, b in merges]
    w.add_tokenizer_model('gpt2')
    w.add_tokenizer_pre('smollm')
    w.add_token_list(tokens)
    w.add_token_types([3] * 3 + [1] * (N_VOCAB - 3))
    w.add_token_merges([a + ' ' + b for a, b in merges])
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    w.add_unk_token_id(0)
    w.add_pad_token_id(2)
    w.add_add_bos_token(False)


def tensors(model, arch):
    """(GGUF name, tensor) of all: each architecture says what is fused, permuted or moved."""
    names = gguf.get_tensor_name_map(arch.gguf, layers_of(model.config))
    for name, p in model.named_parameters():
        for n, t in arch.convert(model, name, p.detach()):
            there = n if n.startswith(('blk.', 'rope_', 'output')) else names.get_name(n, ('.weight', '.bias'))
            if there is None:
                raise SystemExit('no GGUF name for ' + n)
            yield there, t
    yield from arch.extra(model)


def layers_of(c):
    return c.num_hidden_layers


def write(path, model, arch, name, full=False):
    """full: every matrix as F32; else matrices as F16 (the weights are exact in it)."""
    w = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[arch.gguf])
    w.add_name('Tiny ' + name.replace('phi3', 'phi 3'))      # by "phi3" llama.cpp expects certain tokens
    arch.keys(w, model.config)
    w.add_vocab_size(N_VOCAB)
    vocabulary(w)
    for n, t in tensors(model, arch):
        a = t.float().contiguous().numpy()
        if arch.mxfp4 and n.endswith('_exps.weight') and not full:
            w.add_tensor(n, gguf.quants.quantize(a, MXFP4), raw_dtype=MXFP4)
            continue
        if a.ndim > 1 and not full and not re.search('norm|bias|gate_inp', n):
            assert (torch.from_numpy(a).half().float() == torch.from_numpy(a)).all(), n
            a = a.astype('float16')
        w.add_tensor(n, a)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
