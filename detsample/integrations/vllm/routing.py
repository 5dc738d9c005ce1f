"""The general plug-in: where vLLM makes its samplers, admits requests and numbers a request's samples.

Samplers are made when a worker has loaded its model, so `register` has each worker call `install` then; nothing else in
the running engine is replaced. There is no entry point in vLLM's group for logits processors: its mere presence would
have vLLM 0.26 take the first model runner.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from vllm.logger import init_logger
from vllm.sampling_params import SamplingParams
from vllm.v1.engine.parallel_sampling import ParentRequest
from vllm.v1.worker.worker_base import WorkerWrapperBase

import detsample
from detsample.integrations.vllm import admission
from detsample.integrations.vllm.settings import DRAWN, Settings, read

logger = init_logger("vllm.detsample")

ORIGINAL = "_detsample_original"
REPLACED: tuple[tuple[Any, str], ...] = (
    (WorkerWrapperBase, "init_device"), (SamplingParams, "verify"), (ParentRequest, "_get_child_sampling_params"),
)  # fmt: skip


def register() -> None:
    """Have vLLM's workers draw with detsample; vLLM calls this in each of its processes.

    Calling it again changes nothing, and neither does calling it where ``DETSAMPLE_VLLM=off``.

    Raises
    ------
    ValueError
        If a setting in the environment is none of those known.

    Examples
    --------
    >>> before = SamplingParams.verify
    >>> register()
    >>> SamplingParams.verify is before
    False
    >>> unregister()
    >>> SamplingParams.verify is before
    True
    """
    settings = read()
    if settings.drawn == "off" or hasattr(SamplingParams.verify, ORIGINAL):
        return
    around_them: tuple[Callable[..., Any], ...] = (_installing, _checking, _numbering)
    for (owner, name), around in zip(REPLACED, around_them, strict=True):
        setattr(owner, name, _replaced(getattr(owner, name), around, settings))


def unregister() -> None:
    """Undo `register` in this process, for engines made from now on; without a `register` before, nothing changes.

    Examples
    --------
    >>> register()
    >>> unregister()
    >>> hasattr(SamplingParams.verify, "_detsample_original")
    False
    """
    for owner, name in REPLACED:
        setattr(owner, name, getattr(getattr(owner, name), ORIGINAL, getattr(owner, name)))


def _replaced(original: Any, around: Callable[..., Any], settings: Settings) -> Any:
    @wraps(original)
    def call(self: Any, *arguments: Any, **keywords: Any) -> Any:
        return around(settings, original, self, *arguments, **keywords)

    setattr(call, ORIGINAL, original)
    return call


def _checking(settings: Settings, original: Any, params: Any, model_config: Any, *arguments: Any, **more: Any) -> None:
    original(params, model_config, *arguments, **more)
    admission.check(params, model_config.logprobs_mode, settings.drawn == "all")


def _numbering(settings: Settings, original: Any, parent: Any, index: int) -> Any:
    child = original(parent, index)
    seed = parent.sampling_params.seed
    if settings.samples == "fold_in" and seed is not None:
        child.seed = detsample.fold_in(seed, index)
    return child


def _installing(settings: Settings, original: Any, wrapper: Any) -> None:
    """A worker that has a device has a model runner, whose samplers are all there once its model is loaded."""
    original(wrapper)
    runner = wrapper.worker.model_runner
    _behind(runner, "load_model", lambda: install(runner, settings))


def _behind(runner: Any, name: str, then: Callable[[], None]) -> None:
    """Have a call follow each call of a runner's method."""
    method = getattr(runner, name)

    @wraps(method)
    def call(*arguments: Any, **keywords: Any) -> Any:
        result = method(*arguments, **keywords)
        then()
        return result

    setattr(runner, name, call)


def install(runner: Any, settings: Settings) -> None:
    """Have a model runner's samplers draw with detsample, if they are vLLM's own; the log says which of the two. The
    runner is of either kind, with its model loaded.
    """
    sampler = getattr(runner, "sampler", None)
    if sampler is None or hasattr(sampler, "detsample"):
        return
    reason = _not_ours(runner)
    if reason is not None:
        logger.warning("detsample draws no token here: %s. vLLM draws requests with a seed itself.", reason)
        return
    from detsample.integrations.vllm.warming import warm

    second = hasattr(runner, "req_states")
    if second:
        from detsample.integrations.vllm.second_runner import install as make
    else:
        from detsample.integrations.vllm.first_runner import install as make  # type: ignore[assignment]
    ours = make(runner, settings.drawn == "all")
    # In vLLM's own warm-up, which measures memory meanwhile, compile and load all that steps will launch.
    _behind(runner, "_dummy_sampler_run", lambda: warm(runner, ours))
    logger.info(
        "detsample %s (contract %d) draws %s on the %s model runner, filters in vLLM's order: min-p, top-k, top-p. "
        "%s=off leaves them to vLLM.",
        detsample.__version__, detsample.CONTRACT_VERSION,
        "all requests" if settings.drawn == "all" else "requests with a seed", "second" if second else "first", DRAWN,
    )  # fmt: skip


def _not_ours(runner: Any) -> str | None:
    """Why detsample must not draw on this runner; None if it may."""
    sampler = runner.sampler
    if type(sampler).__module__ not in ("vllm.v1.sample.sampler", "vllm.v1.worker.gpu.sample.sampler"):
        return f"the engine draws with {type(sampler).__module__}.{type(sampler).__qualname__}"
    batch = getattr(runner, "input_batch", None)
    later = [type(p).__qualname__ for p in getattr(getattr(batch, "logitsprocs", None), "argmax_invariant", ())]
    if any(name != "MinPLogitsProcessor" for name in later):
        return f"the logits processors {', '.join(later)} work behind the temperature"
    return None
