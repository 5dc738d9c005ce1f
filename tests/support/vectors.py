"""The contract's test vectors, and what compares an implementation that has the reference's names with them."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from paths import TESTS

FUNCTIONS = json.loads((TESTS / "vectors" / "contract-2-functions.json").read_text(encoding="utf-8"))
ROWS = json.loads((TESTS / "vectors" / "contract-2-rows.json").read_text(encoding="utf-8"))

ALLOWED = json.loads((TESTS / "vectors" / "contract-2-allowed.json").read_text(encoding="utf-8"))

PARAMETERS = {"temperature": "f", "top_k": "i", "top_p": "f", "min_p": "f", "topp_seed": "i", "position": "i"}


def words(text: str) -> np.ndarray:
    """Eight hex digits each to uint32."""
    return np.array([int(word, 16) for word in text.split()], np.uint32)


def floats(text: str) -> np.ndarray:
    return words(text).view(np.float32)


def text_of(array: np.ndarray) -> str:
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint32)
    return " ".join(f"{word:08x}" for word in flat.tolist())


def _seeds(values: list[int]) -> np.ndarray:
    return np.array([value % 2**64 for value in values], np.uint64)


def _wide(values: list[int]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([n >> 64 for n in values], np.uint64), np.array([n % 2**64 for n in values], np.uint64)


def functions(reference: Any) -> Iterator[tuple[str, Callable[[], bool]]]:
    """Each function's vectors: a name, and what says whether all of them agree."""

    def part(name: str) -> Any:
        return importlib.import_module(f"{reference.__name__}.{name}")

    def column(name: str, key: str) -> Any:
        value = FUNCTIONS[name][key]
        if isinstance(value, str):
            return floats(value)
        return np.array(value, np.uint64 if max(value) >= 2**63 else np.int64)

    def same(found: Any, name: str, key: str) -> bool:
        stated = FUNCTIONS[name][key]
        if isinstance(stated, str):
            return text_of(found) == stated
        return [int(v) for v in np.asarray(found).reshape(-1)] == stated

    def split() -> bool:
        e, f = part("logarithm").split(_seeds(FUNCTIONS["SPLIT"]["y"]))
        return same(e, "SPLIT", "e") and same(f, "SPLIT", "f")

    def one(name: str, key: str, call: Callable[..., Any], *inputs: str) -> Callable[[], bool]:
        return lambda: same(call(*(column(name, key) for key in inputs)), name, key)

    def gap() -> bool:
        m, x, t = (column("gap", key) for key in ("M", "x", "temperature"))
        return same(part("temperature").gaps(x[:, None], m, t), "gap", "a")

    def philox() -> bool:
        blocks = np.stack([words(text) for text in FUNCTIONS["philox"]["counter_and_key"]]).astype(np.uint64)
        found = np.stack(part("philox").philox4x32(tuple(blocks[:, :4].T), tuple(blocks[:, 4:].T)), axis=1)
        return [" ".join(f"{word:08x}" for word in row) for row in found.tolist()] == FUNCTIONS["philox"]["words"]

    def bits() -> bool:
        keys, place = _seeds(FUNCTIONS["bits"]["topp_seed"]), column("bits", "position")
        token, small = column("bits", "token"), column("bits", "residual_token")
        rejection = part("speculative_rejection")
        residual = rejection.residual_uniform(keys, place, 32)[np.arange(len(small)), small]
        row = part("gumbel").uniform_rows(keys, place, 8)
        few = np.flatnonzero(token < 8)
        return (
            same(part("gumbel").uniform(keys, place, token), "bits", "s")
            and [FUNCTIONS["bits"]["s"][i] for i in few] == [int(v) for v in row[few, token[few]]]
            and same(residual, "bits", "residual_s")
            and same(rejection.coin(keys, place), "bits", "coin")
        )

    def csr() -> bool:
        given = FUNCTIONS["csr"]
        x = floats(given["logits"]).reshape(len(given["top_k"]), -1)
        mask = reference.mask(
            x, top_k=np.array(given["top_k"]), min_p=float(floats(given["min_p"])[0]), kind="csr"
        ).mask
        return same(mask.row_offsets, "csr", "row_offsets") and same(mask.token_ids, "csr", "token_ids")

    yield "SPLIT", split
    yield "LOGQ", one("LOGQ", "log", lambda e, f: part("logarithm").logq(e, f), "e", "f")
    yield "LN", one("LN", "log", lambda y: part("logarithm").ln_mass(y), "y")
    yield "G", lambda: same(part("gumbel").gumbel(_seeds(FUNCTIONS["G"]["s"])), "G", "noise")
    yield "W", one("W", "w", lambda a: part("weight").weight(a), "a")
    yield "Z", one("Z", "units", lambda a: part("fixed_point").fixed_point(a), "a")
    yield "gap", gap
    yield "philox", philox
    yield "fold_in", one("fold_in", "seed", lambda seed, i: reference.fold_in(seed, i), "topp_seed", "index")
    yield "bits", bits
    yield "target", one("target", "target", lambda p, s: part("filters").top_p_mass(p, s), "top_p", "S")
    yield "threshold", one("threshold", "threshold", lambda p: part("filters").min_p_weight(p), "min_p")
    yield "v", one("v", "v", lambda q: part("speculative_rejection").draft_weights(q[:, None], False)[0], "probability")
    yield "logprobs", one("logprobs", "logprobs", lambda a, w: part("logprob").logprob(a, w), "a", "w(kept)")
    yield "log_z", one("log_z", "log_z", lambda w, s: part("logprob").log_z(w, s), "w(kept)", "w(all)")
    yield "LNW", lambda: same(part("products").ln_wide(_wide(FUNCTIONS["LNW"]["y"])), "LNW", "log")
    yield (
        "test",
        lambda: same(
            part("speculative_rejection")._accepted(
                _seeds(FUNCTIONS["test"]["coin"]), *(column("test", k) for k in ("w_i", "w(kept)", "v_i", "v(all)"))
            ),
            "test",
            "accepted",
        ),
    )
    yield "csr", csr


def batches(of: dict[str, Any] = ROWS) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The rows of `sample` that fit in one call: of one size and one order of filters."""
    found: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for row in of["sample"]:
        found.setdefault((len(row["logits"].split()), row["filter_order"]), []).append(row)
    for (vocab, order), rows in found.items():
        yield f"V={vocab} {order}", rows


def given_of(rows: list[dict[str, Any]]) -> tuple[np.ndarray, dict[str, Any]]:
    """(logits, parameters) of rows."""
    params: dict[str, Any] = {"filter_order": rows[0]["filter_order"]}
    for name, kind in PARAMETERS.items():
        params[name] = np.array([floats(row[name])[0] if kind == "f" else row[name] for row in rows])
    if "allowed" in rows[0]:
        params["allowed"] = np.stack([words(row["allowed"]) for row in rows]).view(np.int32)
    return np.stack([floats(row["logits"]) for row in rows]), params


def sample_agrees(sample: Callable[..., Any], rows: list[dict[str, Any]]) -> bool:
    x, params = given_of(rows)
    out = sample(x, **params, return_log_z=True, return_mask="bits")
    return (
        out.token_ids.tolist() == [row["token_id"] for row in rows]
        and out.num_kept.tolist() == [row["num_kept"] for row in rows]
        and out.status.tolist() == [row["status"] for row in rows]
        and text_of(out.logprobs).split() == [row["logprobs"] for row in rows]
        and text_of(out.log_z).split() == [row["log_z"] for row in rows]
        and [text_of(mask) for mask in out.mask] == [row["mask"] for row in rows]
    )


def margins_agree(margin: Callable[..., Any], rows: list[dict[str, Any]]) -> bool:
    x, params = given_of(rows)
    return text_of(margin(x, **params).margin).split() == [row["margin"] for row in rows]


def observations_agree(observe: Callable[..., Any]) -> bool:
    for rows in (ROWS["observe"][:8], ROWS["observe"][8:16], ROWS["observe"][16:]):
        x = np.stack([floats(row["logits"]) for row in rows])
        kept = np.stack([words(row["kept"]) for row in rows])
        t = np.concatenate([floats(row["temperature"]) for row in rows])
        seen = observe(x, np.array([row["token"] for row in rows]), kept, temperature=t, top_n=rows[0]["top_n"])
        for row, *found in zip(
            rows, seen.logprobs, seen.raw_logprobs, seen.entropy, seen.rank, seen.top_token_ids, seen.top_logprobs,
            strict=True,
        ):  # fmt: skip
            numbers = [text_of(value[None]) for value in found[:3]]
            if numbers != [row["logprobs"], row["raw_logprobs"], row["entropy"]] or int(found[3]) != row["rank"]:
                return False
            if found[4].tolist() != row["top_token_ids"] or text_of(found[5]) != row["top_logprobs"]:
                return False
    return True


def decoded(value: Any) -> Any:
    """An array from its shape and content; anything else as it is."""
    if not isinstance(value, dict):
        return value
    flat = floats(value["fp32"]) if "fp32" in value else np.array(value["integers"], np.int64)
    return flat.reshape(value["shape"])


def request_agrees(calls: Any, vector: dict[str, Any]) -> bool:
    """Whether ``calls.verify`` or ``calls.verify_tree`` gives what the vector says."""
    how = {key: decoded(value) for key, value in vector.items() if key not in ("call", "arguments", "results")}
    out = getattr(calls, vector["call"])(*(decoded(value) for value in vector["arguments"]), **how)
    for field, stated in vector["results"].items():
        found, expected = getattr(out, field), decoded(stated)
        if found.shape != expected.shape:
            return False
        if (text_of(found) != text_of(expected)) if "fp32" in stated else (found.tolist() != expected.tolist()):
            return False
    return True


def checks(reference: Any) -> Iterator[tuple[str, Callable[[], bool]]]:
    """All vectors, the cheap ones first."""
    yield from functions(reference)
    for name, rows in batches():
        yield f"sample {name}", lambda rows=rows: sample_agrees(reference.sample, rows)
    for name, rows in batches(ALLOWED):
        yield f"allowed {name}", lambda rows=rows: sample_agrees(reference.sample, rows)
    yield "observe", lambda: observations_agree(reference.observe)
    for number, vector in enumerate(ROWS["requests"]):
        yield f"request {number}", lambda vector=vector: request_agrees(reference, vector)
    for name, rows in batches():
        if "margin" in rows[0]:
            yield f"margin {name}", lambda rows=rows: margins_agree(reference.margin, rows)


def first_failure(reference: Any, of: str = "") -> str | None:
    """The first vector that an implementation does not give, or None; of those whose names begin with ``of``."""
    for name, agrees in checks(reference):
        try:
            if not name.startswith(of):
                continue
            if not agrees():
                return name
        except Exception as error:  # an implementation that is broken may do anything
            return f"{name}: {type(error).__name__}"
    return None
