"""A stand-in for a language model: OpenAI's protocol on this machine, with answers that follow from the questions."""

from collections.abc import Iterator
import contextlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import json
import threading
from typing import Any

_DIMENSION = 64


class Model(ThreadingHTTPServer):
    """Answers chats and embeds texts.

    A chat that offers the tool named `tool` gets a call of it, with `arguments`; once that has answered, its answer is
    passed on. Any other chat gets its last question back.

    Attributes:
        tool: Which tool is called.
        arguments: What it is called with.
        asked: Requests so far, by path.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.tool = ""
        self.arguments: dict[str, Any] = {}
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        """Where it listens, as clients of OpenAI's protocol take it."""
        return f"http://127.0.0.1:{self.server_port}/v1"

    def reply(self, chat: dict[str, Any]) -> dict[str, Any]:
        """The message with which it answers a chat."""
        last = chat["messages"][-1]
        if last["role"] == "tool":
            return {"role": "assistant", "content": f"the tool says: {last['content']}"}
        if any(offered["function"]["name"] == self.tool for offered in chat.get("tools") or ()):
            function = {"name": self.tool, "arguments": json.dumps(self.arguments)}
            call = {"id": "call-1", "type": "function", "function": function}
            return {"role": "assistant", "content": None, "tool_calls": [call]}
        return {"role": "assistant", "content": f"you said: {_text(last['content'])}"}


@contextlib.contextmanager
def serving() -> Iterator[Model]:
    """A model that listens for as long as the block lasts."""
    model = Model()
    thread = threading.Thread(target=model.serve_forever, name="model", daemon=True)
    thread.start()
    try:
        yield model
    finally:
        model.shutdown()
        thread.join()
        model.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Model

    def do_POST(self) -> None:
        """One chat, or texts to embed."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(self.path)
        if self.path.endswith("/chat/completions"):
            self._answer(_completion(body["model"], self.server.reply(body)))
        elif self.path.endswith("/embeddings"):
            texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
            data = [{"object": "embedding", "index": at, "embedding": _embed(text)} for at, text in enumerate(texts)]
            usage = {"prompt_tokens": 1, "total_tokens": 1}
            self._answer({"object": "list", "model": body["model"], "data": data, "usage": usage})
        else:
            self.send_error(404, f"no {self.path} here")

    def log_message(self, *_: object) -> None:
        """Says nothing: the tests show what went wrong."""

    def _answer(self, document: dict[str, Any]) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _completion(model: str, message: dict[str, Any]) -> dict[str, Any]:
    finish = "tool_calls" if message.get("tool_calls") else "stop"
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [{"index": 0, "finish_reason": finish, "message": message}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }


def _text(content: Any) -> str:
    return content if isinstance(content, str) else " ".join(part.get("text", "") for part in content)


def _embed(text: str | list[int]) -> list[float]:
    """Texts that share words, or tokens, point the same way."""
    vector = [1e-3] * _DIMENSION
    for word in text.lower().split() if isinstance(text, str) else text:
        vector[(sum(word.encode()) if isinstance(word, str) else word) % _DIMENSION] += 1.0
    return vector
