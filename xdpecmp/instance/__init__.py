"""One network namespace's instance: its pins and files, its options, who may change it.

Here lives what survives a process: which folder in bpffs and /run belongs to which namespace, what
was asked for, who holds which lock. What is in the maps belongs to `dataplane`.
"""
