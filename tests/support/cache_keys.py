"""Prints the cache key of each kernel, hashed in an order that its argument shuffles."""

import importlib
import json
import random
import sys

from compiled import KERNELS, place

from detsample.launching.cache_keys import settle

names = sorted(KERNELS)
random.Random(sys.argv[1]).shuffle(names)
found = {}
for name in names:
    module, function = place(name)
    kernel = getattr(importlib.import_module(f"detsample.kernels.{module}"), function)
    settle(kernel)
    values = {}
    for (constant, _), (value, _) in kernel.used_global_vals.items():
        values.setdefault(constant, set()).add(str(value))
    found[name] = [kernel.cache_key, sorted(constant for constant, seen in values.items() if len(seen) > 1)]
print(json.dumps(found))
