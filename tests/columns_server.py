"""A small server in OpenAI's own form, as vLLM's is: a model of transformers behind http.server, honest unless spoiled.

llama.cpp, the other server of the tests, answers in rows and does not echo; this one answers in columns and echoes.
"""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch

from cat_core.text import TextFormat


@contextmanager
def serve_columns(model, tokenizer, spoil=None, temperature=0.0, ignored=(), owner="test"):
    """The address of a running server, up to and with /v1.

    spoil(reply, body) -> the reply to send instead; temperature: at which it samples whatever it is asked;
    ignored: fields of a request that it does not know; owner: who made it, as its list of models says.
    """
    lock = threading.Lock()
    draw = torch.Generator().manual_seed(0)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            self.answer(200, {"data": [{"id": "model", "owned_by": owner}]})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            body = {name: value for name, value in body.items() if name not in ignored}
            with lock:
                reply = completion(model, tokenizer, body, temperature, draw)
            self.answer(200, spoil(reply, body) if spoil else reply)

        def answer(self, code, content):
            data = json.dumps(content).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()


@torch.no_grad()
def completion(model, tokenizer, body, temperature, draw) -> dict:
    """The reply to a request, by one pass of the model over the whole sequence for every token."""
    head = body["prompt"] if isinstance(body["prompt"], list) else TextFormat(tokenizer).prompt(body["prompt"])
    ids, reason, text = list(head), "length", ""
    for _ in range(body["max_tokens"]):
        row = model(torch.tensor([ids])).logits[0, -1].float()
        if temperature:
            ids.append(torch.multinomial((row / temperature).softmax(-1), 1, generator=draw).item())
        else:
            ids.append(row.argmax().item())
        text = tokenizer.decode(ids[len(head) :], skip_special_tokens=True)
        met = [text.find(stop) for stop in body.get("stop", ()) if stop in text]
        if met or ids[-1] == tokenizer.eos_token_id or ids[-1] in body.get("stop_token_ids", ()):
            reason, text = "stop", text[: min(met, default=len(text))]
            break
    table = model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
    columns = {"tokens": [tokenizer.decode([i]) for i in ids], "token_logprobs": [None], "top_logprobs": [None]}
    for row, token in zip(table, ids[1:]):
        best = row.topk(body["logprobs"])
        columns["token_logprobs"].append(row[token].item())
        named = {tokenizer.decode([i]): x for i, x in zip(best.indices.tolist(), best.values.tolist())}
        columns["top_logprobs"].append(named | {tokenizer.decode([token]): row[token].item()})
    if not body.get("echo"):
        columns = {name: column[len(head) :] for name, column in columns.items()}
    usage = {"prompt_tokens": len(head), "completion_tokens": len(ids) - len(head)}
    choice = {"index": 0, "text": text, "finish_reason": reason, "logprobs": columns}
    return {"choices": [choice], "usage": usage}
