"""The architectures of make_goldens.py: a tiny configuration of each, and what its GGUF says.

One row each.  The functions say how a layer's input becomes q, k and v (before rotation), which
keys the file carries and how weights are rearranged, as llama.cpp's own conversion does.
"""
import math
import re
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Callable

import gguf
import torch
import transformers as hf

A = gguf.MODEL_ARCH
MXFP4 = gguf.GGMLQuantizationType.MXFP4
V = 320
SIZE = dict(vocab_size=V, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=1024, bos_token_id=1, eos_token_id=2, pad_token_id=2)


# ---- q, k, v: [n, heads, dim] each ----

def heads(x, dim):
    return x.view(x.shape[0], -1, dim)


def separate(m, h):
    """q_proj, k_proj, v_proj, with the norms that there may be: of all heads, of each head, one a head."""
    q, k, v = m.q_proj(h), m.k_proj(h), m.v_proj(h)
    d = m.head_dim
    if hasattr(m, 'q_layernorm'):
        per = lambda norms, x: torch.stack([norms.norms[i](x[:, i]) for i in range(x.shape[1])], 1)
        return per(m.q_layernorm, heads(q, d)), per(m.k_layernorm, heads(k, d)), heads(v, d)
    if not hasattr(m, 'q_norm'):
        return heads(q, d), heads(k, d), heads(v, d)
    if m.q_norm.weight.numel() == d:
        return m.q_norm(heads(q, d)), m.k_norm(heads(k, d)), heads(v, d)
    return heads(m.q_norm(q), d), heads(m.k_norm(k), d), heads(v, d)


def fused_mpt(m, h):
    x = m.Wqkv(h).clamp(-m.clip_qkv, m.clip_qkv) if m.clip_qkv else m.Wqkv(h)
    return tuple(heads(y, m.head_dim) for y in x.chunk(3, -1))


def fused_neox(m, h):
    x = m.query_key_value(h).view(h.shape[0], -1, 3, m.head_size)
    return x[:, :, 0], x[:, :, 1], x[:, :, 2]


def fused_falcon(m, h):
    """Groups of queries, each followed by its key and its value; one group in the 7B form."""
    groups = m.num_kv_heads
    x = m.query_key_value(h).view(h.shape[0], groups, -1, m.head_dim)
    return x[:, :, :-2].flatten(1, 2), x[:, :, -2], x[:, :, -1]


def fused_phi3(m, h):
    c, d = m.config, m.head_dim
    n, k = c.num_attention_heads * d, c.num_key_value_heads * d
    return tuple(heads(x, d) for x in m.qkv_proj(h).split([n, k, k], -1))


# ---- rope: (frequencies or None, scale of the sines, pairs or halves) ----

def rope_plain(model, m, n_cache):
    if not getattr(m, 'use_rope', 1):
        return None, 1.0, False
    r = next(x for _, x in model.named_modules() if type(x).__name__.endswith('RotaryEmbedding'))
    kind = getattr(m, 'layer_type', None) or getattr(m, 'attention_type', None)
    if kind and hasattr(r, kind + '_inv_freq'):
        return getattr(r, kind + '_inv_freq'), getattr(r, kind + '_attention_scaling'), False
    return r.inv_freq, r.attention_scaling, False


def rope_gptj(model, m, n_cache):
    return 10000.0 ** -(torch.arange(0, m.rotary_dim, 2) / m.rotary_dim), 1.0, True


def rope_none(model, m, n_cache):
    return None, 1.0, False


def rope_long(model, m, n_cache):
    """longrope, frozen at the size of the cache: the long factors where it is beyond the original context."""
    r = next(x for _, x in model.named_modules() if type(x).__name__.endswith('RotaryEmbedding'))
    p = model.config.rope_parameters
    n = int(m.head_dim * p.get('partial_rotary_factor', 1.0))
    f = p['long_factor' if n_cache > p['original_max_position_embeddings'] else 'short_factor']
    return p['rope_theta'] ** -(torch.arange(0, n, 2) / n) / torch.tensor(f), r.attention_scaling, False


# ---- weights on their way into the file ----

def interleave(w, n):
    """Rows of a head from halves to pairs, as in llama's GGUF."""
    return w.reshape(n, 2, -1, *w.shape[1:]).transpose(1, 2).reshape(w.shape)


def as_is(model, name, t):
    return [(name, t)]


def convert_llama(model, name, t):
    c = model.config
    if re.search(r'q_proj\.(weight|bias)$', name):
        t = interleave(t, c.num_attention_heads)
    if re.search(r'k_proj\.(weight|bias)$', name):
        t = interleave(t, c.num_key_value_heads)
    return [(name, t)]


def convert_gemma(model, name, t):
    return [(name, t + 1 if name.endswith('norm.weight') else t)]


def convert_neox(model, name, t):
    if 'query_key_value' in name:
        n = model.config.num_attention_heads
        t = t.view(n, 3, -1, *t.shape[1:]).transpose(0, 1).reshape(t.shape)
    return [(name, t)]


def convert_falcon(model, name, t):
    if 'query_key_value' in name:
        c = model.config
        groups = c.num_kv_heads if c.new_decoder_architecture else 1
        x = t.view(groups, -1, c.hidden_size // c.num_attention_heads, c.hidden_size)
        t = torch.cat([y.reshape(-1, c.hidden_size) for y in (x[:, :-2], x[:, -2], x[:, -1])])
    return [(name, t)]


def convert_stablelm(model, name, t):
    found = re.match(r'model\.layers\.(\d+)\.self_attn\.([qk])_layernorm\.norms\.0\.weight', name)
    if found:
        l, which = int(found[1]), found[2]
        norms = getattr(model.model.layers[l].self_attn, which + '_layernorm').norms
        return [('blk.%d.attn_%s_norm.weight' % (l, which), torch.stack([x.weight.detach() for x in norms]))]
    return [] if 'layernorm.norms' in name else [(name, t)]


def convert_experts(model, name, t):
    """Gate and up lie one after the other in each expert; GGUF has a tensor of each for all experts."""
    l = re.search(r'layers\.(\d+)', name)
    if name.endswith('experts.gate_up_proj'):
        return list(zip(('blk.%s.ffn_%s_exps.weight' % (l[1], k) for k in ('gate', 'up')), t.chunk(2, 1)))
    if name.endswith('experts.down_proj'):
        return [('blk.%s.ffn_down_exps.weight' % l[1], t)]
    return convert_llama(model, name, t) if model.config.model_type == 'mixtral' else [(name, t)]


def convert_oss(model, name, t):
    """Here gate and up alternate, and matrices are stored inputs first; each expert has biases."""
    l, part, kind = re.search(r'layers\.(\d+)', name), name.split('.')[-1], 'weight'
    if part == 'sinks':
        return [('blk.%s.attn_sinks.weight' % l[1], t)]
    if not re.match('(gate_up|down)_proj(_bias)?$', part):
        return [(name, t)]
    if part.endswith('_bias'):
        kind = 'bias'
    else:
        t = t.transpose(1, 2)
    if part.startswith('down'):
        return [('blk.%s.ffn_down_exps.%s' % (l[1], kind), t)]
    return [('blk.%s.ffn_%s_exps.%s' % (l[1], k, kind), t[:, i::2]) for i, k in enumerate(('gate', 'up'))]


def mend_oss(model):
    """The experts' weights are what MXFP4 can say."""
    for name, p in model.named_parameters():
        if name.endswith(('experts.gate_up_proj', 'experts.down_proj')):
            a = p.detach().transpose(1, 2).contiguous().numpy()
            q = gguf.quants.dequantize(gguf.quants.quantize(a, MXFP4), MXFP4)
            p.data.copy_(torch.from_numpy(q).transpose(1, 2))


def nothing(model):
    return []


def mend_mpt(model):
    """transformers takes no notice of alibi_bias_max; MPT's own code and llama.cpp do."""
    t = model.transformer
    t.build_mpt_alibi_tensor = partial(t.build_mpt_alibi_tensor, alibi_bias_max=model.config.attn_config.alibi_bias_max)


def extra_llama3(model):
    """The divisors of the frequencies, from the frequencies themselves."""
    c, r = model.config, model.model.rotary_emb
    plain = 1.0 / (c.rope_parameters['rope_theta'] ** (torch.arange(0, c.head_dim, 2).float() / c.head_dim))
    return [('rope_freqs.weight', plain / r.inv_freq)]


def extra_long(model):
    p = model.config.rope_parameters
    return [('rope_factors_%s.weight' % k, torch.tensor(p[k + '_factor'])) for k in ('long', 'short')]


# ---- keys ----

def keys_common(w, c):
    w.add_context_length(c.max_position_embeddings)
    w.add_embedding_length(c.hidden_size)
    w.add_block_count(c.num_hidden_layers)
    w.add_feed_forward_length(c.intermediate_size)
    w.add_head_count(c.num_attention_heads)
    w.add_head_count_kv(c.num_key_value_heads)


def keys_rms(w, c):
    keys_common(w, c)
    w.add_layer_norm_rms_eps(c.rms_norm_eps)
    p = c.rope_parameters
    w.add_rope_freq_base(p['rope_theta'])
    kind = p.get('rope_type', 'default')
    if kind in ('linear', 'yarn'):
        w.add_rope_scaling_type(gguf.RopeScalingType(kind))
        w.add_rope_scaling_factor(p['factor'])
    if kind == 'yarn':
        w.add_rope_scaling_orig_ctx_len(p['original_max_position_embeddings'])


def keys_olmo3(w, c):
    """The rope of the global layers; the local ones have the same base, unscaled."""
    full = c.rope_parameters['full_attention']
    assert c.rope_parameters['sliding_attention'] == dict(rope_type='default', rope_theta=full['rope_theta'])
    keys_common(w, c)
    w.add_layer_norm_rms_eps(c.rms_norm_eps)
    w.add_rope_freq_base(full['rope_theta'])
    w.add_rope_scaling_type(gguf.RopeScalingType(full['rope_type']))
    w.add_rope_scaling_factor(full['factor'])
    w.add_rope_scaling_orig_ctx_len(full['original_max_position_embeddings'])
    w.add_sliding_window(c.sliding_window)
    # The conversion writes all of the scale, and which layers are local.
    w.add_rope_scaling_attn_factors(1 + 0.1 * math.log(full['factor']))
    w.add_sliding_window_pattern([t == 'sliding_attention' for t in c.layer_types])


def keys_head_dim(w, c):
    keys_rms(w, c)
    w.add_key_length(c.head_dim)
    w.add_value_length(c.head_dim)


def keys_llama(w, c):
    keys_rms(w, c)
    d = c.head_dim or c.hidden_size // c.num_attention_heads
    w.add_rope_dimension_count(d)
    if d * c.num_attention_heads != c.hidden_size:
        w.add_key_length(d)
        w.add_value_length(d)


def keys_smollm3(w, c):
    keys_rms(w, c)
    w.add_rope_dimension_count(c.hidden_size // c.num_attention_heads)


def keys_mpt(w, c):
    w.add_context_length(c.max_seq_len)
    w.add_embedding_length(c.d_model)
    w.add_block_count(c.n_layers)
    w.add_feed_forward_length(4 * c.d_model)
    w.add_head_count(c.n_heads)
    w.add_layer_norm_eps(1e-5)
    if c.attn_config.clip_qkv is not None:
        w.add_clamp_kqv(c.attn_config.clip_qkv)
    w.add_max_alibi_bias(c.attn_config.alibi_bias_max)


def keys_falcon(w, c):
    w.add_context_length(c.max_position_embeddings)
    w.add_tensor_data_layout('jploski')
    w.add_embedding_length(c.hidden_size)
    w.add_feed_forward_length(4 * c.hidden_size)
    w.add_block_count(c.num_hidden_layers)
    w.add_head_count(c.num_attention_heads)
    w.add_head_count_kv(c.num_kv_heads if c.new_decoder_architecture else 1)
    w.add_layer_norm_eps(c.layer_norm_epsilon)


def keys_neox(w, c):
    w.add_context_length(c.max_position_embeddings)
    w.add_embedding_length(c.hidden_size)
    w.add_block_count(c.num_hidden_layers)
    w.add_feed_forward_length(c.intermediate_size)
    w.add_rope_dimension_count(int(c.rope_parameters['partial_rotary_factor'] * c.hidden_size // c.num_attention_heads))
    w.add_head_count(c.num_attention_heads)
    w.add_parallel_residual(c.use_parallel_residual)
    w.add_layer_norm_eps(c.layer_norm_eps)


def keys_gptj(w, c):
    w.add_context_length(c.n_positions)
    w.add_embedding_length(c.n_embd)
    w.add_block_count(c.n_layer)
    w.add_feed_forward_length(c.n_inner)
    w.add_head_count(c.n_head)
    w.add_layer_norm_eps(c.layer_norm_epsilon)
    w.add_rope_dimension_count(c.rotary_dim)


def keys_stablelm(w, c):
    keys_common(w, c)
    w.add_rope_dimension_count(int(c.rope_parameters['partial_rotary_factor'] * c.hidden_size // c.num_attention_heads))
    w.add_parallel_residual(True)      # as the conversion does where a model says nothing, and transformers mean no
    w.add_layer_norm_eps(c.layer_norm_eps)


def keys_starcoder2(w, c):
    keys_common(w, c)
    w.add_rope_dimension_count(c.hidden_size // c.num_attention_heads)
    w.add_rope_freq_base(c.rope_parameters['rope_theta'])
    w.add_layer_norm_eps(c.norm_epsilon)


def keys_gemma2(w, c):
    keys_common(w, c)
    w.add_layer_norm_rms_eps(c.rms_norm_eps)
    w.add_key_length(c.head_dim)
    w.add_value_length(c.head_dim)
    w.add_attn_logit_softcapping(c.attn_logit_softcapping)
    w.add_final_logit_softcapping(c.final_logit_softcapping)
    w.add_sliding_window(c.sliding_window)


def keys_gemma3(w, c):
    keys_common(w, c)
    w.add_layer_norm_rms_eps(c.rms_norm_eps)
    w.add_key_length(c.head_dim)
    w.add_value_length(c.head_dim)
    p = c.rope_parameters['full_attention']
    w.add_rope_freq_base(p['rope_theta'])
    w.add_sliding_window(c.sliding_window)
    if p['rope_type'] == 'linear':
        w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        w.add_rope_scaling_factor(p['factor'])


def keys_phi3(w, c):
    p = c.rope_parameters
    keys_common(w, c)
    w.add_layer_norm_rms_eps(c.rms_norm_eps)
    w.add_rope_freq_base(p['rope_theta'])
    w.add_rope_dimension_count(int(p.get('partial_rotary_factor', 1.0) * c.hidden_size // c.num_attention_heads))
    w.add_rope_scaling_orig_ctx_len(c.original_max_position_embeddings)
    w.add_sliding_window(c.sliding_window or 0)
    if p['rope_type'] == 'longrope':
        w.add_rope_scaling_attn_factors(p['attention_factor'])


def keys_experts(w, c):
    w.add_expert_count(getattr(c, 'num_local_experts', None) or c.num_experts)
    w.add_expert_used_count(c.num_experts_per_tok)


def keys_mixtral(w, c):
    keys_llama(w, c)
    keys_experts(w, c)


def keys_qwen3moe(w, c):
    keys_head_dim(w, c)
    keys_experts(w, c)
    w.add_expert_feed_forward_length(c.moe_intermediate_size)


def keys_oss(w, c):
    keys_head_dim(w, c)
    keys_experts(w, c)
    w.add_expert_feed_forward_length(c.intermediate_size)
    w.add_sliding_window(c.sliding_window)


# ---- the rows ----

@dataclass
class Arch:
    gguf: Any
    config: Callable                   # () -> a configuration of transformers
    keys: Callable = keys_rms          # (writer, config)
    qkv: Callable = separate           # (attention module, [n, n_embd]) -> q, k, v
    rope: Callable = rope_plain        # (model, attention module, cache size)
    convert: Callable = as_is          # (model, name, tensor) -> [(name, tensor)]
    extra: Callable = nothing          # (model) -> [(GGUF name, tensor)]
    mend: Callable = nothing           # (model): after its weights are set
    as_llama: Callable = None          # () -> the configuration that llama.cpp takes the file for, where it errs
    mxfp4: bool = False                # experts' matrices
    alibi: bool = False
    local: bool = False                # sliding_window of a module means local layers
    llama: bool = True                 # llama.cpp implements it
    embd: float = 1.0                  # standard deviation of the embedding
    loud: float = 1.0                  # gain of ffn and output, where the two kinds of GELU must differ
    zero_norm: bool = False            # a norm's weight is added to 1
    limit: float = 1e-3                # of the difference to llama.cpp's dense run
    runs: list = field(default_factory=lambda: [(4, 40), (0, 32), (1, 63)])

    def scale(self, m, dim):
        return getattr(m, 'scaling', None) or getattr(m, 'softmax_scale', None) or dim ** -0.5

    def out(self, m):
        return next(getattr(m, n) for n in ('o_proj', 'dense', 'out_proj') if hasattr(m, n))


def rope(kind='default', theta=10000.0, **k):
    return dict(rope_type=kind, rope_theta=theta, **k)


def plain(cls, **k):
    return lambda: cls(**{**SIZE, 'rope_parameters': rope(), **k})


def oss(truncate):
    """YaRN's ramp of gpt-oss begins and ends between dimensions; llama.cpp rounds both outwards."""
    return plain(hf.GptOssConfig, intermediate_size=64, num_hidden_layers=2, num_local_experts=4, num_experts_per_tok=2, head_dim=32,
                 sliding_window=24, rope_parameters=rope('yarn', 150000.0, factor=32.0, beta_fast=32.0, beta_slow=1.0,
                                                         truncate=truncate, original_max_position_embeddings=128))()


SLIM = dict(hidden_size=32, intermediate_size=32, num_attention_heads=1, num_key_value_heads=1, head_dim=16, query_pre_attn_scalar=32,
            sliding_window=24)
GEMMA3_ROPE = dict(full_attention=rope('linear', 1e6, factor=8.0), sliding_attention=rope())

ARCHS = {
    'llama': Arch(A.LLAMA, plain(hf.LlamaConfig, tie_word_embeddings=True, attention_bias=True), keys_llama,
                  convert=convert_llama, embd=0.3),
    'llama3': Arch(A.LLAMA, plain(hf.LlamaConfig, rope_parameters=rope('llama3', 5000.0, factor=8.0, low_freq_factor=1.0,
                   high_freq_factor=4.0, original_max_position_embeddings=128)), keys_llama, convert=convert_llama, extra=extra_llama3),
    'llama-linear': Arch(A.LLAMA, plain(hf.LlamaConfig, rope_parameters=rope('linear', factor=4.0)), keys_llama, convert=convert_llama),
    'llama-yarn': Arch(A.LLAMA, plain(hf.LlamaConfig, rope_parameters=rope('yarn', 1000.0, factor=4.0,
                       original_max_position_embeddings=128)), keys_llama, convert=convert_llama),
    'mistral': Arch(A.LLAMA, plain(hf.MistralConfig, head_dim=32, sliding_window=None), keys_llama, convert=convert_llama),
    'qwen2': Arch(A.QWEN2, plain(hf.Qwen2Config, rope_parameters=rope(theta=1e6))),
    'qwen3': Arch(A.QWEN3, plain(hf.Qwen3Config, rope_parameters=rope(theta=1e6), head_dim=32, tie_word_embeddings=True), keys_head_dim, embd=0.3),
    'mpt': Arch(A.MPT, lambda: hf.MptConfig(d_model=96, n_heads=6, n_layers=2, vocab_size=V, max_seq_len=1024,
                attn_config=dict(clip_qkv=1.5, alibi_bias_max=6)), keys_mpt, fused_mpt, rope_none, mend=mend_mpt, alibi=True,
                embd=0.5, loud=3.0, limit=2e-2),
    'falcon7b': Arch(A.FALCON, lambda: hf.FalconConfig(vocab_size=V, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
                     multi_query=True, parallel_attn=True, bias=False, max_position_embeddings=1024, rope_parameters=rope()),
                     keys_falcon, fused_falcon, convert=convert_falcon, embd=0.5, loud=3.0, limit=2e-2),
    'falcon40b': Arch(A.FALCON, lambda: hf.FalconConfig(vocab_size=V, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_kv_heads=2,
                      new_decoder_architecture=True, bias=False, max_position_embeddings=1024, rope_parameters=rope(),
                      tie_word_embeddings=False), keys_falcon, fused_falcon, convert=convert_falcon, loud=2.0, limit=2e-2),
    'gptneox': Arch(A.GPTNEOX, lambda: hf.GPTNeoXConfig(vocab_size=V, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                    num_attention_heads=2, max_position_embeddings=1024, use_parallel_residual=True,
                    rope_parameters=rope(partial_rotary_factor=0.25)), keys_neox, fused_neox, convert=convert_neox, loud=2.0, limit=2e-2),
    'gptneox-serial': Arch(A.GPTNEOX, lambda: hf.GPTNeoXConfig(vocab_size=V, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                           num_attention_heads=4, max_position_embeddings=1024, use_parallel_residual=False,
                           rope_parameters=rope(partial_rotary_factor=0.5)), keys_neox, fused_neox, convert=convert_neox, loud=2.0, limit=2e-2),
    'gptj': Arch(A.GPTJ, lambda: hf.GPTJConfig(vocab_size=V, n_positions=1024, n_embd=64, n_layer=2, n_head=4, rotary_dim=8, n_inner=128),
                 keys_gptj, rope=rope_gptj, loud=2.0, llama=False),
    'stablelm': Arch(A.STABLELM, plain(hf.StableLmConfig, rope_parameters=rope(partial_rotary_factor=0.25), use_qkv_bias=True,
                     hidden_size=64, num_attention_heads=2, num_key_value_heads=2), keys_stablelm, convert=convert_stablelm),
    'stablelm-12b': Arch(A.STABLELM, plain(hf.StableLmConfig, rope_parameters=rope(partial_rotary_factor=0.5), use_parallel_residual=True,
                         qk_layernorm=True), keys_stablelm, convert=convert_stablelm),
    'gemma2': Arch(A.GEMMA2, plain(hf.Gemma2Config, head_dim=32, query_pre_attn_scalar=32, sliding_window=24, attn_logit_softcapping=2.0,
                   final_logit_softcapping=4.0, num_hidden_layers=3), keys_gemma2, convert=convert_gemma, local=True, embd=0.3,
                   zero_norm=True, limit=1e-2),
    'gemma3': Arch(A.GEMMA3, lambda: hf.Gemma3TextConfig(**{**SIZE, 'num_hidden_layers': 7, 'num_key_value_heads': 1}, head_dim=16,
                   query_pre_attn_scalar=16, sliding_window=24, rope_parameters=GEMMA3_ROPE), keys_gemma3,
                   convert=convert_gemma, local=True, embd=0.3, zero_norm=True, limit=1e-2),
    'gemma2-27b': Arch(A.GEMMA2, plain(hf.Gemma2Config, **SLIM, num_hidden_layers=46, attn_logit_softcapping=50.0, final_logit_softcapping=30.0),
                       keys_gemma2, convert=convert_gemma, local=True, embd=0.4, zero_norm=True, limit=2e-2),
    'gemma3-27b': Arch(A.GEMMA3, lambda: hf.Gemma3TextConfig(**{**SIZE, **SLIM, 'num_hidden_layers': 62}, rope_parameters=GEMMA3_ROPE),
                       keys_gemma3, convert=convert_gemma, local=True, embd=0.4, zero_norm=True, limit=2e-2),
    'phi3': Arch(A.PHI3, plain(hf.Phi3Config, rope_parameters=rope(partial_rotary_factor=0.75), sliding_window=None,
                 original_max_position_embeddings=1024), keys_phi3, fused_phi3),
    'phi3-long': Arch(A.PHI3, plain(hf.Phi3Config, original_max_position_embeddings=128, rope_parameters=rope('longrope', 10000.0,
                      short_factor=[1.0, 1.1, 1.2, 1.3, 1.5, 1.7, 1.9, 2.0], long_factor=[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0],
                      attention_factor=1.19, original_max_position_embeddings=128)), keys_phi3, fused_phi3, rope=rope_long,
                      extra=extra_long, runs=[(4, 40), (0, 32), (1, 63), (4, 150)]),
    'olmo2': Arch(A.OLMO2, plain(hf.Olmo2Config)),
    'olmo3': Arch(A.OLMO2, lambda: hf.Olmo3Config(**{**SIZE, 'num_hidden_layers': 5}, sliding_window=24, rope_parameters=dict(
                  full_attention=rope('yarn', 10000.0, factor=4.0, original_max_position_embeddings=128),
                  sliding_attention=rope())), keys_olmo3, local=True),
    'starcoder2': Arch(A.STARCODER2, plain(hf.Starcoder2Config, use_bias=True, sliding_window=None, hidden_act='gelu_pytorch_tanh',
                       rope_parameters=rope(theta=1e5)), keys_starcoder2, embd=0.3, loud=2.0, limit=2e-2),
    'smollm3': Arch(A.SMOLLM3, plain(hf.SmolLM3Config, num_hidden_layers=4, rope_parameters=rope(theta=5e6)), keys_smollm3,
                    convert=convert_llama, embd=0.3),
    'mixtral': Arch(A.LLAMA, plain(hf.MixtralConfig, intermediate_size=64, num_hidden_layers=2, num_local_experts=4, num_experts_per_tok=2,
                    sliding_window=None), keys_mixtral, convert=convert_experts),
    'qwen3moe': Arch(A.QWEN3MOE, plain(hf.Qwen3MoeConfig, moe_intermediate_size=32, num_hidden_layers=2, num_experts=8, num_experts_per_tok=3,
                     head_dim=32, norm_topk_prob=True, rope_parameters=rope(theta=1e6)), keys_qwen3moe, convert=convert_experts),
    'gpt-oss': Arch(A.GPT_OSS, lambda: oss(False), keys_oss, convert=convert_oss, mend=mend_oss, local=True, mxfp4=True,
                    as_llama=lambda: oss(True)),
}
