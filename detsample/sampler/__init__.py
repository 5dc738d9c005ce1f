"""One call of `sample`, `mask` or `plan`, from its arguments to its results.

`sample` and `plan` are what users call, `parameters` checks their arguments, `output` and `status` are what they
return. `on_gpu` serves a call with kernels, which get its parameters as `kernel_arguments` has them; `on_cpu` serves it
with the reference. `warmup` compiles ahead what `on_gpu` launches.
"""
