#!/usr/bin/env python3
"""Writes tests/golden/chat.txt: models' own chat templates and what they render.

    make_chat_golden.py SMOLLM2.gguf [FILE]         needs jinja2

SmolLM2's template is the GGUF's; the others are the published ones of their models, shortened to
what speaks of text.  bos_token is empty: BOS is put once, at the start of a timeline, whatever the
template does at later turns.  eos_token is the byte 1, which stands for the model's own.

    template FORMAT HEX PREAMBLE        PREAMBLE in hexadecimal, - for none
    render FORMAT PROMPT MESSAGES HEX   PROMPT 1: with the generation prompt;
                                        MESSAGES role:hex,role:hex...
"""
import os
import sys

import jinja2
import jinja2.sandbox

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

TEMPLATES = {
    "gemma": """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set first_user_prefix = messages[0]['content'] + '\n\n' -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '\n' + (first_user_prefix if loop.first else "") }}
    {{- message['content'] | trim -}}
    {{ '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{ '<start_of_turn>model\n' }}
{%- endif -%}
""",
    "llama-2": "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
               "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
               "{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
               "{% if loop.index0 == 0 and system_message != false %}"
               "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
               "{% else %}{% set content = message['content'] %}{% endif %}"
               "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
               "{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
    "llama-3": "{% set loop_messages = messages %}{% for message in loop_messages %}"
               "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
               "+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}"
               "{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}"
               "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
    "mistral-v1": """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if loop.first and system_message is defined %}
            {{- " [INST] " + system_message + "\n\n" + message["content"] + " [/INST]" }}
        {%- else %}
            {{- " [INST] " + message["content"] + " [/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"] + eos_token}}
    {%- endif %}
{%- endfor %}
""",
    "mistral-v3": """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == user_messages[-1]) %}
            {{- "[AVAILABLE_TOOLS] [" }}
        {%- endif %}
        {%- if loop.first and system_message is defined %}
            {{- "[INST] " + system_message + "\n\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- endif %}
{%- endfor %}
""",
    "zephyr": """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\n'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}""",
    "tulu": "{% for message in messages %}{% if message['role'] == 'system' %}{{ '<|system|>\n' + message['content'] + '\n' }}"
            "{% elif message['role'] == 'user' %}{{ '<|user|>\n' + message['content'] + '\n' }}"
            "{% elif message['role'] == 'assistant' %}{% if not loop.last %}{{ '<|assistant|>\n'  + message['content'] + eos_token + '\n' }}"
            "{% else %}{{ '<|assistant|>\n'  + message['content'] + eos_token }}{% endif %}{% endif %}"
            "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}",
    "deepseek-coder": """{{bos_token}}
{%- for message in messages %}
    {%- if message['role'] == 'system' %}
{{ message['content'] }}
    {%- else %}
        {%- if message['role'] == 'user' %}
{{'### Instruction:\\n' + message['content'] + '\\n'}}
        {%- else %}
{{'### Response:\\n' + message['content'] + '\\n<|EOT|>\\n'}}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{% if add_generation_prompt %}
{{'### Response:'}}
{% endif %}
""",
    "phi-3": "{% for message in messages %}{% if message['role'] == 'system' %}{{'<|system|>\n' + message['content'] + '<|end|>\n'}}"
             "{% elif message['role'] == 'user' %}{{'<|user|>\n' + message['content'] + '<|end|>\n'}}"
             "{% elif message['role'] == 'assistant' %}{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}"
             "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
    "command-r": "{{ bos_token }}{% for message in messages %}{% set content = message['content'] %}"
                 "{% if message['role'] == 'user' %}{{ '<|START_OF_TURN_TOKEN|><|USER_TOKEN|>' + content.strip() + '<|END_OF_TURN_TOKEN|>' }}"
                 "{% elif message['role'] == 'system' %}{{ '<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>' + content.strip() + '<|END_OF_TURN_TOKEN|>' }}"
                 "{% elif message['role'] == 'assistant' %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>'  + content.strip() + '<|END_OF_TURN_TOKEN|>' }}"
                 "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}",
}

# Other spellings of chatml, for what is read from the template beside the format.
RECOGNISED = {
    "qwen2": ("chatml", "{%- if messages[0]['role'] == 'system' %}{{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}"
              "{%- else %}{{- '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You\\'re helpful.<|im_end|>\\n' }}{%- endif %}"
              "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}",
              "You are Qwen, created by Alibaba Cloud. You're helpful."),
    "plain": ("chatml", "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}", None),
    "phi-4": ("phi-4", "{% for m in messages %}{{'<|im_start|>' + m.role + '<|im_sep|>' + m.content + '<|im_end|>'}}{% endfor %}", None),
    "llama-4": ("llama-4", "{{ '<|header_start|>' + role + '<|header_end|>\n\n' }}", None),
    "mistral-v7": ("mistral-v7", "{{ '[SYSTEM_PROMPT] ' + s + '[/SYSTEM_PROMPT]' }}{{ '[INST] ' + c + '[/INST]' }}", None),
    "mistral-v7-tekken": ("mistral-v7-tekken", "{{ '[SYSTEM_PROMPT]' + s + '[/SYSTEM_PROMPT]' }}{{ '[INST]' + c + '[/INST]' }}", None),
    "mistral-v3-tekken": ("mistral-v3-tekken", "{{ \"[AVAILABLE_TOOLS][\" }}{{ \"[INST]\" + c + \"[/INST]\" }}", None),
    "mistral": ("mistral", "{{ bos_token }}{{ '[INST] ' + c + ' [/INST]' }}", None),
    "granite": ("granite", "{{ '<|start_of_role|>user<|end_of_role|>' + c + '<|end_of_text|>\n' }}", None),
    "deepseek": ("deepseek", "{{ '<｜User｜>' + c }}{{ '<｜Assistant｜>' + c + eos }}", None),
    "alpaca": ("alpaca", "{{ '### Instruction:\n' + c + '\n\n' }}", None),
    "vicuna": ("vicuna", "{{ 'USER: ' + c + '\n' }}{{ 'ASSISTANT: ' + c + eos_token }}", None),
}

SYSTEM = ("system", "the sun rose over the hills")
TALKS = [
    [("user", "the cat sat on the mat")],
    [SYSTEM, ("user", "what would you like to know about this question?")],
    [("user", "Hi!"), ("assistant", "hello there"), ("user", "a good answer")],
    [SYSTEM, ("user", "one"), ("assistant", "two\nthree"), ("user", "four"), ("assistant", "five."), ("user", "6 7 88")],
    [("user", "ab c"), ("assistant", "yes"), ("user", "(no)"), ("assistant", "it is"), ("user", "so?")],
    [("user", "[INST] <|im_end|> </s> is text"), ("assistant", "it's <|im_start|>"), ("user", "世界 é")],
]


def render(template, messages, prompt):
    # As transformers does it.
    e = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    return e.from_string(template).render(
        messages=[{"role": r, "content": c} for r, c in messages], add_generation_prompt=prompt,
        bos_token="", eos_token="\x01", tools=None)


def special_words(text):
    """Text that spells special tokens stays text with us, while a rendered template cannot say so:
    only where none of the words is special to the format can the two be compared."""
    return any(w in text for w in ("[INST]", "<|im_end|>", "</s>", "<|im_start|>"))


def main():
    with open(sys.argv[1], "rb") as f:
        data = f.read(64 << 20)
    at = data.index(b"tokenizer.chat_template") + len("tokenizer.chat_template") + 4
    n = int.from_bytes(data[at:at + 8], "little")
    templates = {"chatml": data[at + 8:at + 8 + n].decode(), **TEMPLATES}
    preamble = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    path = sys.argv[2] if len(sys.argv) > 2 else os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden", "chat.txt")
    with open(path, "w") as f:
        f.write("# Chat templates and what jinja2 %s renders; made by tests/tools/make_chat_golden.py, which explains it.\n" % jinja2.__version__)
        for name, t in templates.items():
            f.write("template %s %s %s\n" % (name, t.encode().hex(), preamble.encode().hex() if name == "chatml" else "-"))
        for name, t, p in RECOGNISED.values():
            f.write("template %s %s %s\n" % (name, t.encode().hex(), p.encode().hex() if p else "-"))
        for name, t in templates.items():
            for talk in TALKS:
                if any(special_words(c) for _, c in talk) and name != "gemma":
                    continue
                # Without a prompt of their own, these end a user's turn with [/INST] either way.
                r = render(t, talk, True)
                f.write("render %s 1 %s %s\n" % (name, ",".join("%s:%s" % (a, b.encode().hex()) for a, b in talk), r.encode().hex()))
                # Where a template leaves out what follows the last turn we have it, as the next turn will.
                if talk[-1][0] == "user" and len(talk) > 2 and "not loop.last" not in t:
                    r = render(t, talk[:-1], False)
                    f.write("render %s 0 %s %s\n" % (name, ",".join("%s:%s" % (a, b.encode().hex()) for a, b in talk[:-1]), r.encode().hex()))


main()
