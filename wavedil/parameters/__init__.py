"""Parameters of models: named views of one flat buffer, the patterns of their names, adapters and files.

store     `Parameters`, one flat buffer with names
names     patterns such as ``blocks.0-9.*``
adapters  low-rank adapters (LoRA)
files     safetensors files that are written atomically
"""
