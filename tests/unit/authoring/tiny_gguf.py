"""A small real language model in GGUF, written by the gguf library: random numbers, the shape of a Llama."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy

WIDTH, HEADS, HIDDEN, BLOCKS, CONTEXT = 32, 4, 64, 2, 256
SPECIAL = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{n:02X}>" for n in range(256)]
WORDS = ["▁ship", "▁harbour", "▁sails", "▁to", "▁the", "▁tide", "▁rope", "▁wind", "▁a", "▁dock", "s", "."]
CHAT_TEMPLATE = "{% for m in messages %}<s>the {{ m['role'] }} to the {{ m['content'] }}{% endfor %}"


def write(path: Path, *, seed: int, chat: bool = False) -> Path:
    """Other seeds are other weights, which say something else."""
    random = numpy.random.default_rng(seed)
    tokens = SPECIAL + BYTES + WORDS
    kinds = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
    kinds += [gguf.TokenType.BYTE] * len(BYTES) + [gguf.TokenType.NORMAL] * len(WORDS)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(BLOCKS)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([float(len(word)) for word in tokens])
    writer.add_token_types(kinds)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    if chat:
        writer.add_chat_template(CHAT_TEMPLATE)

    def put(name: str, *shape: int) -> None:
        writer.add_tensor(f"{name}.weight", random.standard_normal(shape).astype(numpy.float32))

    def ones(name: str) -> None:
        writer.add_tensor(f"{name}.weight", numpy.ones(WIDTH, numpy.float32))

    put("token_embd", len(tokens), WIDTH)
    # Only words are ever likely, so that what it says is text.
    said = random.standard_normal((len(tokens), WIDTH)).astype(numpy.float32)
    said[: len(SPECIAL + BYTES)] = 0
    writer.add_tensor("output.weight", said)
    ones("output_norm")
    for block in (f"blk.{n}" for n in range(BLOCKS)):
        ones(f"{block}.attn_norm")
        ones(f"{block}.ffn_norm")
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            put(f"{block}.{part}", WIDTH, WIDTH)
        put(f"{block}.ffn_gate", HIDDEN, WIDTH)
        put(f"{block}.ffn_up", HIDDEN, WIDTH)
        put(f"{block}.ffn_down", WIDTH, HIDDEN)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
