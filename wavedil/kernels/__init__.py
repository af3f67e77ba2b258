"""What kernels are made of: `cpu` and `cuda`, which do not know each other, and what both use.

storage      weights of a stream in fewer bytes
pool         plain Python threads, and task graphs on them
workspace    arrays that are allocated once
"""
