"""Load a model with the transformers of the path; print what it reports and the logits of given tokens, as JSON."""

import json
import sys

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, ids, text = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
model, info = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32, output_loading_info=True)
tokenizer = AutoTokenizer.from_pretrained(folder)
with torch.inference_mode():
    logits = model(input_ids=torch.tensor([ids])).logits[0].tolist()
problems = {name: sorted(map(str, keys)) for name, keys in info.items() if keys}
print(
    json.dumps(
        {
            "version": transformers.__version__,
            "problems": problems,
            "logits": logits,
            "ids": tokenizer(text, add_special_tokens=False)["input_ids"],
        }
    )
)
