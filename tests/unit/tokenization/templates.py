"""Chat templates with the structure of published ones: how they open a reply, and what they write around one."""

from __future__ import annotations

SPECIAL = [
    *("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<bos>", "<start_of_turn>"),
    *("<end_of_turn>", "[INST]", "[/INST]", "<｜begin▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"),
    *("<｜end▁of▁sentence｜>", "<think>", "</think>"),
]
CHATML_TURN = "{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
CHATML_OPEN = "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
CHATML = "{%- for m in messages %}" + CHATML_TURN + "{%- endfor %}"
# A reply has a thought if it is the last message, an empty one where none is given.
QWEN_REPLIES = (
    "{%- for m in messages %}{%- if m.role == 'assistant' %}"
    "{%- set content = m.content.split('</think>')[-1].lstrip('\\n') %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if loop.last %}{{- '<think>\\n' + (m.reasoning_content or '') + '\\n</think>\\n\\n' }}{%- endif %}"
    "{{- content + '<|im_end|>\\n' }}{%- else %}" + CHATML_TURN + "{%- endif %}{%- endfor %}"
)
LLAMA_TURNS = (
    "{%- for m in messages %}{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content | trim"
    " + '<|eot_id|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"
)
EXCLUSIVE_TURNS = (
    "{%- for m in messages %}{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{- raise_exception('roles must alternate') }}{%- endif %}"
)

HANDLED = {
    "Qwen3 Instruct": CHATML + CHATML_OPEN,
    "Qwen3 hybrid": QWEN_REPLIES
    + "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    + "{%- if enable_thinking is defined and not enable_thinking %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
    + "{%- endif %}",
    "Qwen3 Thinking": QWEN_REPLIES
    + "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n<think>\\n' }}{%- endif %}",
    "Llama 3": "{{- '<|begin_of_text|>' }}" + LLAMA_TURNS,
    "Llama 3 with a date": "{{- '<|begin_of_text|>' }}{%- if not date_string is defined %}"
    "{%- if strftime_now is defined %}{%- set date_string = strftime_now('%d %b %Y') %}{%- endif %}{%- endif %}"
    "{{- '<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: ' + date_string + '\\n\\n<|eot_id|>' }}"
    + LLAMA_TURNS,
    "Mistral": "{{- bos_token }}"
    + EXCLUSIVE_TURNS
    + "{%- if m.role == 'user' %}{{- '[INST] ' + m.content + '[/INST]' }}"
    "{%- else %}{{- ' ' + m.content + eos_token }}{%- endif %}{%- endfor %}",
    "Gemma": "{{- '<bos>' }}" + EXCLUSIVE_TURNS + "{%- set role = 'model' if m.role == 'assistant' else m.role %}"
    "{{- '<start_of_turn>' + role + '\\n' + m.content | trim + '<end_of_turn>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<start_of_turn>model\\n' }}{%- endif %}",
    "SmolLM2": "{%- for m in messages %}{%- if loop.first and messages[0].role != 'system' %}"
    "{{- '<|im_start|>system\\nYou are a helpful assistant<|im_end|>\\n' }}{%- endif %}"
    + CHATML_TURN
    + "{%- endfor %}"
    + CHATML_OPEN,
    "without add_generation_prompt": CHATML,
}
BETWEEN = {
    "Qwen3 Instruct": "<|im_end|>\n<|im_start|>assistant\n",
    "Qwen3 hybrid": "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    "Qwen3 Thinking": "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    "Mistral": "[/INST] ",
    "without add_generation_prompt": "<|im_end|>\n<|im_start|>assistant\n",
}
# With what the message must show: the text that asks for a reply and the reply.
REFUSED: dict[str, tuple[str, list[str]]] = {
    "DeepSeek-R1 distillation": (
        "{{- '<｜begin▁of▁sentence｜>' }}{%- for m in messages %}"
        "{%- if m.role == 'user' %}{{- '<｜User｜>' + m.content }}"
        "{%- else %}{{- '<｜Assistant｜>' + m.content.split('</think>')[-1] + '<｜end▁of▁sentence｜>' }}{%- endif %}"
        "{%- endfor %}{%- if add_generation_prompt %}{{- '<｜Assistant｜><think>\\n' }}{%- endif %}",
        ["PROMPT<｜Assistant｜><think>\\n'", "PROMPT<｜Assistant｜>REPLY<｜end▁of▁sentence｜>'"],
    ),
    "an open thought": (
        CHATML.replace("m.content", "('<think>\\n' if m.role == 'assistant' else '') + m.content"),
        ["open thought", "<think>"],
    ),
    "another role for a reply": (
        CHATML + "{%- if add_generation_prompt %}{{- '<|im_start|>model\\n' }}{%- endif %}",
        ["<|im_start|>model", "<|im_start|>assistant"],
    ),
    "a system message for replies alone": (
        "{%- if messages | length > 1 %}{{- '<|im_start|>system\\nHello<|im_end|>\\n' }}{%- endif %}" + CHATML,
        ["<|im_start|>system", "<|im_start|>user"],
    ),
    "escaped": (CHATML.replace("m.content", "m.content | e"), ["changes the texts"]),
    "refusing": ("{{- raise_exception('no users\nhere') }}", ["no users here"]),
}
