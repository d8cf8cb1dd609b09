"""Artifacts as what other tools read: Hugging Face transformers, ONNX, safetensors, lm-evaluation-harness."""
