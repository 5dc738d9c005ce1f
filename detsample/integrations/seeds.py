"""Turns a request's seed, as engines have it, into the type that detsample takes."""

from __future__ import annotations


def signed_seed(name: str, seed: int) -> int:
    """A seed's 64 bits as int64: tensors of the frameworks have no unsigned integers of that size.

    Parameters
    ----------
    name : str
        The name by which the engine's caller knows the seed, for the message of the error.
    seed : int
        From ``-2**63`` up to ``2**64 - 1``.

    Returns
    -------
    int
        The number from ``-2**63`` up to ``2**63 - 1`` that is equal to it modulo ``2**64``.

    Raises
    ------
    ValueError
        If the seed has more bits; an engine turns it into the request's error.

    Examples
    --------
    >>> signed_seed("seed", 7), signed_seed("seed", 2**64 - 1)
    (7, -1)
    """
    if not -(1 << 63) <= seed < 1 << 64:
        raise ValueError(f"{name} must fit in 64 bits, got {seed}")
    return (seed + (1 << 63)) % (1 << 64) - (1 << 63)
