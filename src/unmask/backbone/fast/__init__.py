"""What makes a model faster and changes nothing else; each path under the contract of `contract.py`.

`varlen` over `cpu_attention` (batches without padding), `prepack` (weights laid out for the CPU's kernels), `compiling`
(layers), `lora_branch` and `random_masks` (training).
"""
