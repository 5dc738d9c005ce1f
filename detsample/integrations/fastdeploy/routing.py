"""`install`: FastDeploy's names lead here while ``FD_SAMPLING_CLASS`` is ``triton``, and `uninstall` leads them back.

FastDeploy's sampler module looks its functions up by name when it calls them, so the names are what is changed: in
the running process, and in no file. Which of them there are, and how they are called, differs between versions;
names with another signature than the ones written down here are refused, with nothing changed.
"""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Callable
from functools import wraps
from types import ModuleType
from typing import Any

from detsample.integrations.fastdeploy import masking, probabilities, speculative
from detsample.integrations.fastdeploy.step import Step, current, entered, read_lengths

KNOWN = ("be1bb13b (May 2026): with the Triton sampler of pull request 7639 and build_sampling_params",)
"""The revisions of FastDeploy that are served: their names, signatures and order of calls were read."""

SAMPLER = "fastdeploy.model_executor.layers.sample.sampler"

# What FastDeploy's names lead to outside of a step; within one, to the step's method of that name.
FUNCTIONS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        masking.apply_top_k_top_p_triton, probabilities._random_sample, probabilities.top_k_top_p_sampling,
        probabilities.min_p_sampling, probabilities._compute_sampling_mask, speculative.build_sampling_params,
    )
}  # fmt: skip
# Without the first two, FastDeploy calls in another order: top-p after min-p, and rows with seeds of their own.
REQUIRED = ("apply_top_k_top_p_triton", "_random_sample", "min_p_sampling", "top_k_top_p_sampling")
CLASSES = ("Sampler", "SpeculativeSampler")


def sampling_class() -> str:
    """``FD_SAMPLING_CLASS`` as it is now, lower case; FastDeploy's own module reads it once, when imported."""
    return os.environ.get("FD_SAMPLING_CLASS", "base").lower()


class _SamplingClass(str):
    """Replaces the string that FastDeploy's sampler module read when it was imported. It gives the present setting when
    it is asked.
    """

    def lower(self) -> str:
        return sampling_class()


def install() -> list[str]:
    """Route the names that FastDeploy's sampler calls to this package, in this process.

    To be called where FastDeploy's workers are, before they make their samplers. Calling it again changes nothing.

    Returns
    -------
    list of str
        The names that lead here now.

    Raises
    ------
    ImportError
        If FastDeploy is not installed, or is of a kind that is not in `KNOWN`: a name is missing or has another
        signature.

    Examples
    --------
    >>> install()  # doctest: +SKIP
    ['FD_SAMPLING_CLASS', 'Sampler.forward_cuda', 'SpeculativeSampler.forward_cuda', '_random_sample', ...]
    """
    try:
        module: Any = importlib.import_module(SAMPLER)
    except ImportError as error:
        raise ImportError(
            f"install() needs FastDeploy, of which {SAMPLER} cannot be imported ({error}); its packages come from "
            "Paddle's own index"
        ) from error
    if "_detsample_originals" in module.__dict__:
        return sorted(module.__dict__["_detsample_originals"])
    names = _check(module)
    originals = {name: getattr(module, name) for name in names}
    for name in names:
        setattr(module, name, _routed(name, originals[name]))
    for name in CLASSES:
        layer = getattr(module, name, None)
        if layer is not None and hasattr(layer, "forward_cuda"):
            originals[f"{name}.forward_cuda"] = layer.forward_cuda
            layer.forward_cuda = _stepping(layer.forward_cuda)
    if hasattr(module, "FD_SAMPLING_CLASS"):
        originals["FD_SAMPLING_CLASS"] = module.FD_SAMPLING_CLASS
        module.FD_SAMPLING_CLASS = _SamplingClass(module.FD_SAMPLING_CLASS)
    module.__dict__["_detsample_originals"] = originals
    return sorted(originals)


def uninstall() -> None:
    """Put FastDeploy's own functions back; without an `install` before, nothing changes.

    Samplers made in between keep the routed ``forward_cuda``, which then calls FastDeploy's own functions.

    Raises
    ------
    ImportError
        If FastDeploy is not installed.

    Examples
    --------
    >>> uninstall()  # doctest: +SKIP
    """
    module = importlib.import_module(SAMPLER)
    for name, original in module.__dict__.pop("_detsample_originals", {}).items():
        owner, _, attribute = name.rpartition(".")
        setattr(getattr(module, owner) if owner else module, attribute, original)


def hold_seeds(runner: Any) -> None:
    """Keep a model runner from advancing seeds, so that a request's seed is the one that it came with, for life.

    FastDeploy adds ``infer_seed_increment`` to all seeds after each step (4, or 4 a speculative token), because its
    noise knows no positions. With positions a seed must stay.

    Parameters
    ----------
    runner : GPUModelRunner
        The runner; its `infer_seed_increment` becomes 0, in place.
    """
    runner.infer_seed_increment.fill_(0)
    if hasattr(runner, "increment_value"):
        runner.increment_value = 0


def _check(module: ModuleType) -> list[str]:
    """The names to route.

    Raises
    ------
    ImportError
        For a version of FastDeploy whose source was not read.
    """
    names = [name for name in FUNCTIONS if hasattr(module, name)]
    for name in REQUIRED:
        if name not in names:
            raise _unknown(f"{SAMPLER} has no {name}")
    for name in names:
        try:
            signature = inspect.signature(getattr(module, name))
        except (TypeError, ValueError):
            continue
        found, due = list(signature.parameters), expected(name)
        if name != "build_sampling_params" and found != due:  # FastDeploy's is compiled from C++
            raise _unknown(f"{name} takes {', '.join(found)}, expected {', '.join(due)}")
        # The first form returned (list of arrays, array); pull request 7460 made it four tensors and a number.
        if name == "_compute_sampling_mask" and "ndarray" in str(signature.return_annotation):
            raise _unknown(f"{name} returns {signature.return_annotation}, expected tensors")
    return names


def expected(name: str) -> list[str]:
    """The parameters of a name in FastDeploy: of our function those that can be given by position."""
    parameters = inspect.signature(FUNCTIONS[name]).parameters.values()
    return [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]


def _unknown(found: str) -> ImportError:
    return ImportError(f"this FastDeploy is not known here: {found}. Known: {'; '.join(KNOWN)}")


def _routed(name: str, original: Any) -> Any:
    """A name's function: ours while FD_SAMPLING_CLASS is triton, FastDeploy's otherwise."""

    @wraps(original)
    def call(*arguments: Any, **keywords: Any) -> Any:
        if sampling_class() != "triton":
            return original(*arguments, **keywords)
        return getattr(current(), name, FUNCTIONS[name])(*arguments, **keywords)

    return call


def _stepping(forward: Callable[..., Any]) -> Callable[..., Any]:
    """`forward_cuda`, inside a `Step` where the names lead here."""
    parameters = inspect.signature(forward)

    @wraps(forward)
    def call(*arguments: Any, **keywords: Any) -> Any:
        if sampling_class() != "triton":
            return forward(*arguments, **keywords)
        given = parameters.bind(*arguments, **keywords).arguments
        metadata, inputs = given["sampling_metadata"], given.get("share_inputs")
        # A sampler that is given no inputs has one row a request: the list of rows is another sampler's business.
        ordinary = inputs is None
        lengths = read_lengths(getattr(metadata, "share_inputs", None) if ordinary else inputs, ordinary)
        masks = bool(getattr(metadata, "keep_sampling_mask", False))
        with entered(Step(lengths, masks)):
            return forward(*arguments, **keywords)

    return call
