"""The error of an integration whose engine is not installed."""

from __future__ import annotations


def missing(integration: str, needs: str, extra: str) -> ImportError:
    """The error of an integration without its engine.

    Parameters
    ----------
    integration : str
        The module that was imported.
    needs : str
        The package that is not there.
    extra : str
        The extra of detsample that brings it.

    Examples
    --------
    >>> missing("detsample.integrations.vllm", "vllm", "vllm")
    ImportError("detsample.integrations.vllm needs vllm, which is not installed: pip install 'detsample[vllm]'")
    """
    return ImportError(f"{integration} needs {needs}, which is not installed: pip install 'detsample[{extra}]'")
