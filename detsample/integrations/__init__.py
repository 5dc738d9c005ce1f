"""detsample inside engines: one package for each, none of which the rest of detsample imports.

`detsample.integrations.fastdeploy`, `detsample.integrations.transformers` and `detsample.integrations.vllm` import
their engine, or its framework, and say which extra to install where that is missing.
"""
