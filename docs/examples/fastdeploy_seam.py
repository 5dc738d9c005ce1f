"""FastDeploy's names, on Paddle tensors: what its samplers call, without an engine around it.

python docs/examples/fastdeploy_seam.py
"""

import paddle

from detsample.integrations import fastdeploy

# Two rows: top-k 2 among ties, and top-k off with top-p on. In place, as FastDeploy calls it.
logits = paddle.to_tensor([[3.0, 3.0, 3.0, 1.0, 0.0], [0.0, 1.0, 2.0, 3.0, 4.0]])
k, p = paddle.to_tensor([2, 0], dtype="int32"), paddle.to_tensor([1.0, 0.9])
fastdeploy.apply_top_k_top_p_triton(logits, k, p)
print("masked logits    ", logits.tolist())

# Probabilities and a seed for each slot; there are more slots than rows.
probs = paddle.nn.functional.softmax(logits)
seeds = paddle.to_tensor([[11], [12], [13]], dtype="int64")
print("tokens           ", fastdeploy._random_sample(probs, seeds).tolist())

# A request with two drafts, and one that has read its prompt: seed and absolute position of each row.
top_p, top_k, streams = fastdeploy.build_sampling_params(
    paddle.to_tensor([[0.9], [0.8]]), paddle.to_tensor([[50], [40]], dtype="int64"),
    paddle.to_tensor([[100], [104]], dtype="int64"), paddle.to_tensor([[3], [6]], dtype="int32"),
    paddle.to_tensor([0, 3, 4], dtype="int32"), 4, 12,
    seq_lens_decoder=paddle.to_tensor([[20], [0]], dtype="int32"),
)  # fmt: skip
print("seeds, positions ", streams.tolist())

# The kept set that the sampler itself uses, min-p included, in a window of at most 3 ids; nothing waits for a GPU.
full = paddle.nn.functional.softmax(paddle.to_tensor([[0.0, 3.0, 2.0, 1.0, -1.0]]))
min_p = paddle.to_tensor([[0.3]])
ids, mask, log_z, rows = fastdeploy._compute_sampling_mask(full, paddle.to_tensor([[0.95]]), min_p=min_p, max_kept=3)
print("kept, log_z      ", ids.tolist(), mask.tolist(), [round(x, 6) for x in log_z.tolist()])
