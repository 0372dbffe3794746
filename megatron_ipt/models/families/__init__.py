"""The model families, one module each; `megatron_ipt.config.model_families` lists them."""
