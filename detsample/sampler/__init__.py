"""One call of `sample`, `mask` or `plan`, from its arguments to its results.

`sample` and `plan` are what users call, `parameters` checks their arguments, `output` and `status` are what they
return. `run` passes a checked call on to where its logits are: to `on_gpu`, which launches kernels with the arguments
that `kernel_arguments` makes of the parameters, or to `on_cpu`, which calls the reference. `warmup` compiles beforehand
what `on_gpu` launches.
"""
