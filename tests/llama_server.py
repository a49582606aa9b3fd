"""A real server for tests of engines: llama.cpp (package xllamacpp) with a model made here, and faults on the way."""

import copy
import json
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from cat_core.training.models import train_tokenizer

WORDS = "the cat sat on mat a dog runs after is sky blue house red zebra yes no".split()


def plain_pair():
    """(small, large, tokenizer): random Llamas of head size 32 (vLLM's least on a CPU) that answer in ASCII.

    Weights are spread wide, so that no two logits come close. llama.cpp leaves out the log-probabilities of tokens
    that are parts of a character, so the head's rows of bytes beyond ASCII are zero.
    """
    tokenizer = train_tokenizer([" ".join(WORDS)] * 2, 300)
    models = []
    for hidden, heads, seed in ((64, 2, 1), (96, 3, 2)):
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden,
            intermediate_size=hidden,
            num_hidden_layers=2,
            num_attention_heads=heads,
            num_key_value_heads=1,
            max_position_embeddings=64,
            initializer_range=0.12,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = LlamaForCausalLM(config).eval()
        with torch.no_grad():
            odd = ["\ufffd" in tokenizer.decode([i]) for i in range(len(tokenizer))]
            model.lm_head.weight[torch.tensor(odd)] = 0
            model.lm_head.weight[tokenizer.eos_token_id] *= 2.5
        models.append(model)
    return *models, tokenizer


def write_gguf(model, tokenizer, path, pre: str = "gpt-2", begins: bool = True, architecture: str = "llama") -> None:
    """A Llama of transformers as llama.cpp's file, in float32; pre: how it cuts texts; begins: whether with BOS."""
    import gguf

    config, writer = model.config, gguf.GGUFWriter(str(path), architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    special = set(tokenizer.all_special_ids)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokenizer.convert_ids_to_tokens(range(len(tokenizer))))
    kinds = [gguf.TokenType.CONTROL if i in special else gguf.TokenType.NORMAL for i in range(len(tokenizer))]
    writer.add_token_types(kinds)
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_add_bos_token(begins)
    names = {
        "attn_norm": "input_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
    names = {f"blk.{i}.{a}": f"model.layers.{i}.{b}" for i in range(config.num_hidden_layers) for a, b in names.items()}
    names |= {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
    weights = model.state_dict()
    for theirs, ours in names.items():
        array = weights[f"{ours}.weight"].float().numpy()
        if theirs.endswith(("attn_q", "attn_k")):  # rotary pairs: neighbours there, halves of a head here
            array = array.reshape(-1, 2, config.head_dim // 2, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        writer.add_tensor(f"{theirs}.weight", np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def dequantise(source, path) -> None:
    """llama.cpp's file of a quantised model once more, its weights as they are but in float32."""
    import gguf

    reader, writer = gguf.GGUFReader(str(source)), gguf.GGUFWriter(str(path), "llama")
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue  # the writer's own
        value, kind = field.contents(), field.types[0]
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, 0 if name == "general.file_type" else value, kind, sub_type=inner)
    for tensor in reader.tensors:
        array = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        writer.add_tensor(tensor.name, np.ascontiguousarray(array, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def serve(path, key: str | None = None):
    """A running server of a file; its address is `listening_address`, it ends with the object. Skips without it."""
    xllamacpp = pytest.importorskip("xllamacpp", reason="the server needs xllamacpp, of the extra `test` on Linux")
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel, params.port = 256, 4, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    # as exact as it can be: keys and values in float32 instead of float16
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.warmup = params.fit_params = False
    if key:
        params.api_keys = [key]
    return xllamacpp.Server(params)


@contextmanager
def faults(target: str, before=None, after=None):
    """Address of a way to the server `target` on which things happen.

    before(number, handler, body) -> body to pass on, or None if it has answered itself; after(reply) -> reply. Both
    see completions only, numbered from 0.
    """
    numbers = iter(range(10**9))

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            self.forward(None)

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if before and (body := before(next(numbers), self, copy.deepcopy(body))) is None:
                return
            self.forward(json.dumps(body).encode())

        def forward(self, data):
            request = urllib.request.Request(target + self.path, data, {"Content-Type": "application/json"})
            try:
                with urllib.request.urlopen(request, timeout=60) as reply:
                    code, content = reply.status, json.loads(reply.read())
            except urllib.error.HTTPError as error:
                code, content = error.code, json.loads(error.read())
            self.answer(code, after(content) if after and data else content)

        def answer(self, code, content, **headers):
            data = json.dumps(content).encode()
            self.send_response(code)
            for name, value in ({"Content-Length": len(data)} | headers).items():
                self.send_header(name.replace("_", "-"), str(value))
            self.end_headers()
            self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
