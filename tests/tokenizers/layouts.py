"""Chat templates of our own, in the layouts that published models have; each with its control tokens."""

import json

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

CHATML = ("{%- for m in messages %}{{- '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}"
          "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}")
CHATML_SYSTEM = ("{% if messages[0].role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}" + CHATML)
LLAMA2 = ("{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}"
          "{{ '[INST] ' + m.content.strip() + ' [/INST]' }}"
          "{% elif m.role == 'assistant' %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% else %}"
          "{{ raise_exception('roles are user and assistant') }}{% endif %}{% endfor %}")
LLAMA3 = ("{{ bos_token }}{% if tools is none %}{% set date = strftime_now('%d %b %Y') if dated else '1 Jan 2020' %}"
          "<|start_header_id|>system<|end_header_id|>\n\nToday: {{ date }}\n\n<|eot_id|>{% endif %}"
          "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>"
          "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}")
GEMMA = ("{{ bos_token }}{% for m in messages %}{% set role = 'model' if m.role == 'assistant' else m.role %}"
         "<start_of_turn>{{ role }}\n{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
         "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}")
MISTRAL = ("{{ bos_token }}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
           "{{ raise_exception('roles must alternate') }}{% endif %}{% if m.role == 'user' %}[INST] {{ m.content }}"
           "[/INST]{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}")
PHI = ("{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
       "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}")
ZEPHYR = ("{% for m in messages %}\n<|{{ m.role }}|>\n{{ m.content + eos_token }}\n"
          "{% if loop.last and add_generation_prompt %}\n<|assistant|>{% endif %}\n{% endfor %}")
QWEN3 = ("{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}"
         "<think>\n{{ m.reasoning_content | default('') }}\n</think>\n\n{% endif %}"
         "{{ m.content }}<|im_end|>\n{% endfor %}"
         "{% if add_generation_prompt %}<|im_start|>assistant\n"
         "{% if enable_thinking is defined and not enable_thinking %}"
         "<think>\n\n</think>\n\n{% endif %}{% endif %}")
SMOLLM3 = ("{% set thinks = enable_thinking if enable_thinking is defined else true %}<|im_start|>system\nMode: "
           "{{ '/think' if thinks else '/no_think' }}<|im_end|>\n{% for m in messages %}{% if m.role == 'assistant' %}"
           "{% generation %}<|im_start|>assistant\n{% if not thinks %}<think>\n\n</think>\n{% endif %}"
           "{{ m.content.lstrip('\n') }}<|im_end|>\n{% endgeneration %}{% else %}<|im_start|>{{ m.role }}\n"
           "{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
           "{% if not thinks %}<think>\n\n</think>\n{% endif %}{% endif %}")
GRANITE = ("{% if tools %}tools{% endif %}{% if documents %}documents{% endif %}{% for m in messages %}"
           "<|start_of_role|>{{ m.role }}<|end_of_role|>{{ m.content }}<|end_of_text|>\n{% endfor %}"
           "{% if add_generation_prompt %}<|start_of_role|>assistant"
           "{% if controls %} {{ controls | tojson }}{% endif %}"
           "<|end_of_role|>{% endif %}")
OLMO = ("{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% if m.role == 'assistant' %}"
        "{% if not loop.last %}{{ eos_token + '\n' }}{% else %}{{ eos_token }}{% endif %}"
        "{% else %}\n{% endif %}"
        "{% if loop.last and add_generation_prompt %}<|assistant|>\n{% endif %}{% endfor %}")
DEEPSEEK = ("{% set ns = namespace(first=true) %}{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}"
            "{{ '<｜User｜>' + m.content }}{% set ns.first = false %}{% else %}{{ '<｜Assistant｜>' "
            "+ m.content.split('</think>')[-1] + '<｜end▁of▁sentence｜>' }}{% endif %}{% endfor %}"
            "{% if add_generation_prompt and not ns.first %}<｜Assistant｜><think>\n{% endif %}")
COMMAND = ("{{ bos_token }}{% for m in messages %}<|START_OF_TURN_TOKEN|>{% if m.role == 'user' %}<|USER_TOKEN|>"
           "{% else %}<|CHATBOT_TOKEN|>{% endif %}{{ m.content }}<|END_OF_TURN_TOKEN|>{% endfor %}"
           "{% if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{% endif %}")
PADDED = "{% if pad_token is defined %}{{ pad_token }}{% endif %}{% if bos_token %}{{ bos_token }}{% endif %}" + CHATML

LAYOUTS = {
    "chatml": CHATML, "chatml_system": CHATML_SYSTEM, "llama2": LLAMA2, "llama3": LLAMA3, "gemma": GEMMA,
    "mistral": MISTRAL, "phi": PHI, "zephyr": ZEPHYR, "qwen3": QWEN3, "smollm3": SMOLLM3, "granite": GRANITE,
    "olmo": OLMO, "deepseek": DEEPSEEK, "command": COMMAND, "padded": PADDED,
}
CONTROL = (
    "<|endoftext|>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>",
    "<|eot_id|>", "<start_of_turn>", "<end_of_turn>", "[INST]", "[/INST]", "<|end|>", "<|start_of_role|>",
    "<|end_of_role|>", "<|end_of_text|>", "<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>",
    "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<pad>",
)


def save_tokenizer(folder, template, markers=("<think>", "</think>"), special=False, **settings):
    """A folder with a byte-level tokenizer that knows every control token of the layouts, and the template.

    Markers of thoughts are tokens as well, and control tokens if `special`.
    """
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = tokenizers.Tokenizer(models.BPE({c: i for i, c in enumerate(letters)}, []))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.add_special_tokens(list(CONTROL))
    (made.add_special_tokens if special else made.add_tokens)(list(markers))
    folder.mkdir(parents=True, exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    given = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>",
             "chat_template": template, **settings}
    given = {name: value for name, value in given.items() if value is not None}
    (folder / "tokenizer_config.json").write_text(json.dumps(given))
    return f"hf:{folder}"
