"""Makes a small model with seeded random weights, for engines on CPUs: ``python make_model.py FOLDER NAME``.

Runs in the engine's Python environment (torch, transformers, tokenizers), on its own. The weights are N(0, 0.06): with
smaller ones all logits are alike whatever the KV cache holds, and a wrong transfer would go unnoticed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

MODELS: dict[str, dict[str, Any]] = {
    # 4 KiB of KV per token
    "qwen2-8x512": {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "num_hidden_layers": 8,
        "hidden_size": 512,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "intermediate_size": 1408,
    },
    # 16 KiB of KV per token: much KV for little compute, so that the network weighs more
    "llama-8x512": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_hidden_layers": 8,
        "hidden_size": 512,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "intermediate_size": 1024,
    },
    # for tests: 4 layers, 4 KiB of KV per token
    "llama-4x256": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_hidden_layers": 4,
        "hidden_size": 256,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "intermediate_size": 512,
    },
}
VOCABULARY = 1024
INITIALIZER_RANGE = 0.06
COMMON = {
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 16384,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "initializer_range": INITIALIZER_RANGE,
    "use_cache": True,
}


def make(folder: Path, name: str, seed: int = 0) -> None:
    """Write configuration, tokenizer and weights of the model ``name`` of :data:`MODELS` to ``folder``."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    config = {**COMMON, **MODELS[name]}
    config["head_dim"] = config["hidden_size"] // config["num_attention_heads"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["prefill and decode exchange the key value cache of a prompt"], trainer)
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.bfloat16)
    model.save_pretrained(folder)


if __name__ == "__main__":
    make(Path(sys.argv[1]), sys.argv[2])
