"""A server of ours that says what a test tells it, or passes requests on to a real one, and notes them."""

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx2


def completion(text="Yes", top=None, finish="stop", tokens=(7, 1)):
    """A chat completion as OpenAI writes it; `top`: {token: log-probability} of the first token."""
    logprobs = None if top is None else {"content": [{"token": text, "logprob": 0.0, "top_logprobs": [
        {"token": token, "logprob": logprob} for token, logprob in top.items()]}]}
    return {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish,
                         "logprobs": logprobs}],
            "usage": {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}}


@contextlib.contextmanager
def serving(answer):
    """(URL, requests so far). `answer(body, headers, number) -> (status, headers, content)`; content: bytes or JSON."""
    requests, taking = [], threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with taking:
                number = len(requests)
                requests.append({"path": self.path, "body": body, "key": self.headers.get("Authorization")})
            status, headers, content = answer(body, dict(self.headers), number)
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            with contextlib.suppress(OSError):  # the client may have gone
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(data))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

        def log_message(self, *_):
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", requests
    finally:
        server.shutdown()
        server.server_close()


def passing_on(url):
    """For `serving`: asks the server at `url`, with the key that came."""
    client = httpx2.Client(timeout=120)

    def answer(body, headers, number):
        del number
        given = {"Authorization": headers["Authorization"]} if "Authorization" in headers else {}
        response = client.post(f"{url}/chat/completions", json=body, headers=given)
        return response.status_code, {}, response.content

    return answer
