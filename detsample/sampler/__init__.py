"""One call of `sample`, `mask` or `plan`, from its arguments to its results.

`sample` and `plan` are what users call, `parameters` checks their arguments, `output` and `status` are what they
return. `run` has a checked call served where its logits are: `on_gpu` by kernels, which get its parameters as
`kernel_arguments` has them, or `on_cpu` by the reference. `warmup` compiles ahead what `on_gpu` launches.
"""
