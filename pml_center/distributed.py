from contextlib import contextmanager
import torch
def prepare(model, *losses): return model, *losses
def rank(): return 0
def world_size(): return 1
def is_main(): return True
def shard_rows(n): return range(n)
def gather_rows(r): return r
@contextmanager
def initialize(device="cpu"):
    yield torch.device(device)
